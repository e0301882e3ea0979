// The Backend interface on the CPU: one WebAssembly module, one memory, one queue of work that runs in its order. Knows
// nothing of models: numbers in, dispatches out. How threads run a program is executor.ts's.

import type { Kernel } from "../../artifact/schema";
import { DeviceError } from "../../api/errors";
import {
  type Backend,
  type BufferHandle,
  type BufferSize,
  noCounts,
  type KernelSource,
  type ProgramHandle,
  type Recorded,
  type Saved,
  type Slice,
  WHOLE,
} from "../backend";
import { Executor, type ThreadTimeouts } from "./executor";
import { growMemory, layOut, makeMemory, mostPositions, type Placed } from "./memory";
import { compileModule, wasmSupport } from "./module";
import { canSpawn, checkThreads, defaultThreads, type SpawnThread, spawnThread } from "./pool";
import type { PlainStep } from "./run";

export { checkThreads, MOST_THREADS } from "./pool";
export { LIMIT_BYTES, memoryNeeded } from "./memory";
export { wasmSupport, type WasmSupport } from "./module";

export interface WasmOptions extends ThreadTimeouts {
  /** Default: what suits the processor, at most 8; 1 where threads are not possible. */
  threads?: number | undefined;
  /** For tests: another way to start helpers. */
  spawn?: SpawnThread;
}

type Job =
  | { type: "write"; address: number; data: Uint8Array }
  | { type: "program"; steps: PlainStep[] }
  | { type: "run"; program: number; times: number }
  /** Buffers have new places, and so do the operands of the first `programs` programs. */
  | { type: "move"; from: readonly Placed[]; to: readonly Placed[]; programs: number }
  | { type: "read"; slices: { address: number; bytes: number }[]; resolve: (bytes: ArrayBuffer) => void; reject: (error: Error) => void };

interface Program {
  label: string;
  dispatches: readonly Recorded[];
  steps: PlainStep[];
  steady: boolean;
}

/** Room for so many positions is made at first; it doubles when it is full. */
const FIRST_POSITIONS = 256;

export class WasmBackend implements Backend {
  readonly padding = false;
  readonly overlaps = false;
  readonly counters = noCounts();
  readonly lost: Promise<Error>;
  /** Why there are fewer threads than were wanted, in plain words. */
  hint: string | undefined;
  private sizes: readonly BufferSize[] = [];
  private buffers: readonly Placed[] = [];
  /** Positions that buffers of rows have memory for. */
  private room = 0;
  private memory: WebAssembly.Memory | undefined;
  private bytes = new Uint8Array();
  private source: Uint8Array<ArrayBuffer> | undefined;
  private module: WebAssembly.Module | undefined;
  private kernels: readonly Kernel[] = [];
  /** Every thread has its instance. */
  private ready = false;
  private readonly programs: Program[] = [];
  private readonly queue: Job[] = [];
  private pumping = false;
  private failure: Error | undefined;
  private disposed = false;
  private readonly reportLost: (error: Error) => void;

  private constructor(
    /** The engine has relaxed SIMD: it can run the variant's relaxed kernels. */
    readonly relaxed: boolean,
    private readonly executor: Executor,
  ) {
    let report: (error: Error) => void = () => undefined;
    this.lost = new Promise((resolve) => (report = resolve));
    this.reportLost = report;
    executor.onLost = (reason) => this.lose(reason);
  }

  /** One after createBuffers() where the browser refuses to share that much memory. */
  get threads(): number {
    return this.executor.threads;
  }

  /** Helpers that cannot be started are done without. @throws DeviceError("no-wasm"), RequestError */
  static async create({ threads, spawn = spawnThread, ...timeouts }: WasmOptions = {}): Promise<WasmBackend> {
    const { wasm, simd, relaxedSimd, sharedMemory } = wasmSupport();
    if (!wasm || !simd)
      throw new DeviceError("no-wasm", {
        what: "The model cannot run on the CPU here",
        got: wasm ? "WebAssembly without SIMD" : "no WebAssembly",
        expected: "WebAssembly with SIMD",
        remedy: "Take a current version of the browser, and allow WebAssembly if a setting or an extension forbids it.",
      });
    const asked = checkThreads(threads);
    const wanted = sharedMemory && canSpawn() ? (asked ?? (await defaultThreads())) : 1;
    return new WasmBackend(relaxedSimd, await Executor.create(wanted, spawn, timeouts));
  }

  async createBuffers(sizes: readonly BufferSize[]): Promise<BufferHandle[]> {
    this.check();
    if (this.memory !== undefined) throw new Error("a CPU backend makes all its buffers in one call");
    const { threads } = this;
    this.sizes = sizes;
    this.room = Math.min(FIRST_POSITIONS, mostPositions(sizes));
    const { buffers, total, memory } = this.allocate(sizes);
    // It was compiled for memory that is shared.
    if (this.threads !== threads && this.source !== undefined && this.module !== undefined) this.module = await this.translate(this.source);
    this.memory = memory;
    this.bytes = new Uint8Array(memory.buffer);
    this.buffers = buffers;
    this.counters.gpuBytes = total;
    await this.instantiate();
    return buffers.map((_, handle) => handle);
  }

  /** iOS refuses large shared memories where it grants others of the same size: then one thread computes. */
  private allocate(sizes: readonly BufferSize[]): { buffers: Placed[]; total: number; memory: WebAssembly.Memory } {
    const { buffers, total } = layOut(sizes, this.threads, this.room);
    const most = layOut(sizes, this.threads).total;
    if (this.threads === 1) return { buffers, total, memory: makeMemory(total, most, false) };
    try {
      return { buffers, total, memory: makeMemory(total, most, true) };
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      this.executor.dismiss();
      this.hint = `The browser refuses to share ${Math.ceil(most / 2 ** 20)} MiB of memory between threads, so one thread computes.`;
      return this.allocate(sizes);
    }
  }

  makeRoom(positions: number): number {
    this.check();
    const { memory, sizes, threads } = this;
    const most = mostPositions(sizes);
    if (memory === undefined || positions <= this.room || most === 0) return positions;
    for (const wanted of [Math.min(most, Math.max(positions, 2 * this.room)), Math.min(most, positions)]) {
      const { buffers, total } = layOut(sizes, threads, wanted);
      const before = memory.buffer.byteLength;
      if (!growMemory(memory, total)) continue;
      this.bytes = new Uint8Array(memory.buffer);
      this.counters.gpuBytes += memory.buffer.byteLength - before;
      this.push({ type: "move", from: this.buffers, to: buffers, programs: this.programs.length });
      this.buffers = buffers;
      this.room = wanted;
      break;
    }
    return Math.min(positions, this.room);
  }

  write(buffer: BufferHandle, offset: number, data: Uint8Array<ArrayBuffer>): void {
    this.check();
    const { address, bytes } = this.range(buffer, offset, data.byteLength);
    this.counters.bytesUploaded += bytes;
    if (this.pumping) this.push({ type: "write", address, data: data.slice() });
    else this.store(address, data);
  }

  async compile(source: KernelSource, kernels: readonly Kernel[]): Promise<void> {
    this.check();
    if (typeof source === "string") throw new Error("the CPU compiles a module's bytes, not WGSL");
    if (this.source !== undefined) throw new Error("a CPU backend compiles one module");
    this.source = source;
    this.kernels = kernels;
    this.module = await this.translate(source);
    await this.instantiate();
    this.check();
  }

  record(label: string, dispatches: readonly Recorded[], steady = false): ProgramHandle {
    this.check();
    if (!this.ready) throw new Error(`${label} is recorded before the kernels are compiled and the buffers made`);
    dispatches.forEach(({ kernel, buffers }, i) => {
      const bindings = this.kernels[kernel]?.bindings.length;
      if (bindings !== buffers.length) throw new Error(`${label}: dispatch ${i} binds ${buffers.length} buffers to kernel ${kernel}`);
    });
    const steps = addressed(dispatches, this.buffers);
    this.programs.push({ label, dispatches, steps, steady });
    this.push({ type: "program", steps });
    return this.programs.length - 1;
  }

  /** Programs run in slices of time anyway: they have no parts here. */
  submit(program: ProgramHandle, times: number, part = WHOLE): void {
    this.check();
    if (part.of !== 1) throw new Error(`part ${part.index} of ${part.of} of a program on the CPU`);
    const steps = this.programs[program]?.steps;
    if (steps === undefined) throw new Error(`program ${program} is not recorded`);
    this.counters.submits += 1;
    this.counters.dispatches += times * steps.length;
    this.push({ type: "run", program, times });
  }

  async submitAndRead(program: ProgramHandle, times: number, slices: readonly Slice[]): Promise<ArrayBuffer> {
    this.submit(program, times);
    return this.readSlices(slices);
  }

  async read(slice: Slice): Promise<ArrayBuffer> {
    this.check();
    return this.readSlices([slice]);
  }

  /** Outside of the memory of the kernels, which reaches no further than 32 bits. */
  async save(slices: readonly Slice[], signal: AbortSignal): Promise<Saved | undefined> {
    this.check();
    let copy: ArrayBuffer;
    try {
      copy = await this.enqueueRead(slices.map(({ buffer, offset, bytes }) => this.range(buffer, offset, bytes)));
    } catch (error) {
      if (error instanceof RangeError && this.failure === undefined) return undefined;
      throw error;
    }
    if (signal.aborted) return undefined;
    this.counters.gpuBytes += copy.byteLength;
    const restore = (bytes: readonly number[]) => {
      let at = 0;
      for (const [i, { buffer, offset, bytes: whole }] of slices.entries()) {
        const data = new Uint8Array(copy, at, bytes[i] ?? 0);
        this.push({ type: "write", address: this.range(buffer, offset, data.byteLength).address, data });
        at += whole;
      }
    };
    return { restore, drop: () => (this.counters.gpuBytes -= copy.byteLength) };
  }

  async idle(): Promise<void> {
    this.check();
    if (this.pumping) await this.enqueueRead([]);
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.executor.dispose();
    this.rejectAll(disposedError());
    this.memory = undefined;
    this.bytes = new Uint8Array();
    this.programs.length = 0;
  }

  /** The module for the threads that there are, which createBuffers() may make fewer meanwhile. */
  private async translate(source: Uint8Array<ArrayBuffer>): Promise<WebAssembly.Module> {
    for (;;) {
      const { threads } = this;
      const module = await compileModule(source, threads > 1);
      if (threads === this.threads) return module;
    }
  }

  /** Once the module and the memory are there, in whichever order they came. */
  private async instantiate(): Promise<void> {
    const { module, memory, kernels } = this;
    if (module === undefined || memory === undefined) return;
    try {
      await this.executor.instantiate(module, memory, kernels);
    } catch (error) {
      this.check(); // Helpers that are gone say less.
      throw error;
    }
    this.ready = true;
  }

  private async readSlices(slices: readonly Slice[]): Promise<ArrayBuffer> {
    const ranges = slices.map(({ buffer, offset, bytes }) => this.range(buffer, offset, bytes));
    const bytes = await this.enqueueRead(ranges);
    this.counters.readbacks += 1;
    this.counters.bytesReadBack += bytes.byteLength;
    return bytes;
  }

  private enqueueRead(slices: { address: number; bytes: number }[]): Promise<ArrayBuffer> {
    return new Promise((resolve, reject) => this.push({ type: "read", slices, resolve, reject }));
  }

  private push(job: Job): void {
    this.queue.push(job);
    if (this.pumping) return;
    this.pumping = true;
    // Not at once: what the caller hands over in one go belongs together.
    queueMicrotask(() => void this.pump());
  }

  private async pump(): Promise<void> {
    try {
      for (let job = this.queue.shift(); job !== undefined; job = this.queue.shift()) await this.perform(job);
    } catch (error) {
      // This includes what dispose() and lose() make check() throw in the middle of a program.
      this.fail(error instanceof Error ? error : new Error(String(error)));
    } finally {
      this.pumping = false;
    }
  }

  private async perform(job: Job): Promise<void> {
    switch (job.type) {
      case "write":
        this.store(job.address, job.data);
        return;
      case "program":
        await this.executor.add(job.steps);
        return;
      case "run":
        await this.run(job.program, job.times);
        return;
      case "move":
        await this.move(job.from, job.to, job.programs);
        return;
      case "read":
        try {
          job.resolve(this.copyOut(job.slices));
        } catch (error) {
          job.reject(error instanceof Error ? error : new Error(String(error))); // There is no memory for so many bytes.
        }
        // Whoever waits for these bytes hears of them before the next program begins.
        if (this.queue.length > 0) await this.executor.turn();
        return;
    }
  }

  /** From the last: a buffer goes where those behind it were. */
  private async move(from: readonly Placed[], to: readonly Placed[], count: number): Promise<void> {
    const order = [...from.keys()].toSorted((a, b) => (from[b]?.address ?? 0) - (from[a]?.address ?? 0));
    for (const i of order) {
      const [old, now] = [from[i], to[i]];
      if (old !== undefined && now !== undefined && old.address !== now.address)
        this.bytes.copyWithin(now.address, old.address, old.address + old.bytes);
    }
    const moved = this.programs.slice(0, count);
    for (const program of moved) program.steps = addressed(program.dispatches, to);
    await this.executor.rebind(moved.map(({ steps }) => steps));
  }

  private async run(index: number, times: number): Promise<void> {
    const program = this.programs[index];
    if (program === undefined) throw new Error(`program ${index} is not recorded`);
    const trap = await this.executor.run(index, times, program.steady);
    if (trap === undefined) return;
    const entry = this.kernels[program.steps[trap.dispatch]?.kernel ?? -1]?.entry ?? "a kernel";
    throw new DeviceError("kernel", {
      what: `The kernel ${entry} failed (${program.label}, dispatch ${trap.dispatch}, thread ${trap.thread}): ${trap.message}`,
      remedy: "This is a defect of the artifact or of the browser: report it with the browser's version.",
    });
  }

  private store(address: number, data: Uint8Array): void {
    this.bytes.set(data, address);
    // The interface pads with zeros to a multiple of 4.
    this.bytes.fill(0, address + data.byteLength, address + Math.ceil(data.byteLength / 4) * 4);
  }

  private copyOut(slices: readonly { address: number; bytes: number }[]): ArrayBuffer {
    const out = new Uint8Array(slices.reduce((sum, { bytes }) => sum + bytes, 0));
    let at = 0;
    for (const { address, bytes } of slices) {
      out.set(this.bytes.subarray(address, address + bytes), at);
      at += bytes;
    }
    return out.buffer;
  }

  private buffer(handle: BufferHandle): Placed {
    const buffer = this.buffers[handle];
    if (buffer === undefined) throw new Error(`buffer ${handle} does not exist`);
    return buffer;
  }

  /** Bytes are rounded up to a multiple of 4. */
  private range(handle: BufferHandle, offset: number, length: number): { address: number; bytes: number } {
    const buffer = this.buffer(handle);
    const bytes = Math.ceil(length / 4) * 4;
    if (offset < 0 || offset % 4 !== 0 || offset + bytes > buffer.bytes)
      throw new Error(`bytes ${offset} to ${offset + bytes} of buffer ${handle}, which has ${buffer.bytes}`);
    return { address: buffer.address + offset, bytes };
  }

  private lose(reason: string): void {
    if (this.disposed || this.failure !== undefined) return;
    const failure = new DeviceError("device-lost", {
      what: `The helper threads are gone: ${reason}`,
      got: `${this.threads} threads`,
      remedy: "The browser ended one of them, often for lack of memory: create the engine again.",
    });
    this.fail(failure);
    this.reportLost(failure);
  }

  private fail(error: Error): void {
    if (this.disposed) return;
    this.failure ??= error;
    this.executor.dispose();
    this.rejectAll(this.failure);
  }

  private rejectAll(error: Error): void {
    for (const job of this.queue.splice(0)) if (job.type === "read") job.reject(error);
  }

  private check(): void {
    if (this.disposed) throw disposedError();
    if (this.failure !== undefined) throw this.failure;
  }
}

function addressed(dispatches: readonly Recorded[], places: readonly Placed[]): PlainStep[] {
  const address = (handle: BufferHandle): number => {
    const place = places[handle];
    if (place === undefined) throw new Error(`buffer ${handle} does not exist`);
    // As signed numbers: a kernel's i32 above 2 GiB is negative, and small integers are what calls are fast with.
    return place.address | 0;
  };
  return dispatches.map(({ kernel, buffers, grid }) => ({ kernel, addresses: buffers.map(address), items: grid[0] }));
}

function disposedError(): DeviceError {
  return new DeviceError("disposed", { what: "The CPU backend was used after it was disposed of" });
}
