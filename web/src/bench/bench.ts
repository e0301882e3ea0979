// What `wisp bench` measures beside the engine: what the device can do at most, and each kernel's time by timestamps.
//
// Knows a plan and WebGPU; nothing of sessions. Built as a module of its own (vite.bench.config.ts) that no page loads. The
// shaders of the device's figures come from compiler/bench/device.py, so that native and browser figures compare.

import { noCache } from "../artifact/cache";
import { addressOf, Fetcher } from "../artifact/fetch";
import { parseManifest, parseTensorCache } from "../artifact/manifest";
import { parsePlan } from "../artifact/plan";
import type { Dispatch, Manifest, Plan, TensorCache, Variant } from "../artifact/schema";
import { ArtifactStore } from "../artifact/store";
import { Network } from "../artifact/transfer";
import { STATE } from "../runtime/sampling";
import { planUploads } from "../runtime/upload";

const RUNS = 5;
/** A measurement takes about this long. */
const MEASURE_MS = 100;
const MOST_WORKGROUPS = 4096;
const MOST_COPIES = 64;
/** WebGPU's most. */
const QUERY_SET_SIZE = 4096;
// GPUBufferUsage, by name where it is used.
const { MAP_READ, COPY_SRC, COPY_DST, STORAGE, QUERY_RESOLVE } = {
  MAP_READ: 1,
  COPY_SRC: 4,
  COPY_DST: 8,
  STORAGE: 128,
  QUERY_RESOLVE: 512,
};
const COMPUTE_STAGE = 4;

type Float = "f32" | "f16";
type Recording = (encoder: GPUCommandEncoder) => void;

export interface DeviceSources {
  copy: string;
  copyBytes: number;
  multiplyAdd: { f32: string; f16: string };
  multiplyAddsAWorkgroup: number;
  threadsAWorkgroup: number;
  /** What every thread's sum is in the end: proof that the loop has run. */
  arrived: number;
}

/** Bytes read and written a second, and fused multiply-adds a second; f16 is null where the device has none. */
export interface DeviceFigures {
  copyKernel: number;
  copyQueue: number;
  copyBytes: number;
  f32: number;
  f16: number | null;
}

/** [name, position, valid tokens] of a program to time. */
export type TimedProgram = [string, number, number];

export async function measureDevice(sources: DeviceSources): Promise<DeviceFigures> {
  const adapter = await requestAdapter();
  const hasF16 = adapter.features.has("shader-f16");
  const device = await adapter.requestDevice({ requiredFeatures: hasF16 ? ["shader-f16"] : [] });
  try {
    const copy = await measureCopy(device, sources);
    const f32 = await measureMultiplyAdds(device, sources, "f32");
    return { ...copy, f32, f16: hasF16 ? await measureMultiplyAdds(device, sources, "f16") : null };
  } finally {
    device.destroy();
  }
}

/**
 * Median seconds of each dispatch of each program, every dispatch in a pass of its own, with the artifact's weights and an
 * empty KV cache. Null where the adapter has no timestamps.
 * @param url the artifact's directory
 * @param limit seconds that a program's runs may take
 */
export async function measureKernels(
  url: string,
  name: string,
  programs: readonly TimedProgram[],
  limit: number,
): Promise<number[][] | null> {
  const adapter = await requestAdapter();
  if (!adapter.features.has("timestamp-query")) return null;
  const { device, module, plan, variant, buffers } = await openArtifact(adapter, url, name, ["timestamp-query"]);
  try {
    const times: number[][] = [];
    for (const [program, position, length] of programs) {
      const calls = bind(device, module, plan, dispatchesOf(plan, variant, program), buffers);
      times.push(await timeCalls(device, calls, () => seek(device, plan, buffers, position, length), limit));
    }
    return times;
  } finally {
    device.destroy();
  }
}

/**
 * Seconds of a decode step where `steps` are submitted one behind the other and nothing is read back: what a session's
 * steps take at best. What the end of the work is late by cancels out. From position 0, with an empty KV cache.
 */
export async function measureSteps(url: string, name: string, steps: number): Promise<number> {
  const { device, module, plan, buffers } = await openArtifact(await requestAdapter(), url, name, []);
  try {
    const calls = bind(device, module, plan, plan.decode, buffers);
    const run = async (count: number) => {
      seek(device, plan, buffers, 0, 0);
      const started = performance.now();
      for (let i = 0; i < count; i++) submitOnce(device, calls);
      await device.queue.onSubmittedWorkDone();
      return performance.now() - started;
    };
    await run(1);
    const few = await run(steps);
    return ((await run(2 * steps)) - few) / steps / 1e3;
  } finally {
    device.destroy();
  }
}

interface Opened {
  device: GPUDevice;
  module: GPUShaderModule;
  plan: Plan;
  variant: Variant;
  buffers: GPUBuffer[];
}

/** A variant of an artifact on a device of its own, its weights uploaded. */
async function openArtifact(adapter: GPUAdapter, url: string, name: string, features: readonly GPUFeatureName[]): Promise<Opened> {
  const address = addressOf(new URL(url, location.href).href);
  const fetcher = new Fetcher({
    address,
    store: new ArtifactStore(noCache, address.base),
    network: new Network(),
    signal: new AbortController().signal,
  });
  const { manifest } = await fetcher.description(parseManifest);
  const entry = (path: string) => found(manifest.files.get(path), path);
  const variant = found(
    manifest.variants.find((candidate) => candidate.name === name),
    name,
  );
  const weights = parseTensorCache(await fetcher.json(manifest.weights, entry(manifest.weights)), manifest);
  const plan = parsePlan(await fetcher.json(variant.plan, entry(variant.plan)), manifest, variant, weights);
  const code = new TextDecoder().decode(await fetcher.file(variant.kernels, entry(variant.kernels)));
  const device = await adapter.requestDevice({
    requiredFeatures: [...(variant.requiredFeatures as GPUFeatureName[]), ...features],
    requiredLimits: variant.requiredLimits,
  });
  try {
    const buffers = await loadBuffers(device, fetcher, manifest, plan, weights);
    return { device, module: device.createShaderModule({ code }), plan, variant, buffers };
  } catch (error) {
    device.destroy();
    throw error;
  }
}

function seek(device: GPUDevice, plan: Plan, buffers: readonly GPUBuffer[], position: number, length: number): void {
  const state = found(buffers[plan.buffers.findIndex((buffer) => buffer.kind === "state")], "state");
  device.queue.writeBuffer(state, 4 * STATE.position, Uint32Array.of(position, 0, length));
}

function submitOnce(device: GPUDevice, calls: readonly Call[]): void {
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const { pipeline, group, grid } of calls) {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
  }
  pass.end();
  device.queue.submit([encoder.finish()]);
}

// --- the device ----------------------------------------------------------------------------------------------------------

async function requestAdapter(): Promise<GPUAdapter> {
  return found(await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }), "a WebGPU adapter");
}

async function measureCopy(
  device: GPUDevice,
  { copy, copyBytes }: DeviceSources,
): Promise<Pick<DeviceFigures, "copyKernel" | "copyQueue" | "copyBytes">> {
  const size = Math.min(copyBytes, device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
  const [source, target] = [storage(device, size), storage(device, size)];
  const { pipeline, group } = await pipelineOf(device, copy, "copy", [source, target]);
  const byKernel = await secondsEach(device, (encoder) => dispatch(encoder, pipeline, group, Math.ceil(size / 16 / 256)));
  const byQueue = await secondsEach(device, (encoder) => encoder.copyBufferToBuffer(source, 0, target, 0, size));
  source.destroy();
  target.destroy();
  return { copyKernel: (2 * size) / byKernel, copyQueue: (2 * size) / byQueue, copyBytes: size };
}

async function measureMultiplyAdds(device: GPUDevice, sources: DeviceSources, dtype: Float): Promise<number> {
  const { threadsAWorkgroup, arrived, multiplyAddsAWorkgroup } = sources;
  const factors = storage(device, 16);
  const sums = storage(device, 4 * MOST_WORKGROUPS * threadsAWorkgroup);
  device.queue.writeBuffer(factors, 0, Float32Array.of(0.5, 1));
  const { pipeline, group } = await pipelineOf(device, sources.multiplyAdd[dtype], "multiply_add", [factors, sums]);
  let workgroups = 16;
  const record: Recording = (encoder) => dispatch(encoder, pipeline, group, workgroups);
  while (workgroups < MOST_WORKGROUPS && 1e3 * (await seconds(device, record, 1)) < MEASURE_MS / 16) workgroups *= 2;
  const each = await secondsEach(device, record);
  const sum = new Float32Array(await read(device, sums, 4 * (workgroups * threadsAWorkgroup - 1), 4))[0];
  if (sum !== arrived) throw new Error(`the loop of multiply-adds of ${dtype} ends at ${String(sum)}, expected ${arrived}`);
  return (multiplyAddsAWorkgroup * workgroups) / each;
}

async function secondsEach(device: GPUDevice, record: Recording): Promise<number> {
  await seconds(device, record, 1);
  const count = Math.max(1, Math.min(MOST_COPIES, Math.floor(MEASURE_MS / 1e3 / (await seconds(device, record, 1)))));
  const times: number[] = [];
  for (let run = 0; run < RUNS; run++) times.push((await seconds(device, record, count)) / count);
  return median(times);
}

async function seconds(device: GPUDevice, record: Recording, count: number): Promise<number> {
  const encoder = device.createCommandEncoder();
  for (let i = 0; i < count; i++) record(encoder);
  const started = performance.now();
  device.queue.submit([encoder.finish()]);
  await device.queue.onSubmittedWorkDone();
  return (performance.now() - started) / 1e3;
}

async function pipelineOf(device: GPUDevice, code: string, entryPoint: string, buffers: readonly GPUBuffer[]): Promise<Call> {
  const module = device.createShaderModule({ code });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint } });
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  return { pipeline, group, grid: [1, 1, 1] };
}

function dispatch(encoder: GPUCommandEncoder, pipeline: GPUComputePipeline, group: GPUBindGroup, workgroups: number): void {
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(workgroups);
  pass.end();
}

// --- the kernels of a plan -------------------------------------------------------------------------------------------------

interface Call {
  pipeline: GPUComputePipeline;
  group: GPUBindGroup;
  grid: readonly [number, number, number];
}

function dispatchesOf(plan: Plan, variant: Variant, program: string): readonly Dispatch[] {
  const chunk = /^prefill_(\d+)$/.exec(program)?.[1];
  return chunk === undefined ? plan.decode : found(plan.prefill.get(Number(chunk)), `${program} of ${variant.name}`);
}

/** A buffer for each of the plan's, weights and constants in them. */
async function loadBuffers(
  device: GPUDevice,
  fetcher: Fetcher,
  manifest: Manifest,
  plan: Plan,
  weights: TensorCache,
): Promise<GPUBuffer[]> {
  const entry = (path: string) => found(manifest.files.get(path), path);
  const buffers = plan.buffers.map(({ bytes }) => storage(device, bytes));
  const write = (index: number, offset: number, data: Uint8Array<ArrayBuffer>) => {
    const padded = new Uint8Array(Math.ceil(data.byteLength / 4) * 4);
    padded.set(data);
    device.queue.writeBuffer(found(buffers[index], "a buffer"), offset, padded);
  };
  for (const [shard, pieces] of planUploads(plan, weights)) {
    const bytes = await fetcher.file(shard.path, entry(shard.path));
    for (const { buffer, offset, from, to } of pieces) write(buffer, offset, bytes.subarray(from, to));
    await device.queue.onSubmittedWorkDone();
  }
  if (plan.buffers.some(({ kind }) => kind === "constant")) {
    const constants = await fetcher.file("constants.bin", entry("constants.bin"));
    plan.buffers.forEach((buffer, i) => {
      if (buffer.kind === "constant") write(i, 0, constants.subarray(buffer.offset, buffer.offset + buffer.bytes));
    });
  }
  return buffers;
}

function bind(
  device: GPUDevice,
  module: GPUShaderModule,
  plan: Plan,
  dispatches: readonly Dispatch[],
  buffers: readonly GPUBuffer[],
): Call[] {
  const made = new Map<number, { pipeline: GPUComputePipeline; layout: GPUBindGroupLayout }>();
  return dispatches.map(({ kernel: index, bind: bound, grid }) => {
    let kernel = made.get(index);
    if (kernel === undefined) {
      const { entry, bindings } = found(plan.kernels[index], "a kernel");
      const entries = bindings.map((access, binding): GPUBindGroupLayoutEntry => {
        const type = access === "read" ? "read-only-storage" : "storage";
        return { binding, visibility: COMPUTE_STAGE, buffer: { type } };
      });
      const layout = device.createBindGroupLayout({ entries });
      const pipelineLayout = device.createPipelineLayout({ bindGroupLayouts: [layout] });
      kernel = { layout, pipeline: device.createComputePipeline({ layout: pipelineLayout, compute: { module, entryPoint: entry } }) };
      made.set(index, kernel);
    }
    const entries = bound.map((i, binding) => ({ binding, resource: { buffer: found(buffers[i], "a buffer") } }));
    return { pipeline: kernel.pipeline, group: device.createBindGroup({ layout: kernel.layout, entries }), grid };
  });
}

/** The first run is a warm-up. */
async function timeCalls(device: GPUDevice, calls: readonly Call[], seek: () => void, limit: number): Promise<number[]> {
  const samples: number[][] = [];
  const started = performance.now();
  while (samples.length < RUNS && (samples.length < 2 || performance.now() - started < 1e3 * limit)) {
    seek();
    const sample: number[] = [];
    for (let first = 0; first < calls.length; first += QUERY_SET_SIZE / 2)
      sample.push(...(await timedRun(device, calls.slice(first, first + QUERY_SET_SIZE / 2))));
    samples.push(sample);
  }
  return calls.map((_, i) => median(samples.slice(1).map((sample) => sample[i] ?? 0)));
}

async function timedRun(device: GPUDevice, calls: readonly Call[]): Promise<number[]> {
  const count = 2 * calls.length;
  const querySet = device.createQuerySet({ type: "timestamp", count });
  const resolved = device.createBuffer({ size: 8 * count, usage: QUERY_RESOLVE | COPY_SRC });
  const encoder = device.createCommandEncoder();
  calls.forEach(({ pipeline, group, grid }, i) => {
    const timestampWrites = { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
    const pass = encoder.beginComputePass({ timestampWrites });
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
    pass.end();
  });
  encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
  device.pushErrorScope("validation");
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  if (error !== null) throw new Error(`a timed run was refused: ${error.message}`);
  const ticks = new BigUint64Array(await read(device, resolved, 0, 8 * count));
  querySet.destroy();
  resolved.destroy();
  return calls.map((_, i) => Math.max(0, Number((ticks[2 * i + 1] ?? 0n) - (ticks[2 * i] ?? 0n))) / 1e9);
}

// --- small things ------------------------------------------------------------------------------------------------------------

function storage(device: GPUDevice, bytes: number): GPUBuffer {
  return device.createBuffer({ size: Math.ceil(bytes / 4) * 4, usage: STORAGE | COPY_SRC | COPY_DST });
}

async function read(device: GPUDevice, buffer: GPUBuffer, offset: number, size: number): Promise<ArrayBuffer> {
  const staging = device.createBuffer({ size, usage: MAP_READ | COPY_DST });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, offset, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(1 /* GPUMapMode.READ */);
  const copy = staging.getMappedRange().slice(0);
  staging.destroy();
  return copy;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const high = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? 0) + high) / 2;
}

function found<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new Error(`there is no ${what}`);
  return value;
}
