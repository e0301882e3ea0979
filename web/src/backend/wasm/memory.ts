// How one WebAssembly memory is divided. Pure arithmetic but for makeMemory() and growMemory().
//
//   0            the module's own data (checked against __heap_base when it is instantiated)
//   RESERVE      one stack a thread
//   ...          buffers, each at a multiple of 64
//   ...          buffers of rows, as many rows as there is room for: these move apart when the memory grows
//   ...          slack that kernels may read beyond the last buffer

import { DeviceError } from "../../api/errors";
import type { BufferSize } from "../backend";

/** Kernels hold constants at most: a mebibyte is plenty, and their code needs none of it. */
export const RESERVE = 2 ** 20;
const STACK_BYTES = 64 * 1024;
const ALIGNMENT = 64;
const SLACK = 64;
const PAGE = 65536;

/** A page short of the 4 GiB that 32-bit addresses reach: no end of anything is 2^32, which would be 0. */
export const LIMIT_BYTES = 2 ** 32 - PAGE;

export interface Placed {
  address: number;
  /** Rounded up to a multiple of 4. */
  bytes: number;
}

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/** Upper end of a thread's stack. */
export const stackTop = (thread: number): number => RESERVE + (thread + 1) * STACK_BYTES;

type Size = Pick<BufferSize, "bytes" | "rowBytes">;

/** Where each buffer goes, those of rows with room for so many `positions`, and the bytes of the whole memory. */
export function layOut(sizes: readonly Size[], threads: number, positions = Infinity): { buffers: Placed[]; total: number } {
  let next = RESERVE + threads * STACK_BYTES;
  const buffers: Placed[] = [];
  const place = (index: number, bytes: number) => {
    buffers[index] = { address: next, bytes: roundUp(bytes, 4) };
    next = roundUp(next + roundUp(bytes, 4), ALIGNMENT);
  };
  sizes.forEach(({ bytes, rowBytes }, i) => rowBytes === undefined && place(i, bytes));
  sizes.forEach(({ bytes, rowBytes }, i) => rowBytes !== undefined && place(i, Math.min(bytes, rowBytes * positions)));
  return { buffers, total: roundUp(next + SLACK, PAGE) };
}

/** Most positions that buffers of rows are for; 0 where there are none. */
export function mostPositions(sizes: readonly Size[]): number {
  return Math.max(0, ...sizes.map(({ bytes, rowBytes }) => (rowBytes === undefined ? 0 : bytes / rowBytes)));
}

/** Bytes of memory that buffers of these sizes need, with all their rows. */
export function memoryNeeded(sizes: readonly Size[], threads: number): number {
  return layOut(sizes, threads).total;
}

const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
const REMEDY = "Give a smaller contextLength or take a smaller model.";

/** Of `total` bytes, which may grow to `most`: that much is reserved. @throws DeviceError("out-of-memory") */
export function makeMemory(total: number, most: number, shared: boolean): WebAssembly.Memory {
  if (most > LIMIT_BYTES)
    throw new DeviceError("out-of-memory", {
      what: "The model needs more memory than WebAssembly has",
      got: mebibytes(most),
      expected: `at most ${mebibytes(LIMIT_BYTES)}`,
      remedy: REMEDY,
    });
  try {
    return new WebAssembly.Memory({ initial: total / PAGE, maximum: most / PAGE, shared });
  } catch (error) {
    throw new DeviceError("out-of-memory", {
      what: "The browser has not enough memory for the model",
      got: error instanceof Error ? error.message : String(error),
      expected: mebibytes(total),
      remedy: `Close other tabs and programs. ${REMEDY}`,
    });
  }
}

/** To `total` bytes; false where there is no memory left. Views of an unshared memory end with it. */
export function growMemory(memory: WebAssembly.Memory, total: number): boolean {
  try {
    memory.grow(Math.max(0, (total - memory.buffer.byteLength) / PAGE));
    return true;
  } catch {
    return false;
  }
}
