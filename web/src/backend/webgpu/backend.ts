// The Backend interface on WebGPU. Owns the device and everything made from it, and destroys it all in dispose().
// Knows nothing of models: numbers in, dispatches out. Bind groups are made in record() only, never while running.

import type { Access, Kernel } from "../../artifact/schema";
import { DeviceError } from "../../api/errors";
import {
  type Backend,
  type BufferHandle,
  type BufferSize,
  noCounts,
  type KernelSource,
  type ProgramHandle,
  type Part,
  type Recorded,
  type Saved,
  type Slice,
  WHOLE,
} from "../backend";

/** A dispatch, ready to be encoded. */
export interface Step {
  pipeline: GPUComputePipeline;
  group: GPUBindGroup;
  grid: readonly [number, number, number];
}

const STORAGE = usage("STORAGE", "COPY_DST", "COPY_SRC");
const COPY = usage("COPY_DST", "COPY_SRC");
const STAGING = usage("MAP_READ", "COPY_DST");

/** Values of GPUBufferUsage, which is not there where WebGPU is not (importing this module must work everywhere). */
export function usage(...names: ("MAP_READ" | "COPY_SRC" | "COPY_DST" | "STORAGE" | "QUERY_RESOLVE")[]): number {
  const values = { MAP_READ: 1, COPY_SRC: 4, COPY_DST: 8, STORAGE: 128, QUERY_RESOLVE: 512 };
  return names.reduce((sum, name) => sum + values[name], 0);
}

const align4 = (bytes: number): number => Math.ceil(bytes / 4) * 4;

export class WebGPUBackend implements Backend {
  readonly padding = true;
  readonly overlaps = true;
  readonly counters = noCounts();
  readonly lost: Promise<Error>;
  private readonly buffers: GPUBuffer[] = [];
  private readonly programs: Step[][] = [];
  private readonly layouts = new Map<string, GPUBindGroupLayout>();
  private readonly groups = new Map<string, GPUBindGroup>();
  /** Mappable buffers that wait to be used again, by size. */
  private readonly staging = new Map<number, GPUBuffer[]>();
  private readonly kernels: { pipeline: GPUComputePipeline; pattern: string }[] = [];
  private failure: Error | undefined;
  private disposed = false;

  /** @param mostDispatches in one submit: fewer for a device that did not survive more */
  constructor(
    private readonly device: GPUDevice,
    private readonly mostDispatches = Infinity,
  ) {
    device.onuncapturederror = ({ error }) => {
      const kind = error instanceof GPUOutOfMemoryError ? "out-of-memory" : "gpu";
      this.failure ??= new DeviceError(kind, { what: `The GPU reported an error: ${error.message}` });
    };
    this.lost = new Promise((resolve) => {
      void device.lost.then(({ reason, message }) => {
        if (this.disposed) return;
        this.failure = new DeviceError("device-lost", {
          what: `The GPU device was lost (${reason}): ${message}`,
          remedy: "The browser or the driver took it away, often for lack of memory: create the engine again.",
        });
        resolve(this.failure);
      });
    });
  }

  async createBuffers(sizes: readonly BufferSize[]): Promise<BufferHandle[]> {
    this.check();
    this.device.pushErrorScope("out-of-memory");
    const handles = sizes.map(({ bytes, label }) => {
      this.buffers.push(this.device.createBuffer({ size: align4(bytes), usage: STORAGE, label }));
      this.counters.gpuBytes += align4(bytes);
      return this.buffers.length - 1;
    });
    const error = await this.device.popErrorScope();
    if (error !== null)
      throw new DeviceError("out-of-memory", {
        what: "The GPU has not enough memory for the model",
        got: error.message,
        expected: `${Math.ceil(this.counters.gpuBytes / 2 ** 20)} MiB`,
        remedy: "Close other tabs and programs, give a smaller contextLength, or take a smaller model.",
      });
    this.check();
    return handles;
  }

  /** Buffers of WebGPU cannot grow: they have their size from the start. */
  makeRoom(positions: number): number {
    return positions;
  }

  write(buffer: BufferHandle, offset: number, data: Uint8Array<ArrayBuffer>): void {
    this.check();
    let padded = data;
    if (data.byteLength % 4 !== 0) {
      padded = new Uint8Array(align4(data.byteLength));
      padded.set(data);
    }
    this.device.queue.writeBuffer(this.buffer(buffer), offset, padded);
    this.counters.bytesUploaded += padded.byteLength;
  }

  async compile(source: KernelSource, kernels: readonly Kernel[]): Promise<void> {
    this.check();
    if (typeof source !== "string") throw new Error("WebGPU compiles WGSL, not a module's bytes");
    this.device.pushErrorScope("validation"); // getCompilationInfo() says more than the validation error does.
    const module = this.device.createShaderModule({ code: source, label: "kernels" });
    void this.device.popErrorScope();
    const compiled = Promise.all(
      kernels.map(async ({ entry, bindings }) => {
        const pattern = bindings.join();
        const layout = this.device.createPipelineLayout({ bindGroupLayouts: [this.layout(pattern, bindings)] });
        const pipeline = await this.device.createComputePipelineAsync({ layout, compute: { module, entryPoint: entry }, label: entry });
        return { pipeline, pattern };
      }),
    );
    compiled.catch(() => undefined);
    const { messages } = await module.getCompilationInfo();
    const errors = messages.filter(({ type }) => type === "error");
    if (errors.length > 0) throw shaderError(source, errors);
    try {
      this.kernels.push(...(await compiled));
    } catch (error) {
      this.check();
      throw new DeviceError("shader", { what: `A kernel was refused: ${error instanceof Error ? error.message : String(error)}` });
    }
  }

  record(label: string, dispatches: readonly Recorded[]): ProgramHandle {
    this.check();
    const steps = dispatches.map(({ kernel, buffers, grid }, i) => {
      const compiled = this.kernels[kernel];
      if (compiled === undefined) throw new Error(`${label}: dispatch ${i} of a kernel that is not compiled`);
      return { pipeline: compiled.pipeline, group: this.group(compiled.pattern, buffers), grid };
    });
    this.programs.push(steps);
    return this.programs.length - 1;
  }

  /** A recorded program's dispatches, in order: for who encodes them otherwise, such as with timestamps. */
  steps(program: ProgramHandle): readonly Step[] {
    const steps = this.programs[program];
    if (steps === undefined) throw new Error(`program ${program} is not recorded`);
    return steps;
  }

  submit(program: ProgramHandle, times: number, part: Part = WHOLE): void {
    this.submitEncoded(this.encode(program, times, part));
  }

  async submitAndRead(program: ProgramHandle, times: number, slices: readonly Slice[], parts = 1): Promise<ArrayBuffer> {
    if (parts === 1) return this.copyOut(this.encode(program, times, WHOLE), slices);
    for (let run = 0; run < times; run++) for (let index = 0; index < parts; index++) this.submit(program, 1, { index, of: parts });
    return this.copyOut(this.device.createCommandEncoder(), slices);
  }

  async read(slice: Slice): Promise<ArrayBuffer> {
    this.check();
    return this.copyOut(this.device.createCommandEncoder(), [slice]);
  }

  async save(slices: readonly Slice[], signal: AbortSignal): Promise<Saved | undefined> {
    this.check();
    this.device.pushErrorScope("out-of-memory");
    const copies = slices.map(({ bytes }) => this.device.createBuffer({ size: align4(bytes), usage: COPY, label: "saved" }));
    const drop = () => copies.forEach((copy) => copy.destroy());
    if ((await this.device.popErrorScope()) !== null || signal.aborted) {
      drop();
      return undefined;
    }
    this.check();
    const total = slices.reduce((sum, { bytes }) => sum + align4(bytes), 0);
    this.counters.gpuBytes += total;
    const copyAll = (encode: (encoder: GPUCommandEncoder, copy: GPUBuffer, slice: Slice, index: number) => void) => {
      this.check();
      const encoder = this.device.createCommandEncoder();
      for (const [i, copy] of copies.entries()) if (slices[i] !== undefined) encode(encoder, copy, slices[i], i);
      this.submitEncoded(encoder);
    };
    copyAll((encoder, copy, { buffer, offset, bytes }) => encoder.copyBufferToBuffer(this.buffer(buffer), offset, copy, 0, bytes));
    return {
      restore: (bytes) =>
        copyAll((encoder, copy, { buffer, offset }, i) => encoder.copyBufferToBuffer(copy, 0, this.buffer(buffer), offset, bytes[i] ?? 0)),
      drop: () => {
        this.counters.gpuBytes -= total;
        drop();
      },
    };
  }

  async idle(): Promise<void> {
    await this.device.queue.onSubmittedWorkDone();
    this.check();
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    for (const buffer of this.buffers) buffer.destroy();
    for (const buffer of [...this.staging.values()].flat()) buffer.destroy();
    this.device.destroy();
  }

  /** The last command encoder of those that it takes, with one compute pass a run; the others are submitted. */
  private encode(program: ProgramHandle, times: number, { index, of }: Part): GPUCommandEncoder {
    this.check();
    const all = this.steps(program);
    const steps = all.slice(Math.floor((index * all.length) / of), Math.floor(((index + 1) * all.length) / of));
    let encoder = this.device.createCommandEncoder();
    let held = 0;
    for (let run = 0; run < times; run++) {
      for (let at = 0; at < steps.length;) {
        if (held === this.mostDispatches) {
          this.submitEncoded(encoder);
          encoder = this.device.createCommandEncoder();
          held = 0;
        }
        const some = steps.slice(at, at + this.mostDispatches - held);
        encodePass(encoder, some);
        at += some.length;
        held += some.length;
      }
    }
    this.counters.dispatches += times * steps.length;
    return encoder;
  }

  private submitEncoded(encoder: GPUCommandEncoder): void {
    this.device.queue.submit([encoder.finish()]);
    this.counters.submits += 1;
  }

  private async copyOut(encoder: GPUCommandEncoder, slices: readonly Slice[]): Promise<ArrayBuffer> {
    const bytes = slices.reduce((sum, slice) => sum + slice.bytes, 0);
    const size = align4(bytes);
    const staging = this.staging.get(size)?.pop() ?? this.device.createBuffer({ size, usage: STAGING, label: "staging" });
    let at = 0;
    for (const slice of slices) {
      encoder.copyBufferToBuffer(this.buffer(slice.buffer), slice.offset, staging, at, slice.bytes);
      at += slice.bytes;
    }
    this.submitEncoded(encoder);
    try {
      await staging.mapAsync(1 /* GPUMapMode.READ */);
    } catch (error) {
      staging.destroy();
      // A lost device rejects its mappings before it says that it is lost.
      await Promise.race([this.device.lost, new Promise((resolve) => setTimeout(resolve, 100))]);
      this.check();
      throw new DeviceError("gpu", { what: `Reading back from the GPU failed: ${String(error)}` });
    }
    const copy = staging.getMappedRange().slice(0, bytes);
    staging.unmap();
    this.keepStaging(size, staging);
    this.counters.readbacks += 1;
    this.counters.bytesReadBack += bytes;
    this.check();
    return copy;
  }

  private keepStaging(size: number, buffer: GPUBuffer): void {
    const kept = this.staging.get(size) ?? [];
    // Token readbacks are small and many; logits are large and rare.
    if (this.disposed || kept.length >= (size <= 4096 ? 32 : 1)) buffer.destroy();
    else this.staging.set(size, [...kept, buffer]);
  }

  private buffer(handle: BufferHandle): GPUBuffer {
    const buffer = this.buffers[handle];
    if (buffer === undefined) throw new Error(`buffer ${handle} does not exist`);
    return buffer;
  }

  private layout(pattern: string, bindings: readonly Access[]): GPUBindGroupLayout {
    const known = this.layouts.get(pattern);
    if (known !== undefined) return known;
    const entries = bindings.map((access, binding): GPUBindGroupLayoutEntry => {
      const type = access === "read" ? "read-only-storage" : "storage";
      return { binding, visibility: 4 /* GPUShaderStage.COMPUTE */, buffer: { type } };
    });
    const layout = this.device.createBindGroupLayout({ entries, label: pattern });
    this.layouts.set(pattern, layout);
    return layout;
  }

  /** Dispatches of different programs that bind the same buffers share a bind group. */
  private group(pattern: string, buffers: readonly BufferHandle[]): GPUBindGroup {
    const key = `${pattern}:${buffers.join()}`;
    const known = this.groups.get(key);
    if (known !== undefined) return known;
    const layout = this.layouts.get(pattern);
    if (layout === undefined) throw new Error(`no bind group layout for ${pattern}`);
    const entries = buffers.map((handle, binding) => ({ binding, resource: { buffer: this.buffer(handle) } }));
    const group = this.device.createBindGroup({ layout, entries });
    this.groups.set(key, group);
    this.counters.bindGroupsCreated += 1;
    return group;
  }

  private check(): void {
    if (this.disposed) throw new DeviceError("disposed", { what: "The GPU device was used after it was disposed of" });
    if (this.failure !== undefined) throw this.failure;
  }
}

export function encodePass(encoder: GPUCommandEncoder, steps: readonly Step[], descriptor?: GPUComputePassDescriptor): void {
  const pass = encoder.beginComputePass(descriptor);
  let current: GPUComputePipeline | undefined;
  for (const { pipeline, group, grid } of steps) {
    if (pipeline !== current) pass.setPipeline(pipeline);
    current = pipeline;
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
  }
  pass.end();
}

function shaderError(source: string, errors: readonly GPUCompilationMessage[]): DeviceError {
  const lines = source.split("\n");
  const shown = errors.slice(0, 5).map(({ lineNum, linePos, message }) => {
    const line = lines[lineNum - 1] ?? "";
    return `${lineNum}:${linePos}: ${message}\n    ${line}\n    ${" ".repeat(Math.max(0, linePos - 1))}^`;
  });
  return new DeviceError("shader", {
    what: `The kernels do not compile (${errors.length} errors)\n${shown.join("\n")}\n`,
    remedy: "This is a defect of the artifact or of the browser's shader compiler: report it with the browser's version.",
  });
}
