// What the progress of a load says: phase, bytes, rate, time left.

import type { LoadProgress } from "../../api/types";
import { bytes } from "../format";
import { t } from "../texts";
import { duration } from "./words";

const RATE_WINDOW_MS = 4000;

/** Bytes a second over the last few seconds. Times in milliseconds. */
export class RateMeter {
  #samples: { at: number; loaded: number }[] = [];

  add(at: number, loaded: number): void {
    this.#samples.push({ at, loaded });
    while (this.#samples.length > 2 && at - (this.#samples[0]?.at ?? at) > RATE_WINDOW_MS) this.#samples.shift();
  }

  /** Null until there is enough to tell. */
  perSecond(): number | null {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.at - first.at < 250 || last.loaded <= first.loaded) return null;
    return ((last.loaded - first.loaded) / (last.at - first.at)) * 1000;
  }
}

export function phaseText(phase: LoadProgress["phase"], fromCache: boolean): string {
  switch (phase) {
    case "manifest":
      return t("load.manifest");
    case "weights":
      return t(fromCache ? "load.cached" : "load.weights");
    case "kernels":
      return t("load.kernels");
    case "ready":
      return t("load.ready");
  }
}

/** The bytes of a load in words. `perSecond` is null where the rate is not known. */
export function progressText({ loadedBytes, totalBytes, cachedBytes, waiting }: LoadProgress, perSecond: number | null): string {
  if (totalBytes === 0) return waiting ?? "";
  const parts = [t("load.of", { done: bytes(loadedBytes), total: bytes(totalBytes) })];
  if (waiting !== null) parts.push(waiting);
  else if (perSecond !== null)
    parts.push(`${bytes(perSecond)}/s`, t("load.left", { time: duration((totalBytes - loadedBytes) / perSecond) }));
  else if (cachedBytes > 0) parts.push(t("load.from-cache", { size: bytes(cachedBytes) }));
  return parts.join(" · ");
}
