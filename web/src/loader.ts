// From an artifact's URL to a model that runs: the whole load, stage by stage. Runs in the worker.
//
// manifest -> variant -> plan and tensor cache (validated whole) -> device -> kernels and weights at once -> session

import type { AdapterInfo, LoadProgress, SkippedVariant } from "./api";
import { noCache, openCache } from "./artifact/cache";
import { fail } from "./artifact/checks";
import { Fetcher, inOrder } from "./artifact/fetch";
import { parseManifest, parseTensorCache } from "./artifact/manifest";
import { parsePlan } from "./artifact/plan";
import type { FileEntry, Manifest, Plan, TensorCache, Variant } from "./artifact/schema";
import { negotiate, probe, requestDevice } from "./backend/adapter";
import type { Backend, BufferHandle } from "./backend/backend";
import { WebGPUBackend } from "./backend/webgpu";
import { RequestError } from "./errors";
import type { LoadOptions } from "./protocol";
import { allocate, Replay } from "./runtime/replay";
import { Session } from "./runtime/session";
import { planUploads } from "./runtime/upload";
import { type ChatTemplate, chatTemplateOf } from "./text/chat-template";
import { Tokenizer } from "./text/tokenizer";

/** Shards under way or waiting for their upload. */
const SHARDS_AHEAD = 2;
const CONSTANTS = "constants.bin";

export interface LoadedModel {
  manifest: Manifest;
  variant: Variant;
  skipped: SkippedVariant[];
  adapter: AdapterInfo;
  contextLength: number;
  backend: Backend;
  session: Session;
  tokenizer: Tokenizer | undefined;
  template: ChatTemplate | undefined;
  fetcher: Fetcher;
  loadMs: number;
  compileMs: number;
}

/** Adds up what has arrived, of what this load needs. */
class ProgressMeter {
  private readonly state: LoadProgress = { phase: "manifest", loadedBytes: 0, totalBytes: 0, cachedBytes: 0 };

  constructor(private readonly report: (progress: LoadProgress) => void) {}

  enter(phase: LoadProgress["phase"], totalBytes = this.state.totalBytes): void {
    Object.assign(this.state, { phase, totalBytes });
    this.send();
  }

  add(bytes: number, fromCache: boolean): void {
    this.state.loadedBytes += bytes;
    if (fromCache) this.state.cachedBytes += bytes;
    this.send();
  }

  private send(): void {
    this.report({ ...this.state });
  }
}

/**
 * @param url the artifact's directory, absolute
 * @throws ArtifactError, NetworkError, DeviceError, RequestError; whatever was made is disposed of then
 */
export async function load(
  url: string,
  options: LoadOptions,
  signal: AbortSignal,
  onProgress: (progress: LoadProgress) => void,
): Promise<LoadedModel> {
  const startedAt = performance.now();
  const base = url.endsWith("/") ? url : `${url}/`;
  const cache = options.cache ? await openCache() : noCache;
  const meter = new ProgressMeter(onProgress);
  const failure = new AbortController();
  const ends = AbortSignal.any([signal, failure.signal]);
  const fetcher = new Fetcher({ base, cache, signal: ends, onBytes: (bytes, fromCache) => meter.add(bytes, fromCache) });
  meter.enter("manifest");

  const manifest = parseManifest(await fetcher.manifest());
  const contextLength = capacity(options.contextLength, manifest);
  const device = await probe();
  const { variant, skipped } = negotiate(manifest.variants, device, options.backend);
  if (device.adapter === undefined) throw device.error;

  const [weightsJson, planJson, source, texts] = await Promise.all([
    fetcher.json(manifest.weights, entryOf(manifest, manifest.weights)),
    fetcher.json(variant.plan, entryOf(manifest, variant.plan)),
    fetcher.text(variant.kernels, entryOf(manifest, variant.kernels)),
    loadTexts(fetcher, manifest),
  ]);
  const weights = parseTensorCache(weightsJson, manifest);
  const plan = parsePlan(planJson, manifest, variant, weights);
  signal.throwIfAborted();

  const backend = new WebGPUBackend(await requestDevice(device.adapter, variant));
  try {
    const buffers = await allocate(backend, plan, contextLength);
    meter.enter("weights", totalBytes(manifest, variant, plan, weights));
    const compileStart = performance.now();
    const compiled = backend.compile(source, plan.kernels).then(() => performance.now() - compileStart);
    const uploaded = uploadWeights(fetcher, backend, manifest, plan, weights, buffers, ends).then(() => meter.enter("kernels"));
    const [compileMs] = await Promise.all([compiled, uploaded]);
    const session = new Session(new Replay(backend, plan, buffers, contextLength));
    await backend.idle();
    signal.throwIfAborted();
    await cache.prune(base, new Set([`${base}model.json`, ...[...manifest.files].map(([path, entry]) => fetcher.url(path, entry))]));
    meter.enter("ready");
    const loadMs = performance.now() - startedAt;
    return { manifest, variant, skipped, adapter: device.info, contextLength, backend, session, ...texts, fetcher, loadMs, compileMs };
  } catch (error) {
    failure.abort(); // A kernel that does not compile ends the download.
    backend.dispose();
    throw error;
  }
}

function capacity(wanted: number | undefined, manifest: Manifest): number {
  if (wanted === undefined) return manifest.context;
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > manifest.context)
    throw new RequestError({ what: "contextLength", got: String(wanted), expected: `an integer from 1 to ${manifest.context}` });
  return wanted;
}

function entryOf(manifest: Manifest, path: string): FileEntry {
  return manifest.files.get(path) ?? fail("model.json", `files has no ${path}`, undefined, "its size and SHA-256");
}

/** The tokenizer and the template; an artifact may lack both and still serve logits and generateIds. */
async function loadTexts(fetcher: Fetcher, manifest: Manifest): Promise<Pick<LoadedModel, "tokenizer" | "template">> {
  const read = async (name: string): Promise<Record<string, unknown> | undefined> => {
    if (!manifest.tokenizer.includes(name)) return undefined;
    return (await fetcher.json(name, entryOf(manifest, name))) as Record<string, unknown>;
  };
  const [json, config] = await Promise.all([read("tokenizer.json"), read("tokenizer_config.json")]);
  const tokenizer = json === undefined ? undefined : new Tokenizer(json, config ?? {});
  if (manifest.chatTemplate === null || tokenizer === undefined) return { tokenizer, template: undefined };
  return { tokenizer, template: chatTemplateOf(manifest.chatTemplate, tokenizer, manifest.bosTokenId, manifest.stopTokenIds[0]) };
}

function needsConstants(plan: Plan): boolean {
  return plan.buffers.some((buffer) => buffer.kind === "constant");
}

function totalBytes(manifest: Manifest, variant: Variant, plan: Plan, weights: TensorCache): number {
  const small = [manifest.weights, variant.plan, variant.kernels, ...manifest.tokenizer.filter((name) => /^tokenizer(_config)?\.json$/.test(name))];
  const paths = [...small, ...(needsConstants(plan) ? [CONSTANTS] : []), ...[...planUploads(plan, weights).keys()].map((shard) => shard.path)];
  return paths.reduce((sum, path) => sum + entryOf(manifest, path).bytes, 0);
}

/** Two shards under way, one being uploaded: JavaScript never holds the model. */
async function uploadWeights(
  fetcher: Fetcher,
  backend: Backend,
  manifest: Manifest,
  plan: Plan,
  weights: TensorCache,
  buffers: readonly BufferHandle[],
  signal: AbortSignal,
): Promise<void> {
  const write = (index: number, offset: number, data: Uint8Array<ArrayBuffer>) => {
    const handle = buffers[index];
    if (handle === undefined) throw new Error(`buffer ${index} is not allocated`);
    backend.write(handle, offset, data);
  };
  if (needsConstants(plan)) {
    const constants = await fetcher.file(CONSTANTS, entryOf(manifest, CONSTANTS));
    plan.buffers.forEach((buffer, i) => {
      if (buffer.kind === "constant") write(i, 0, constants.subarray(buffer.offset, buffer.offset + buffer.bytes));
    });
  }
  const uploads = [...planUploads(plan, weights)];
  for await (const [[, pieces], bytes] of inOrder(uploads, SHARDS_AHEAD, ([shard]) => fetcher.file(shard.path, entryOf(manifest, shard.path)))) {
    signal.throwIfAborted();
    for (const { buffer, offset, from, to } of pieces) write(buffer, offset, bytes.subarray(from, to));
    await backend.idle();
  }
}
