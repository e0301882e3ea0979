// From an artifact's URL to a model that runs: the whole load, stage by stage. Runs in the worker.
//
// model.json -> what can run here -> tensor cache, texts and the first variant that starts, side by side -> session
//
// When the artifact turns out to have been replaced meanwhile, or the network gives no more of it, the load begins again with
// the model.json of now, or with the one whose files are all here.

import { anySignal } from "../../artifact/abort";
import type { LoadProgress } from "../../api/types";
import { openCache } from "../../artifact/cache";
import { noCache } from "../../artifact/file-cache";
import { type Address, addressOf, type Description, Fetcher, isOutdated } from "../../artifact/fetch";
import { inUse } from "../../artifact/locks";
import { parseManifest, parseTensorCache } from "../../artifact/manifest";
import type { Manifest } from "../../artifact/schema";
import { ArtifactStore, sameBytes } from "../../artifact/store";
import { type FetchFunction, Network } from "../../artifact/transfer";
import { checkThreads } from "../../backend/wasm/pool";
import { eligible, inspect, keeping, type Kv, negotiate, twinOf } from "../../backend/negotiate";
import { DeviceError, NetworkError, RequestError, type WispError } from "../../api/errors";
import { checkNumber } from "../../api/options";
import { entryOf, textFiles, TEXTS } from "./needs";
import { ProgressMeter } from "./progress";
import { storageNotices } from "./room";
import { loadJinja, loadTokenizers } from "./text-files";
import { type Artifact, startVariant } from "./variant";

import type { LoadOptions } from "../../protocol/messages";
import { Supervisor, type SupervisorOptions } from "../supervisor";
import { Session } from "../../runtime/session";
import { ChatTemplate, sourceProgram, specialTokensOf } from "../../text/chat-template";
import { ControlTokens } from "../../text/contents";
import { Tokenizer } from "../../text/tokenizer";
import { TurnWriter } from "../../text/turns";
import { TuningMemory } from "../../runtime/tuning";

/** An artifact may lack both and still serve logits and generateIds. */
interface Texts {
  tokenizer: Tokenizer | undefined;
  /** Undefined: it has no chat template. */
  turns: TurnWriter | undefined;
}

export interface LoadedModel {
  artifact: Artifact & Texts;
  supervisor: Supervisor;
  session: Session;
  /** What is otherwise than one would expect of the load, in plain words. */
  notices: readonly string[];
  loadMs: number;
}

/** What the model tells while it runs. */
export type SupervisorEvents = Pick<SupervisorOptions, "onRecovering" | "onMoved" | "onLost">;

export interface LoadEvents extends SupervisorEvents {
  /** Files will be kept: the page may ask the browser not to delete them. */
  onKeeping?: () => void;
}

/** How often a load begins again because the artifact was replaced under it, or its network went away. */
const MOST_RESTARTS = 3;

/**
 * @param url the artifact's directory, absolute; its query goes with every request
 * @param fetch in place of the worker's own
 * @throws ArtifactError, NetworkError, DeviceError, RequestError; whatever was made is disposed of then
 */
export function load(
  url: string,
  options: LoadOptions,
  signal: AbortSignal,
  onProgress: (progress: LoadProgress) => void,
  events: LoadEvents = {},
  fetch?: FetchFunction,
): Promise<LoadedModel> {
  const address = addressOf(url);
  return inUse(address.base, () => loadFrom(address, options, signal, onProgress, events, fetch));
}

async function loadFrom(
  address: Address,
  options: LoadOptions,
  signal: AbortSignal,
  onProgress: (progress: LoadProgress) => void,
  events: LoadEvents,
  fetch: FetchFunction | undefined,
): Promise<LoadedModel> {
  const startedAt = performance.now();
  const checked = { threads: checkThreads(options.threads), autotune: checkAutotune(options.autotune) };
  const wanted = { backend: options.backend, kv: checkKv(options.kv) };
  const meter = new ProgressMeter(onProgress);
  meter.enter("manifest");
  const cache = options.cache ? await openCache() : noCache;
  if (cache.stores) events.onKeeping?.();
  const store = new ArtifactStore(cache, address.base);
  const memory = new TuningMemory(cache, address.base);
  const fetcher = new Fetcher({
    address,
    store,
    network: new Network(fetch, options.headers),
    signal,
    onWaiting: (reason) => meter.wait(reason),
  });
  let description = await fetcher.description(parseManifest);
  for (let restarts = 0; ; restarts++) {
    const { manifest, bytes, notice } = description;
    try {
      const context = { tokens: capacity(options.contextLength, manifest), asked: options.contextLength !== undefined };
      const loaded = await loadDescribed(
        { manifest, description: bytes, context, fetcher, store, meter, memory, ...checked },
        wanted,
        signal,
        events,
      );
      try {
        await store.complete(bytes);
        signal.throwIfAborted();
        const notices = [...(notice === undefined ? [] : [notice]), ...(await storageNotices(store))];
        meter.enter("ready");
        return { ...loaded, notices, loadMs: performance.now() - startedAt };
      } catch (error) {
        loaded.supervisor.dispose();
        throw error;
      }
    } catch (error) {
      const other = signal.aborted || restarts === MOST_RESTARTS ? undefined : await another(fetcher, description, error);
      if (other === undefined) throw error;
      description = other;
      meter.enter("manifest");
    }
  }
}

/** The model.json to try after `error` ended the load of `description`; undefined: none. */
async function another(fetcher: Fetcher, description: Description, error: unknown): Promise<Description | undefined> {
  if (!(error instanceof NetworkError)) return undefined;
  const latest = isOutdated(error) ? await fetcher.description(parseManifest).catch(() => undefined) : undefined;
  if (latest !== undefined && !sameBytes(latest.bytes, description.bytes)) return latest;
  const kept = await fetcher.kept(parseManifest);
  if (kept === undefined || sameBytes(kept.bytes, description.bytes)) return undefined;
  return { ...kept, notice: `An earlier copy of the model in this browser is used, as the new one cannot be downloaded: ${error.message}` };
}

/** Everything after model.json. The texts are read while the variant starts; whatever fails first ends the rest. */
async function loadDescribed(
  common: Omit<Artifact, "weights">,
  { backend, kv }: { backend: string; kv: Kv },
  signal: AbortSignal,
  { onRecovering, onMoved, onLost }: SupervisorEvents,
): Promise<Pick<LoadedModel, "artifact" | "supervisor" | "session">> {
  const { manifest, meter, store } = common;
  const variants = keeping(manifest.variants, kv);
  const candidates = negotiate(variants, await inspect(eligible(variants, backend)), backend);
  const failure = new AbortController();
  const ends = anySignal([signal, failure.signal]);
  const part = meter.part();
  const fetcher = common.fetcher.until(ends, part.add);
  const paths = [manifest.weights, ...textFiles(manifest)];
  part.expect(paths.reduce((sum, path) => sum + entryOf(manifest, path).bytes, 0));
  const weights = fetcher.json(manifest.weights, entryOf(manifest, manifest.weights)).then((json) => parseTensorCache(json, manifest));
  const texts = loadTexts(fetcher, manifest);
  const artifact: Artifact = { ...common, weights };
  const supervisorEvents = {
    ...(onMoved === undefined ? {} : { onMoved }),
    ...(onLost === undefined ? {} : { onLost }),
    onRecovering: (error: WispError) => {
      meter.restart();
      onRecovering?.(store.stores ? error : downloadingAgain(error, manifest));
    },
  };
  const able = candidates.filter(({ obstacle }) => obstacle === undefined).map(({ variant }) => variant);
  const start: SupervisorOptions["start"] = (variant, until, gently) =>
    startVariant(artifact, variant, until, { gently, twin: twinOf(variant, able) });
  const starting = Supervisor.start({ candidates, fixed: backend !== "auto", start, ...supervisorEvents }, ends);
  try {
    const [supervisor, found] = await Promise.all([starting, texts, weights]);
    const session = new Session(supervisor.running.runner, (failed, error) => supervisor.replace(failed, error));
    await session.measureLatency();
    return { artifact: { ...artifact, ...found }, supervisor, session };
  } catch (error) {
    failure.abort();
    starting.then(
      (supervisor) => supervisor.dispose(),
      () => undefined,
    );
    part.drop();
    throw error;
  }
}

function downloadingAgain({ kind, what, got, expected }: WispError, { weightBytes }: Manifest): WispError {
  const size = `${Math.ceil(weightBytes / 1e6).toLocaleString("en-US")} MB`;
  return new DeviceError(kind, {
    what: `${what}. The weights were not kept in this browser and are downloaded again (${size})`,
    got,
    expected,
  });
}

function checkKv(kv: string): Kv {
  if (kv === "auto" || kv === "f16" || kv === "q8") return kv;
  throw new RequestError({ what: "kv", got: JSON.stringify(kv), expected: '"auto", "f16" or "q8"' });
}

function checkAutotune(autotune: unknown): boolean | undefined {
  if (autotune !== undefined && typeof autotune !== "boolean")
    throw new RequestError({ what: "autotune", got: JSON.stringify(autotune), expected: "true or false" });
  return autotune;
}

function capacity(wanted: number | undefined, manifest: Manifest): number {
  return wanted === undefined
    ? manifest.context
    : checkNumber("contextLength", wanted, { least: 1, most: manifest.context, integer: true });
}

async function loadTexts(fetcher: Fetcher, manifest: Manifest): Promise<Texts> {
  const files = textFiles(manifest);
  const { chatTemplate: source, chatTemplateTree: tree, bosTokenId, stopTokenIds } = manifest;
  const hasTokenizer = files.includes("tokenizer.json");
  // What they need of the engine comes while they do.
  const library = hasTokenizer ? loadTokenizers() : undefined;
  const jinja = hasTokenizer && tree !== undefined ? loadJinja() : undefined;
  const read = async (name: string): Promise<Record<string, unknown> | undefined> =>
    files.includes(name) ? ((await fetcher.json(name, entryOf(manifest, name))) as Record<string, unknown>) : undefined;
  const [json, config, tokenizers, trees] = await Promise.all([read(TEXTS[0]), read(TEXTS[1]), library, jinja]);
  const tokenizer = json === undefined || tokenizers === undefined ? undefined : new Tokenizer(json, config ?? {}, tokenizers);
  if (source === null || tokenizer === undefined) return { tokenizer, turns: undefined };
  const program = tree === undefined || trees === undefined ? await sourceProgram(source) : trees.treeProgram(tree);
  const template = new ChatTemplate(program, specialTokensOf(tokenizer, bosTokenId, stopTokenIds[0]), source);
  return { tokenizer, turns: new TurnWriter(template, new ControlTokens(tokenizer.addedTokens, source)) };
}
