// How long a context the device has memory for: what does not fit is lowered, and that is said; what was asked for is
// refused with what would fit. Knows numbers; how a model is started is given to it.

import { GIB } from "../../artifact/checks";
import type { Plan, Variant } from "../../artifact/schema";
import { LIMIT_BYTES, memoryNeeded, MOST_THREADS } from "../../backend/wasm/backend";
import { DeviceError, RequestError } from "../../api/errors";
import { bufferSizes } from "../../runtime/replay";

/** A model with less is of no use. */
const LEAST_CONTEXT = 512;

export interface WantedContext {
  tokens: number;
  /** The caller's own number: it or none. */
  asked: boolean;
}

const tokens = (count: number): string => `${count.toLocaleString("en-US")} tokens`;

/**
 * Starts with the wanted context, or with half of it again and again while the device has not enough memory.
 * @param fits whether the device has memory for so many tokens
 * @throws RequestError when the caller's own number does not fit and a smaller one does
 */
export async function startWithin<R extends { notices: readonly string[] }>(
  { tokens: wanted, asked }: WantedContext,
  start: (capacity: number) => Promise<R>,
  fits: (capacity: number) => Promise<boolean>,
): Promise<R> {
  let capacity = wanted;
  for (;;) {
    try {
      const started = await start(capacity);
      return capacity === wanted ? started : { ...started, notices: [...started.notices, lowered(wanted, capacity)] };
    } catch (error) {
      if (!isOutOfMemory(error)) throw error;
      let less = half(capacity);
      while (asked && less !== undefined && !(await fits(less))) less = half(less);
      if (less === undefined) throw error;
      if (asked) throw refusal(wanted, less);
      capacity = less;
    }
  }
}

/**
 * What of the wanted context WebAssembly's memory can hold; all of it or nothing where a `twin` may be tried.
 * @throws DeviceError("out-of-memory"), RequestError
 */
export function withinWasm(plan: Plan, { tokens: wanted, asked }: WantedContext, twin?: Variant): number {
  const needed = (capacity: number) => memoryNeeded(bufferSizes(plan, capacity), MOST_THREADS);
  if (needed(wanted) <= LIMIT_BYTES) return wanted;
  if (twin !== undefined)
    throw new DeviceError("out-of-memory", {
      what: `With a context of ${tokens(wanted)} keys and values in 16 bits need more memory than WebAssembly offers`,
      got: `${(needed(wanted) / GIB).toFixed(1)} GiB`,
      expected: `at most ${(LIMIT_BYTES / GIB).toFixed(1)} GiB`,
      remedy: `Take ${twin.name}, or give a smaller contextLength.`,
    });
  const least = Math.min(LEAST_CONTEXT, wanted);
  if (needed(least) > LIMIT_BYTES) {
    const gib = (bytes: number) => `${(bytes / GIB).toFixed(1)} GiB`;
    throw new DeviceError("out-of-memory", {
      what: `The model needs more memory with a context of ${least} tokens than WebAssembly offers`,
      got: gib(needed(least)),
      expected: `at most ${gib(LIMIT_BYTES)}`,
      remedy:
        least === wanted && least > 1
          ? "Give a smaller contextLength, or use a device with WebGPU."
          : "Use a device with WebGPU, or a smaller model.",
    });
  }
  let [low, high] = [least, wanted];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (needed(middle) <= LIMIT_BYTES) low = middle;
    else high = middle;
  }
  if (asked) throw refusal(wanted, low);
  return low;
}

export function lowered(wanted: number, capacity: number): string {
  return `There is memory for a context of ${tokens(capacity)} here, not for the model's ${tokens(wanted)}.`;
}

export function isOutOfMemory(error: unknown): error is DeviceError {
  return error instanceof DeviceError && error.kind === "out-of-memory";
}

function half(capacity: number): number | undefined {
  return capacity <= LEAST_CONTEXT ? undefined : Math.max(LEAST_CONTEXT, Math.floor(capacity / 2));
}

function refusal(wanted: number, fitting: number): RequestError {
  return new RequestError({
    what: "contextLength: the device has not enough memory",
    got: String(wanted),
    expected: `at most ${fitting}`,
    remedy: "Give that, or leave it out: then the engine takes what fits.",
  });
}
