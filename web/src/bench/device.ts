// What a device can do at most: bytes read, bytes moved by a copy, multiply-adds by a loop of them. Knows no plan.
//
// The shaders come from compiler/bench/device.py, so that native and browser figures compare.

import type { BufferHandle } from "../backend/backend";
import { probe, requestDevice } from "../backend/webgpu/adapter";
import { usage, WebGPUBackend } from "../backend/webgpu/backend";
import { median } from "../runtime/median";

export const RUNS = 5;
/** A measurement takes about this long. */
const MEASURE_MS = 100;
const MOST_WORKGROUPS = 4096;
const MOST_COPIES = 64;

type Float = "f32" | "f16";
/** Does something so many times, and waits for the end. */
type Run = (times: number) => Promise<void>;

export interface DeviceSources {
  read: string;
  readWorkgroups: number;
  copy: string;
  copyBytes: number;
  multiplyAdd: { f32: string; f16: string };
  multiplyAddsAWorkgroup: number;
  threadsAWorkgroup: number;
  /** What every thread's sum is in the end: proof that the loop has run. */
  arrived: number;
}

/** Bytes a second of reading alone and, read and written, of copies; and fused multiply-adds a second; f16 is null where the device has none. */
export interface DeviceFigures {
  read: number;
  copyKernel: number;
  copyQueue: number;
  copyBytes: number;
  f32: number;
  f16: number | null;
}

export async function measureDevice(sources: DeviceSources): Promise<DeviceFigures> {
  const gpu = await probe();
  if (gpu.adapter === undefined) throw gpu.error;
  const hasF16 = gpu.features.has("shader-f16");
  const needs = { name: "a measurement", requiredFeatures: hasF16 ? ["shader-f16"] : [], requiredLimits: {} };
  const device = await requestDevice(gpu.adapter, needs);
  const backend = new WebGPUBackend(device);
  try {
    const copyBytes = Math.min(sources.copyBytes, device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
    const byQueue = await copyByQueue(device, copyBytes);
    const kernels = new Kernels(backend);
    const { read, byKernel } = await readAndCopy(backend, kernels, sources, copyBytes);
    const f32 = await multiplyAdds(backend, kernels, sources, "f32");
    const f16 = hasF16 ? await multiplyAdds(backend, kernels, sources, "f16") : null;
    return { read: copyBytes / read, copyKernel: (2 * copyBytes) / byKernel, copyQueue: (2 * copyBytes) / byQueue, copyBytes, f32, f16 };
  } finally {
    backend.dispose();
  }
}

/** Kernels that read one buffer and write another. */
class Kernels {
  private count = 0;

  constructor(private readonly backend: WebGPUBackend) {}

  /** Its number. */
  async compile(source: string, entry: string): Promise<number> {
    await this.backend.compile(source, [{ entry, bindings: ["read", "read_write"] }]);
    return this.count++;
  }

  /** A run of the kernel by so many workgroups. */
  run(kernel: number, buffers: readonly BufferHandle[], workgroups: number): Run {
    const program = this.backend.record("a measurement", [{ kernel, buffers, grid: [workgroups, 1, 1] }]);
    return (times) => {
      this.backend.submit(program, times);
      return this.backend.idle();
    };
  }
}

async function buffersOf(backend: WebGPUBackend, readBytes: number, writtenBytes: number): Promise<[BufferHandle, BufferHandle]> {
  const sizes = [
    { bytes: readBytes, label: "read" },
    { bytes: writtenBytes, label: "written" },
  ];
  const [read = 0, written = 0] = await backend.createBuffers(sizes);
  return [read, written];
}

/** Seconds. */
async function readAndCopy(
  backend: WebGPUBackend,
  kernels: Kernels,
  { read, readWorkgroups, copy }: DeviceSources,
  bytes: number,
): Promise<{ read: number; byKernel: number }> {
  const buffers = await buffersOf(backend, bytes, bytes);
  const [reading, copying] = [await kernels.compile(read, "read_all"), await kernels.compile(copy, "copy")];
  return {
    read: await secondsEach(kernels.run(reading, buffers, readWorkgroups)),
    byKernel: await secondsEach(kernels.run(copying, buffers, Math.ceil(bytes / 16 / 256))),
  };
}

/** Seconds. The backend has no copies between buffers: nothing that it runs needs them. */
async function copyByQueue(device: GPUDevice, size: number): Promise<number> {
  const create = () => device.createBuffer({ size, usage: usage("COPY_SRC", "COPY_DST") });
  const [source, target] = [create(), create()];
  try {
    return await secondsEach(async (times) => {
      const encoder = device.createCommandEncoder();
      for (let i = 0; i < times; i++) encoder.copyBufferToBuffer(source, 0, target, 0, size);
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
    });
  } finally {
    source.destroy();
    target.destroy();
  }
}

/** A second. @throws Error when the loop did not run */
async function multiplyAdds(backend: WebGPUBackend, kernels: Kernels, sources: DeviceSources, dtype: Float): Promise<number> {
  const { threadsAWorkgroup, arrived, multiplyAddsAWorkgroup } = sources;
  const buffers = await buffersOf(backend, 16, 4 * MOST_WORKGROUPS * threadsAWorkgroup);
  const [factors, sums] = buffers;
  backend.write(factors, 0, new Uint8Array(Float32Array.of(0.5, 1).buffer));
  const kernel = await kernels.compile(sources.multiplyAdd[dtype], "multiply_add");
  let workgroups = 16;
  let run = kernels.run(kernel, buffers, workgroups);
  while (workgroups < MOST_WORKGROUPS && 1e3 * (await seconds(run, 1)) < MEASURE_MS / 16) {
    workgroups *= 2;
    run = kernels.run(kernel, buffers, workgroups);
  }
  const each = await secondsEach(run);
  const last = 4 * (workgroups * threadsAWorkgroup - 1);
  const [sum] = new Float32Array(await backend.read({ buffer: sums, offset: last, bytes: 4 }));
  if (sum !== arrived) throw new Error(`the loop of multiply-adds of ${dtype} ends at ${String(sum)}, expected ${arrived}`);
  return (multiplyAddsAWorkgroup * workgroups) / each;
}

async function secondsEach(run: Run): Promise<number> {
  await seconds(run, 1);
  const count = Math.max(1, Math.min(MOST_COPIES, Math.floor(MEASURE_MS / 1e3 / (await seconds(run, 1)))));
  const times: number[] = [];
  for (let i = 0; i < RUNS; i++) times.push((await seconds(run, count)) / count);
  return median(times);
}

async function seconds(run: Run, times: number): Promise<number> {
  const started = performance.now();
  await run(times);
  return (performance.now() - started) / 1e3;
}
