// Whether an engine that an adapter has made can still answer; a lost device is for good only once the engine says so.

import type { Engine } from "../api/types";

/** Of an engine that was disposed of, statistics cannot be had any more. */
export function isDisposed(engine: Engine): boolean {
  try {
    engine.stats();
    return false;
  } catch (error) {
    return kindOf(error) !== undefined;
  }
}

/** Whether a call that failed with `error` says that its engine answers no more. */
export function isOfTheLost(error: unknown): boolean {
  const kind = kindOf(error);
  return kind === "disposed" || kind === "device-lost";
}

function kindOf(error: unknown): unknown {
  return error instanceof Error && "kind" in error ? error.kind : undefined;
}
