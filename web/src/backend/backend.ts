// What the runtime needs of a device, and no more: buffers, programs of dispatches, submits, reads. Knows no model and no
// plan file; handles are numbers, so nothing above holds a device object.

import type { EngineStats } from "../api/types";
import type { Kernel } from "../artifact/schema";

export type BufferHandle = number;
export type ProgramHandle = number;
/** WGSL text, or the bytes of a WebAssembly module. */
export type KernelSource = string | Uint8Array<ArrayBuffer>;

export interface Recorded {
  kernel: number;
  buffers: readonly BufferHandle[];
  grid: readonly [number, number, number];
}

export interface BufferSize {
  bytes: number;
  label: string;
  /** Of a buffer with a row a position, `bytes` of all of them: a backend may give it memory for fewer until makeRoom(). */
  rowBytes?: number;
}

/** A range to copy out after a program has run. Offset and bytes are multiples of 4. */
export interface Slice {
  buffer: BufferHandle;
  offset: number;
  bytes: number;
}

/** A copy of slices on the device. */
export interface Saved {
  /** Puts the first bytes of each slice back, as many as `bytes` says slice by slice. */
  restore(bytes: readonly number[]): void;
  /** Frees its memory. */
  drop(): void;
}

/** One of several parts of a program, which are submitted in their order. */
export interface Part {
  index: number;
  of: number;
}

export const WHOLE: Part = { index: 0, of: 1 };

export type BackendCounters = Pick<
  EngineStats,
  "dispatches" | "submits" | "readbacks" | "bindGroupsCreated" | "bytesUploaded" | "bytesReadBack" | "gpuBytes"
>;

export function noCounts(): BackendCounters {
  return { dispatches: 0, submits: 0, readbacks: 0, bindGroupsCreated: 0, bytesUploaded: 0, bytesReadBack: 0, gpuBytes: 0 };
}

/**
 * Work runs in the order in which it was handed over: a write is seen by every program submitted after it.
 * Every method throws the first error that the device has reported, and DeviceError("device-lost") once it is gone.
 */
export interface Backend {
  readonly counters: BackendCounters;
  /** A program takes as long for a chunk that is not full as for a full one. */
  readonly padding: boolean;
  /** Programs run while the engine waits for earlier results. */
  readonly overlaps: boolean;
  /** Resolves when the device goes away other than by dispose(). */
  readonly lost: Promise<Error>;
  /** Zeroed buffers of these sizes, rounded up to multiples of 4. @throws DeviceError("out-of-memory") */
  createBuffers(sizes: readonly BufferSize[]): Promise<BufferHandle[]>;
  /** How many positions the buffers of rows have memory for from now on: `positions`, unless there is none left for so many. */
  makeRoom(positions: number): number;
  /** `offset` is a multiple of 4; a length that is not is padded with zeros. */
  write(buffer: BufferHandle, offset: number, data: Uint8Array<ArrayBuffer>): void;
  /**
   * Called again, it adds kernels (not on the CPU): their numbers go on where the last ones ended.
   * @throws DeviceError("shader"), for WGSL with line, column and the line itself; then nothing is added
   */
  compile(source: KernelSource, kernels: readonly Kernel[]): Promise<void>;
  /**
   * After compile(): everything that running the program needs is made here, once.
   * @param steady every run takes about as long, so that a backend may learn from it what is fastest
   */
  record(label: string, dispatches: readonly Recorded[], steady?: boolean): ProgramHandle;
  /** Runs a program, or a part of it, `times` times in one submit. */
  submit(program: ProgramHandle, times: number, part?: Part): void;
  /** Runs it, each time in `parts` submits, and reads the bytes of `slices`, joined, as they are after the last run. */
  submitAndRead(program: ProgramHandle, times: number, slices: readonly Slice[], parts?: number): Promise<ArrayBuffer>;
  read(slice: Slice): Promise<ArrayBuffer>;
  /** Slices as they are after everything handed over so far; undefined where there is no memory for a copy. */
  save(slices: readonly Slice[], signal: AbortSignal): Promise<Saved | undefined>;
  /** Everything handed over so far has run. */
  idle(): Promise<void>;
  dispose(): void;
}
