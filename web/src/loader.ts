// From an artifact's URL to a model that runs: the whole load, stage by stage. Runs in the worker.
//
// manifest -> what can run here -> tensor cache and texts -> the first variant that starts (startVariant) -> session

import type { LoadProgress } from "./api";
import { noCache, openCache } from "./artifact/cache";
import { Fetcher } from "./artifact/fetch";
import { parseManifest, parseTensorCache } from "./artifact/manifest";
import type { Manifest } from "./artifact/schema";
import { eligible, inspect, negotiate } from "./backend/negotiate";
import { RequestError } from "./errors";
import { ProgressMeter } from "./load/progress";
import { type Artifact, startVariant } from "./load/variant";
import { entryOf } from "./load/weights";
import type { LoadOptions } from "./protocol";
import { Runner, type RunnerOptions } from "./recovery";
import { Session } from "./runtime/session";
import { chatTemplateOf } from "./text/chat-template";
import { Tokenizer } from "./text/tokenizer";
import { TuningMemory } from "./tuning";

export interface LoadedModel {
  artifact: Artifact;
  runner: Runner;
  session: Session;
  loadMs: number;
}

/** What the model tells while it runs. */
export type RunnerEvents = Pick<RunnerOptions, "onRecovering" | "onMoved" | "onLost">;

/**
 * @param url the artifact's directory, absolute
 * @throws ArtifactError, NetworkError, DeviceError, RequestError; whatever was made is disposed of then
 */
export async function load(
  url: string,
  options: LoadOptions,
  signal: AbortSignal,
  onProgress: (progress: LoadProgress) => void,
  events: RunnerEvents = {},
): Promise<LoadedModel> {
  const startedAt = performance.now();
  const base = url.endsWith("/") ? url : `${url}/`;
  const cache = options.cache ? await openCache() : noCache;
  const meter = new ProgressMeter(onProgress);
  const fetcher = new Fetcher({ base, cache, signal, onBytes: (bytes, fromCache) => meter.add(bytes, fromCache) });
  meter.enter("manifest");

  const threads = checkThreads(options.threads);
  const autotune = checkAutotune(options.autotune);
  const memory = new TuningMemory(cache, base);
  const manifest = parseManifest(await fetcher.manifest());
  const contextLength = capacity(options.contextLength, manifest);
  const candidates = negotiate(manifest.variants, await inspect(eligible(manifest.variants, options.backend)), options.backend);

  const [weightsJson, texts] = await Promise.all([
    fetcher.json(manifest.weights, entryOf(manifest, manifest.weights)),
    loadTexts(fetcher, manifest),
  ]);
  const weights = parseTensorCache(weightsJson, manifest);
  meter.keep();
  const artifact: Artifact = { manifest, weights, contextLength, ...texts, fetcher, meter, threads, memory, autotune };
  const start: RunnerOptions["start"] = (variant, until, gently) => startVariant(artifact, variant, until, { gently });
  const runner = await Runner.start({ candidates, fixed: options.backend !== "auto", start, ...events }, signal);
  const session = new Session(runner.running.machine, (failed, error) => runner.replace(failed, error));
  try {
    await cache.prune(base, new Set([`${base}model.json`, ...memory.keys, ...[...manifest.files].map(([path, entry]) => fetcher.url(path, entry))]));
    await session.measureLatency();
    signal.throwIfAborted();
    meter.enter("ready");
    return { artifact, runner, session, loadMs: performance.now() - startedAt };
  } catch (error) {
    runner.dispose();
    throw error;
  }
}

const MOST_THREADS = 64;

function checkThreads(threads: number | undefined): number | undefined {
  if (threads !== undefined && (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS))
    throw new RequestError({ what: "threads", got: String(threads), expected: `an integer from 1 to ${MOST_THREADS}` });
  return threads;
}

function checkAutotune(autotune: unknown): boolean | undefined {
  if (autotune !== undefined && typeof autotune !== "boolean") throw new RequestError({ what: "autotune", got: JSON.stringify(autotune), expected: "true or false" });
  return autotune;
}

function capacity(wanted: number | undefined, manifest: Manifest): number {
  if (wanted === undefined) return manifest.context;
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > manifest.context)
    throw new RequestError({ what: "contextLength", got: String(wanted), expected: `an integer from 1 to ${manifest.context}` });
  return wanted;
}

/** The tokenizer and the template; an artifact may lack both and still serve logits and generateIds. */
async function loadTexts(fetcher: Fetcher, manifest: Manifest): Promise<Pick<Artifact, "tokenizer" | "template">> {
  const read = async (name: string): Promise<Record<string, unknown> | undefined> => {
    if (!manifest.tokenizer.includes(name)) return undefined;
    return (await fetcher.json(name, entryOf(manifest, name))) as Record<string, unknown>;
  };
  const [json, config] = await Promise.all([read("tokenizer.json"), read("tokenizer_config.json")]);
  const tokenizer = json === undefined ? undefined : new Tokenizer(json, config ?? {});
  if (manifest.chatTemplate === null || tokenizer === undefined) return { tokenizer, template: undefined };
  return { tokenizer, template: chatTemplateOf(manifest.chatTemplate, tokenizer, manifest.bosTokenId, manifest.stopTokenIds[0]) };
}
