// How one WebAssembly memory is divided, all of it known before it exists. Pure arithmetic but for makeMemory().
//
//   0            the module's own data (checked against __heap_base when it is instantiated)
//   RESERVE      one stack a thread
//   ...          buffers, each at a multiple of 64
//   ...          slack that kernels may read beyond the last buffer

import { DeviceError } from "../../api/errors";

/** Kernels hold constants at most: a mebibyte is plenty, and their code needs none of it. */
export const RESERVE = 2 ** 20;
const STACK_BYTES = 64 * 1024;
const ALIGNMENT = 64;
const SLACK = 64;
const PAGE = 65536;

/** Short of the 4 GiB that 32-bit addresses reach, as browsers allocate hardly more in one piece. */
export const LIMIT_BYTES = 3.5 * 2 ** 30;

export interface Placed {
  address: number;
  /** Rounded up to a multiple of 4. */
  bytes: number;
}

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/** Upper end of a thread's stack. */
export const stackTop = (thread: number): number => RESERVE + (thread + 1) * STACK_BYTES;

/** Where each buffer goes, and the bytes of the whole memory. */
export function layOut(sizes: readonly { bytes: number }[], threads: number): { buffers: Placed[]; total: number } {
  let next = RESERVE + threads * STACK_BYTES;
  const buffers = sizes.map(({ bytes }) => {
    const placed = { address: next, bytes: roundUp(bytes, 4) };
    next = roundUp(next + placed.bytes, ALIGNMENT);
    return placed;
  });
  return { buffers, total: roundUp(next + SLACK, PAGE) };
}

/** Bytes of memory that buffers of these sizes need. */
export function memoryNeeded(sizes: readonly { bytes: number }[], threads: number): number {
  return layOut(sizes, threads).total;
}

const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
const REMEDY = "Give a smaller contextLength or take a smaller model.";

/** @throws DeviceError("out-of-memory") */
export function makeMemory(total: number, shared: boolean): WebAssembly.Memory {
  if (total > LIMIT_BYTES)
    throw new DeviceError("out-of-memory", {
      what: "The model needs more memory than WebAssembly has",
      got: mebibytes(total),
      expected: `at most ${mebibytes(LIMIT_BYTES)}`,
      remedy: REMEDY,
    });
  try {
    return new WebAssembly.Memory({ initial: total / PAGE, maximum: total / PAGE, shared });
  } catch (error) {
    throw new DeviceError("out-of-memory", {
      what: "The browser has not enough memory for the model",
      got: error instanceof Error ? error.message : String(error),
      expected: mebibytes(total),
      remedy: `Close other tabs and programs. ${REMEDY}`,
    });
  }
}
