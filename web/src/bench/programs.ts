// The programs of an artifact's variant on a device of their own: what each dispatch takes, and a step of many. Knows the plan
// and the engine's backend; nothing of sessions.

import { noCache } from "../artifact/file-cache";
import { addressOf, Fetcher } from "../artifact/fetch";
import { parseManifest, parseTensorCache } from "../artifact/manifest";
import { parsePlan } from "../artifact/plan";
import type { Dispatch, Plan } from "../artifact/schema";
import { ArtifactStore } from "../artifact/store";
import { Network } from "../artifact/transfer";
import type { BufferHandle } from "../backend/backend";
import { probe, requestDevice } from "../backend/webgpu/adapter";
import { type Step, usage, WebGPUBackend } from "../backend/webgpu/backend";
import { median } from "../runtime/median";
import { allocate, recorded } from "../runtime/replay";
import { STATE } from "../runtime/sampling";
import { entryOf } from "../worker/load/needs";
import { uploadWeights } from "../worker/load/weights";
import { RUNS } from "./device";

/** WebGPU's most. */
const QUERY_SET_SIZE = 4096;

/** [name, position, valid tokens] of a program to time. */
export type TimedProgram = [string, number, number];

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
  const opened = await openArtifact(url, name, ["timestamp-query"]);
  if (opened === null) return null;
  const { device, backend, plan, buffers } = opened;
  try {
    const times: number[][] = [];
    for (const [program, position, length] of programs) {
      const steps = backend.steps(backend.record(program, recorded(dispatchesOf(plan, program), buffers)));
      times.push(await timeSteps(device, steps, () => seek(opened, position, length), limit));
    }
    return times;
  } finally {
    backend.dispose();
  }
}

/**
 * Seconds of a decode step where `steps` are submitted one behind the other and nothing is read back: what a session's
 * steps take at best. What the end of the work is late by cancels out. From position 0, with an empty KV cache.
 */
export async function measureSteps(url: string, name: string, steps: number): Promise<number> {
  const opened = found(await openArtifact(url, name, []), "a WebGPU adapter");
  const { backend, plan, buffers } = opened;
  try {
    const program = backend.record("decode", recorded(plan.decode, buffers));
    const run = async (count: number) => {
      seek(opened, 0, 0);
      const started = performance.now();
      for (let i = 0; i < count; i++) backend.submit(program, 1);
      await backend.idle();
      return performance.now() - started;
    };
    await run(1);
    const few = await run(steps);
    return ((await run(2 * steps)) - few) / steps / 1e3;
  } finally {
    backend.dispose();
  }
}

export interface Opened {
  device: GPUDevice;
  backend: WebGPUBackend;
  plan: Plan;
  buffers: readonly BufferHandle[];
  /** The text of a kernels_file. */
  read: (file: string) => Promise<string>;
}

/** A variant of an artifact on a device of its own, its weights uploaded; null where the adapter lacks one of `features`. */
export async function openArtifact(url: string, name: string, features: readonly GPUFeatureName[]): Promise<Opened | null> {
  const gpu = await probe();
  if (gpu.adapter === undefined) throw gpu.error;
  if (features.some((feature) => !gpu.features.has(feature))) return null;
  const { signal } = new AbortController();
  const address = addressOf(new URL(url, location.href).href);
  const fetcher = new Fetcher({ address, store: new ArtifactStore(noCache, address.base), network: new Network(), signal });
  const { manifest } = await fetcher.description(parseManifest);
  const variant = found(
    manifest.variants.find((candidate) => candidate.name === name),
    name,
  );
  const weights = parseTensorCache(await fetcher.json(manifest.weights, entryOf(manifest, manifest.weights)), manifest);
  const plan = parsePlan(await fetcher.json(variant.plan, entryOf(manifest, variant.plan)), manifest, variant, weights);
  const read = async (file: string) => new TextDecoder().decode(await fetcher.file(file, entryOf(manifest, file)));
  const code = await read(variant.kernels);
  const device = await requestDevice(gpu.adapter, { ...variant, requiredFeatures: [...variant.requiredFeatures, ...features] });
  const backend = new WebGPUBackend(device);
  try {
    const buffers = await allocate(backend, plan, plan.context);
    await backend.compile(code, plan.kernels);
    await uploadWeights(fetcher, backend, manifest, plan, weights, buffers, signal);
    return { device, backend, plan, buffers, read };
  } catch (error) {
    backend.dispose();
    throw error;
  }
}

export function seek({ backend, plan, buffers }: Opened, position: number, length: number): void {
  const state = found(buffers[plan.buffers.findIndex((buffer) => buffer.kind === "state")], "state");
  backend.write(state, 4 * STATE.position, new Uint8Array(Uint32Array.of(position, 0, length).buffer));
}

export function dispatchesOf(plan: Plan, program: string): readonly Dispatch[] {
  const chunk = /^prefill_(\d+)$/.exec(program)?.[1];
  return chunk === undefined ? plan.decode : found(plan.prefill.get(Number(chunk)), `${program} of ${plan.variant}`);
}

/** The first run is a warm-up. */
async function timeSteps(device: GPUDevice, steps: readonly Step[], seekAgain: () => void, limit: number): Promise<number[]> {
  const samples: number[][] = [];
  const started = performance.now();
  while (samples.length < RUNS && (samples.length < 2 || performance.now() - started < 1e3 * limit)) {
    seekAgain();
    const sample: number[] = [];
    for (let first = 0; first < steps.length; first += QUERY_SET_SIZE / 2)
      sample.push(...(await timedRun(device, steps.slice(first, first + QUERY_SET_SIZE / 2))));
    samples.push(sample);
  }
  return steps.map((_, i) => median(samples.slice(1).map((sample) => sample[i] ?? 0)));
}

/** Seconds of each step, in a pass of its own: the backend encodes a program as one pass, which has two timestamps. */
async function timedRun(device: GPUDevice, steps: readonly Step[]): Promise<number[]> {
  const count = 2 * steps.length;
  const querySet = device.createQuerySet({ type: "timestamp", count });
  const resolved = device.createBuffer({ size: 8 * count, usage: usage("QUERY_RESOLVE", "COPY_SRC") });
  const staging = device.createBuffer({ size: 8 * count, usage: usage("MAP_READ", "COPY_DST") });
  try {
    const encoder = device.createCommandEncoder();
    steps.forEach(({ pipeline, group, grid }, i) => {
      const timestampWrites = { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
      const pass = encoder.beginComputePass({ timestampWrites });
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
      pass.end();
    });
    encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, 8 * count);
    device.pushErrorScope("validation");
    device.queue.submit([encoder.finish()]);
    const error = await device.popErrorScope();
    if (error !== null) throw new Error(`a timed run was refused: ${error.message}`);
    await staging.mapAsync(1 /* GPUMapMode.READ */);
    const ticks = new BigUint64Array(staging.getMappedRange().slice(0));
    return steps.map((_, i) => Math.max(0, Number((ticks[2 * i + 1] ?? 0n) - (ticks[2 * i] ?? 0n))) / 1e9);
  } finally {
    querySet.destroy();
    resolved.destroy();
    staging.destroy();
  }
}

export function found<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new Error(`there is no ${what}`);
  return value;
}
