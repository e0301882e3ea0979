// From an artifact's URL to a model that runs: the whole load, stage by stage. Runs in the worker.
//
// manifest -> what can run here -> tensor cache and texts -> the first variant that starts (startVariant) -> session

import type { LoadProgress } from "./api";
import { noCache, openCache } from "./artifact/cache";
import { fail, GIB } from "./artifact/checks";
import { compose, type Module } from "./artifact/choice";
import { Fetcher, inOrder } from "./artifact/fetch";
import { parseManifest, parseTensorCache } from "./artifact/manifest";
import { parsePlan } from "./artifact/plan";
import type { FileEntry, Manifest, Plan, TensorCache, Variant } from "./artifact/schema";
import { probe, requestDevice } from "./backend/adapter";
import type { Backend, BufferHandle } from "./backend/backend";
import { eligible, inspect, negotiate } from "./backend/negotiate";
import { LIMIT_BYTES, memoryNeeded, WasmBackend, wasmSupport } from "./backend/wasm";
import { WebGPUBackend } from "./backend/webgpu";
import { DeviceError, RequestError } from "./errors";
import type { LoadOptions } from "./protocol";
import { Runner, type RunnerOptions, type Running } from "./recovery";
import { allocate, bufferSizes, Replay } from "./runtime/replay";
import { Session } from "./runtime/session";
import { planUploads } from "./runtime/upload";
import { type ChatTemplate, chatTemplateOf } from "./text/chat-template";
import { Tokenizer } from "./text/tokenizer";
import { decide, measure, TuningMemory, UNTUNED } from "./tuning";

/** Shards under way or waiting for their upload. */
const SHARDS_AHEAD = 2;
const CONSTANTS = "constants.bin";

/** What is read of an artifact whichever variant runs, once; validated. */
export interface Artifact {
  manifest: Manifest;
  weights: TensorCache;
  contextLength: number;
  tokenizer: Tokenizer | undefined;
  template: ChatTemplate | undefined;
  fetcher: Fetcher;
  meter: ProgressMeter;
  threads: number | undefined;
  memory: TuningMemory;
  autotune: boolean | undefined;
}

export interface LoadedModel {
  artifact: Artifact;
  runner: Runner;
  session: Session;
  loadMs: number;
}

/** Adds up what has arrived, of what this load needs. */
class ProgressMeter {
  private state: LoadProgress = { phase: "manifest", loadedBytes: 0, totalBytes: 0, cachedBytes: 0 };
  private common = this.state;

  constructor(private readonly report: (progress: LoadProgress) => void) {}

  enter(phase: LoadProgress["phase"]): void {
    this.state.phase = phase;
    this.send();
  }

  add(bytes: number, fromCache: boolean): void {
    this.state.loadedBytes += bytes;
    if (fromCache) this.state.cachedBytes += bytes;
    this.send();
  }

  /** What has arrived so far serves every variant. */
  keep(): void {
    this.common = { ...this.state };
  }

  /** A variant is started: of what it needs for itself nothing is here yet. */
  restart(): void {
    this.state = { ...this.common };
  }

  expect(bytes: number): void {
    this.state.totalBytes = this.common.loadedBytes + bytes;
  }

  private send(): void {
    this.report({ ...this.state });
  }
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
  const start = (variant: Variant, until: AbortSignal) => startVariant(artifact, variant, until);
  const runner = await Runner.start({ candidates, fixed: options.backend !== "auto", start, ...events }, signal);
  const session = new Session(runner.running.machine, (failed, error) => runner.replace(failed, error));
  try {
    await cache.prune(base, new Set([`${base}model.json`, ...memory.keys, ...[...manifest.files].map(([path, entry]) => fetcher.url(path, entry))]));
    signal.throwIfAborted();
    meter.enter("ready");
    return { artifact, runner, session, loadMs: performance.now() - startedAt };
  } catch (error) {
    runner.dispose();
    throw error;
  }
}

/**
 * One variant: plan -> device -> kernels and weights at once -> machine, measured or remembered alternatives in it. No weight
 * is fetched for a device that cannot hold it.
 */
async function startVariant(artifact: Artifact, variant: Variant, signal: AbortSignal, mayMeasure = true): Promise<Running> {
  const { manifest, weights, contextLength, meter, memory, autotune } = artifact;
  const failure = new AbortController();
  const ends = AbortSignal.any([signal, failure.signal]);
  const fetcher = artifact.fetcher.until(ends);
  meter.restart();
  const file = kernelsPath(variant);
  const [planJson, ownKernels] = await Promise.all([fetcher.json(variant.plan, entryOf(manifest, variant.plan)), fetcher.file(file, entryOf(manifest, file))]);
  const plan = parsePlan(planJson, manifest, variant, weights);
  signal.throwIfAborted();
  const device = await openDevice(variant, artifact.threads);
  const { backend } = device;
  let measuring = false;
  try {
    if (variant.backend === "wasm") checkMemory(plan, contextLength, device.threads);
    const decision = await decide(memory, mayMeasure ? autotune : false, { manifest, variant, plan, adapter: device.adapter });
    const whole = { plan, modules: [{ file, kernels: plan.kernels }] };
    const composed = decision.kind === "remembered" ? compose(plan, file, decision.choice) : whole;
    const buffers = await allocate(backend, plan, contextLength);
    const files = [...composed.modules.map((module) => module.file), ...(decision.kind === "measure" ? decision.alternatives.map((a) => a.kernelsFile) : [])];
    meter.expect(variantBytes(manifest, variant, plan, weights, files));
    meter.enter("weights");
    const compileStart = performance.now();
    const load = (path: string) => (path === file ? Promise.resolve(ownKernels) : fetcher.file(path, entryOf(manifest, path)));
    const compiled = compile(backend, variant, composed.modules, load).then(() => performance.now() - compileStart);
    const uploaded = uploadWeights(fetcher, backend, manifest, plan, weights, buffers, ends).then(() => meter.enter("kernels"));
    const [compileMs] = await Promise.all([compiled, uploaded]);
    const own = new Replay(backend, composed.plan, buffers, contextLength);
    await backend.idle();
    signal.throwIfAborted();
    const running = { ...device, variant, compileMs };
    if (decision.kind === "own") return { ...running, machine: own, tuning: UNTUNED, tuneMs: 0 };
    if (decision.kind === "remembered") return { ...running, machine: own, tuning: { ...UNTUNED, source: "remembered", programs: decision.choice }, tuneMs: 0 };
    measuring = true;
    const tuneStart = performance.now();
    const read = async (path: string) => new TextDecoder().decode(await load(path));
    const measured = await measure(memory, decision, { backend, plan, buffers, capacity: contextLength, own, read, signal: ends });
    return { ...running, ...measured, tuneMs: performance.now() - tuneStart };
  } catch (error) {
    failure.abort(); // A kernel that does not compile ends the download.
    backend.dispose();
    if (measuring && error instanceof DeviceError && !signal.aborted) return startVariant(artifact, variant, signal, false);
    throw error;
  }
}

async function openDevice(variant: Variant, threads: number | undefined): Promise<Pick<Running, "backend" | "adapter" | "threads" | "hints">> {
  switch (variant.backend) {
    case "webgpu": {
      // A new adapter each time: one that has given a device gives no other.
      const gpu = await probe();
      if (gpu.adapter === undefined) throw gpu.error;
      return { backend: new WebGPUBackend(await requestDevice(gpu.adapter, variant)), adapter: gpu.info, threads: 0, hints: [] };
    }
    case "wasm": {
      const backend = await WasmBackend.create({ threads });
      const description = `CPU, ${backend.threads === 1 ? "1 thread" : `${backend.threads} threads`}, ${backend.relaxed ? "relaxed SIMD" : "SIMD"}`;
      const adapter = { vendor: "", architecture: "", device: "", description, isFallback: true };
      return { backend, adapter, threads: backend.threads, hints: wasmSupport().sharedMemory ? [] : [ONE_THREAD] };
    }
  }
}

const ONE_THREAD =
  "The page is not cross-origin isolated, so one thread computes. Serve the page and the engine's files with the headers " +
  "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp, or register isolation.js, which adds them.";

/** The CPU's kernels are a module, with relaxed SIMD where the artifact and the engine have it; the GPU's are text. */
async function compile(
  backend: Backend,
  variant: Variant,
  modules: readonly Module[],
  load: (path: string) => Promise<Uint8Array<ArrayBuffer>>,
): Promise<void> {
  for (const { file, kernels } of modules) {
    const bytes = await load(file);
    await backend.compile(variant.backend === "wasm" ? bytes : new TextDecoder().decode(bytes), kernels);
  }
}

function kernelsPath({ kernels, kernelsRelaxed }: Variant): string {
  return kernelsRelaxed !== undefined && wasmSupport().relaxedSimd ? kernelsRelaxed : kernels;
}

function checkMemory(plan: Plan, contextLength: number, threads: number): void {
  const needed = memoryNeeded(bufferSizes(plan, contextLength), threads);
  if (needed <= LIMIT_BYTES) return;
  const gib = (bytes: number) => `${(bytes / GIB).toFixed(1)} GiB`;
  throw new DeviceError("out-of-memory", {
    what: `The model needs more memory with a context of ${contextLength} tokens than WebAssembly offers`,
    got: gib(needed),
    expected: `at most ${gib(LIMIT_BYTES)}`,
    remedy: "Give a smaller contextLength, or use a device with WebGPU.",
  });
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

function entryOf(manifest: Manifest, path: string): FileEntry {
  return manifest.files.get(path) ?? fail("model.json", `files has no ${path}`, undefined, "its size and SHA-256");
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

function needsConstants(plan: Plan): boolean {
  return plan.buffers.some((buffer) => buffer.kind === "constant");
}

/** What this variant needs beyond what every one needs. @param kernels the files of its kernels */
function variantBytes(manifest: Manifest, variant: Variant, plan: Plan, weights: TensorCache, kernels: readonly string[]): number {
  const shards = [...planUploads(plan, weights).keys()].map((shard) => shard.path);
  const paths = [variant.plan, ...kernels, ...(needsConstants(plan) ? [CONSTANTS] : []), ...shards];
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
