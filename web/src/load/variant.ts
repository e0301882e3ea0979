// Starts one variant of an artifact: from its plan to a machine that runs on a device.

import { GIB } from "../artifact/checks";
import { compose, type Module } from "../artifact/choice";
import type { Fetcher } from "../artifact/fetch";
import { parsePlan } from "../artifact/plan";
import type { Manifest, Plan, TensorCache, Variant } from "../artifact/schema";
import { probe, requestDevice } from "../backend/adapter";
import type { Backend } from "../backend/backend";
import { LIMIT_BYTES, memoryNeeded, WasmBackend, wasmSupport } from "../backend/wasm";
import { WebGPUBackend } from "../backend/webgpu";
import { DeviceError } from "../errors";
import type { Running } from "../recovery";
import { allocate, bufferSizes, Replay } from "../runtime/replay";
import { smokeTest } from "../runtime/smoke";
import type { ChatTemplate } from "../text/chat-template";
import type { Tokenizer } from "../text/tokenizer";
import { decide, measure, type TuningMemory, UNTUNED } from "../tuning";
import type { ProgressMeter } from "./progress";
import { entryOf, uploadWeights, variantBytes } from "./weights";

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

/**
 * One variant: plan -> device -> kernels and weights at once -> machine, measured or remembered alternatives in it, which
 * computes what the artifact says. No weight is fetched for a device that cannot hold it.
 */
export async function startVariant(artifact: Artifact, variant: Variant, signal: AbortSignal, { gently = false, mayMeasure = true } = {}): Promise<Running> {
  const { manifest, weights, contextLength, meter, memory, autotune } = artifact;
  const failure = new AbortController();
  const ends = AbortSignal.any([signal, failure.signal]);
  const fetcher = artifact.fetcher.until(ends);
  meter.restart();
  const file = kernelsPath(variant);
  const [planJson, ownKernels] = await Promise.all([fetcher.json(variant.plan, entryOf(manifest, variant.plan)), fetcher.file(file, entryOf(manifest, file))]);
  const plan = parsePlan(planJson, manifest, variant, weights);
  signal.throwIfAborted();
  const device = await openDevice(variant, artifact.threads, gently);
  const { backend } = device;
  /** Kernels that are not the plan's own may be to blame: the next attempt is without them. */
  let foreign = false;
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
    let running: Running = { ...device, variant, compileMs, machine: own, tuning: UNTUNED, tuneMs: 0 };
    if (decision.kind === "remembered") running.tuning = { ...UNTUNED, source: "remembered", programs: decision.choice };
    if (decision.kind === "measure") {
      foreign = true;
      const tuneStart = performance.now();
      const read = async (path: string) => new TextDecoder().decode(await load(path));
      const measured = await measure(memory, decision, { backend, plan, buffers, capacity: contextLength, own, read, signal: ends });
      running = { ...running, ...measured, tuneMs: performance.now() - tuneStart };
    }
    foreign = Object.keys(running.tuning.programs).length > 0;
    if (manifest.smoke !== undefined) await smokeTest(running.machine, manifest.smoke);
    return running;
  } catch (error) {
    failure.abort(); // A kernel that does not compile ends the download.
    backend.dispose();
    if (!foreign || !(error instanceof DeviceError) || signal.aborted) throw error;
    const wrong = error.kind === "wrong-results";
    if (wrong) await memory.put(memory.key(manifest, variant, plan, device.adapter), { choice: {}, tries: 0, final: true });
    return startVariant(artifact, variant, signal, { gently: gently || !wrong, mayMeasure: false });
  }
}

/** In a submit, on a device that was lost: a driver may have thought that it hangs. */
const GENTLE_DISPATCHES = 16;

async function openDevice(variant: Variant, threads: number | undefined, gently: boolean): Promise<Pick<Running, "backend" | "adapter" | "threads" | "hints">> {
  switch (variant.backend) {
    case "webgpu": {
      // A new adapter each time: one that has given a device gives no other.
      const gpu = await probe();
      if (gpu.adapter === undefined) throw gpu.error;
      return { backend: new WebGPUBackend(await requestDevice(gpu.adapter, variant), gently ? GENTLE_DISPATCHES : Infinity), adapter: gpu.info, threads: 0, hints: [] };
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
