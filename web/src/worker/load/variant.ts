// Starts one variant of an artifact: from its plan to a plan runner on a device.

import { anySignal } from "../../artifact/abort";
import { compose, type Module } from "../../artifact/choice";
import type { Fetcher } from "../../artifact/fetch";
import { parsePlan } from "../../artifact/plan";
import type { ArtifactStore } from "../../artifact/store";
import type { Manifest, Plan, TensorCache, Variant } from "../../artifact/schema";
import { probe, requestDevice } from "../../backend/webgpu/adapter";
import type { Backend } from "../../backend/backend";
import { WasmBackend, wasmSupport } from "../../backend/wasm/backend";
import { WebGPUBackend } from "../../backend/webgpu/backend";
import { DeviceError } from "../../api/errors";
import type { Running } from "../supervisor";
import { allocate, type PlanRunner, Replay } from "../../runtime/replay";
import { smokeTest } from "../../runtime/smoke";
import { decide, measure, type TuningMemory, UNTUNED } from "../../runtime/tuning";
import { isOutOfMemory, lowered, startWithin, type WantedContext, withinWasm } from "./context";
import type { ProgressMeter, ProgressPart } from "./progress";
import { checkRoom } from "./room";
import { entryOf, kernelsPath, variantFiles } from "./needs";
import { uploadWeights } from "./weights";

/** What is read of an artifact whichever variant runs, once; validated. */
export interface Artifact {
  manifest: Manifest;
  /** model.json. */
  description: Uint8Array<ArrayBuffer>;
  weights: Promise<TensorCache>;
  context: WantedContext;
  fetcher: Fetcher;
  store: ArtifactStore;
  meter: ProgressMeter;
  threads: number | undefined;
  memory: TuningMemory;
  autotune: boolean | undefined;
}

/** What of a variant does not depend on the device. */
interface Prepared {
  variant: Variant;
  plan: Plan;
  weights: TensorCache;
  /** Of the variant's own kernels. */
  file: string;
  kernels: Uint8Array<ArrayBuffer>;
}

/**
 * One variant: plan -> device -> kernels and weights at once -> runner, measured or remembered alternatives in it, which
 * computes what the artifact says. No weight is fetched for a device that cannot hold it.
 * @param twin what is tried next, with keys and values in 8 bits: rather than with less context this variant fails
 */
export async function startVariant(
  artifact: Artifact,
  variant: Variant,
  signal: AbortSignal,
  { gently = false, twin }: { gently?: boolean; twin?: Variant | undefined } = {},
): Promise<Running> {
  const { manifest, context, meter, threads } = artifact;
  const parts = { own: meter.part(), weights: meter.part() };
  try {
    const file = kernelsPath(variant);
    const fetcher = artifact.fetcher.until(signal, parts.own.add);
    parts.own.expect(entryOf(manifest, variant.plan).bytes + entryOf(manifest, file).bytes);
    const [json, kernels, weights] = await Promise.all([
      fetcher.json(variant.plan, entryOf(manifest, variant.plan)),
      fetcher.file(file, entryOf(manifest, file)),
      artifact.weights,
    ]);
    const prepared: Prepared = { variant, plan: parsePlan(json, manifest, variant, weights), weights, file, kernels };
    signal.throwIfAborted();
    const most = variant.backend === "wasm" ? withinWasm(prepared.plan, context, twin) : context.tokens;
    const start = (capacity: number) => {
      parts.weights.drop();
      parts.weights = meter.part();
      return startAt(artifact, prepared, { capacity, gently, mayMeasure: true }, parts.weights, signal);
    };
    if (twin !== undefined) return await start(most);
    const started = await startWithin({ ...context, tokens: most }, start, (capacity) => fits(prepared, capacity, threads));
    const { capacity } = started.runner;
    return most === context.tokens ? started : { ...started, notices: [lowered(context.tokens, capacity)] };
  } catch (error) {
    parts.own.drop();
    parts.weights.drop();
    throw error;
  }
}

/** Whether the device has memory for so many tokens. */
async function fits({ variant, plan }: Prepared, capacity: number, threads: number | undefined): Promise<boolean> {
  const { backend } = await openDevice(variant, threads, false);
  try {
    await allocate(backend, plan, capacity);
    return true;
  } catch (error) {
    if (isOutOfMemory(error)) return false;
    throw error;
  } finally {
    backend.dispose();
  }
}

interface Manner {
  /** Tokens that the KV cache holds. */
  capacity: number;
  /** With small submits. */
  gently: boolean;
  mayMeasure: boolean;
}

/** Whatever it made is disposed of when it throws. */
async function startAt(artifact: Artifact, prepared: Prepared, manner: Manner, part: ProgressPart, signal: AbortSignal): Promise<Running> {
  const { capacity, gently, mayMeasure } = manner;
  const { manifest, meter, memory, autotune, store } = artifact;
  const { variant, plan, weights, file, kernels } = prepared;
  const failure = new AbortController();
  const ends = anySignal([signal, failure.signal]);
  const fetcher = artifact.fetcher.until(ends, part.add);
  const device = await openDevice(variant, artifact.threads, gently);
  const { backend } = device;
  /** Kernels that are not the plan's own may be to blame: the next attempt is without them. */
  let foreign = false;
  try {
    const decision = await decide(memory, mayMeasure ? autotune : false, { manifest, variant, plan, adapter: device.adapter });
    const whole = { plan, modules: [{ file, kernels: plan.kernels }] };
    const composed = decision.kind === "remembered" ? compose(plan, file, decision.choice) : whole;
    const buffers = await allocate(backend, plan, capacity);
    const alternatives = decision.kind === "measure" ? decision.alternatives.map((alternative) => alternative.kernelsFile) : [];
    const modules = [...composed.modules.map((module) => module.file), ...alternatives].filter((path) => path !== file);
    const entries = variantFiles(manifest, plan, weights, modules);
    part.expect(entries.reduce((sum, { bytes }) => sum + bytes, 0));
    await checkRoom(store, entries);
    meter.enter("weights");
    const compileStart = performance.now();
    const load = (path: string) => (path === file ? Promise.resolve(kernels) : fetcher.file(path, entryOf(manifest, path)));
    const compiled = compile(backend, variant, composed.modules, load).then(() => performance.now() - compileStart);
    const uploaded = uploadWeights(fetcher, backend, manifest, plan, weights, buffers, ends).then(() => meter.enter("kernels"));
    const [compileMs] = await Promise.all([compiled, uploaded]);
    const own = new Replay(backend, composed.plan, buffers, capacity);
    await backend.idle();
    signal.throwIfAborted();
    let running = untuned(device, variant, own, compileMs);
    if (decision.kind === "remembered") running.tuning = { ...UNTUNED, source: "remembered", programs: decision.choice };
    if (decision.kind === "measure") {
      foreign = true;
      const tuneStart = performance.now();
      const read = async (path: string) => new TextDecoder().decode(await load(path));
      const measured = await measure(memory, decision, { backend, plan, buffers, capacity, own, read, signal: ends });
      running = { ...running, ...measured, tuneMs: performance.now() - tuneStart };
    }
    foreign = Object.keys(running.tuning.programs).length > 0;
    if (manifest.smoke !== undefined) await smokeTest(running.runner, manifest.smoke);
    return running;
  } catch (error) {
    failure.abort(); // A kernel that does not compile ends the download.
    backend.dispose();
    if (!foreign || !(error instanceof DeviceError) || signal.aborted) throw error;
    const wrong = error.kind === "wrong-results";
    if (wrong) await memory.put(memory.key(manifest, variant, plan, device.adapter), { choice: {}, tries: 0, final: true });
    part.drop();
    const [next, own] = [meter.part(), { ...manner, gently: gently || !wrong, mayMeasure: false }];
    return startAt(artifact, prepared, own, next, signal).catch((reason: unknown) => {
      next.drop();
      throw reason;
    });
  }
}

/** What runs, by the plan's own programs or by those that are remembered. */
function untuned(device: Device, variant: Variant, runner: PlanRunner, compileMs: number): Running {
  const cpu = device.backend instanceof WasmBackend ? describeCpu(device.backend) : {};
  return { ...device, ...cpu, variant, compileMs, runner, notices: [], tuning: UNTUNED, tuneMs: 0 };
}

/** In a submit, on a device that was lost: a driver may have thought that it hangs. */
const GENTLE_DISPATCHES = 16;

type Device = Pick<Running, "backend" | "adapter" | "threads" | "hints">;

async function openDevice(variant: Variant, threads: number | undefined, gently: boolean): Promise<Device> {
  switch (variant.backend) {
    case "webgpu": {
      // A new adapter each time: one that has given a device gives no other.
      const gpu = await probe();
      if (gpu.adapter === undefined) throw gpu.error;
      return {
        backend: new WebGPUBackend(await requestDevice(gpu.adapter, variant), gently ? GENTLE_DISPATCHES : Infinity),
        adapter: gpu.info,
        threads: 0,
        hints: [],
      };
    }
    case "wasm": {
      const backend = await WasmBackend.create({ threads });
      return { backend, ...describeCpu(backend) };
    }
  }
}

/** Once more after its memory was made: that may have cost it its helpers. */
function describeCpu(backend: WasmBackend): Pick<Running, "adapter" | "threads" | "hints"> {
  const { threads, relaxed, hint } = backend;
  const description = `CPU, ${threads === 1 ? "1 thread" : `${threads} threads`}, ${relaxed ? "relaxed SIMD" : "SIMD"}`;
  const hints = wasmSupport().sharedMemory ? [] : [globalThis.crossOriginIsolated ? NOTHING_SHARED : NOT_ISOLATED];
  return {
    adapter: { vendor: "", architecture: "", device: "", description, isFallback: true },
    threads,
    hints: hint === undefined ? hints : [...hints, hint],
  };
}

const NOTHING_SHARED = "This browser shares no memory between threads, though the page is cross-origin isolated, so one thread computes.";
const NOT_ISOLATED =
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
