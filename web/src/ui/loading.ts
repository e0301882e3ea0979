// The progress of a load: bytes, rate, time left, cancel.

import type { LoadProgress } from "../api/types";
import { byId } from "./dom";
import { bytes, duration } from "./format";

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

function phaseText(phase: LoadProgress["phase"], fromCache: boolean): string {
  switch (phase) {
    case "manifest":
      return "Reading the model’s description";
    case "weights":
      return fromCache ? "Reading the weights from this browser’s cache" : "Downloading the weights";
    case "kernels":
      return "Preparing the model";
    case "ready":
      return "Ready";
  }
}

export class ProgressView {
  readonly #section = byId("progress", HTMLElement);
  readonly #phase = byId("progress-phase", HTMLElement);
  readonly #percent = byId("progress-percent", HTMLElement);
  readonly #bar = byId("progress-bar", HTMLProgressElement);
  readonly #detail = byId("progress-detail", HTMLElement);
  readonly #cancel = byId("cancel", HTMLButtonElement);
  #rate = new RateMeter();

  constructor(onCancel: () => void) {
    this.#cancel.addEventListener("click", onCancel);
  }

  start(modelName: string): void {
    this.#rate = new RateMeter();
    this.#bar.removeAttribute("value");
    this.#phase.textContent = `Loading ${modelName}`;
    this.#percent.textContent = "";
    this.#detail.textContent = "";
    this.#section.hidden = false;
    this.#cancel.focus();
  }

  update({ phase, loadedBytes, totalBytes, cachedBytes, waiting }: LoadProgress): void {
    // Only what came over the network counts for the rate: a cache would promise too much.
    this.#rate.add(performance.now(), loadedBytes - cachedBytes);
    const text = phaseText(phase, cachedBytes > 0 && cachedBytes >= loadedBytes);
    if (this.#phase.textContent !== text) this.#phase.textContent = text;
    if (totalBytes === 0) {
      this.#detail.textContent = waiting ?? "";
      return;
    }
    this.#bar.max = totalBytes;
    this.#bar.value = loadedBytes;
    this.#percent.textContent = `${Math.floor((100 * loadedBytes) / totalBytes)} %`;
    const parts = [`${bytes(loadedBytes)} of ${bytes(totalBytes)}`];
    if (waiting !== null) {
      this.#detail.textContent = [...parts, waiting].join(" · ");
      return;
    }
    const perSecond = phase === "weights" ? this.#rate.perSecond() : null;
    if (perSecond !== null) parts.push(`${bytes(perSecond)}/s`, `${duration((totalBytes - loadedBytes) / perSecond)} left`);
    else if (cachedBytes > 0) parts.push(`${bytes(cachedBytes)} from the cache`);
    this.#detail.textContent = parts.join(" · ");
  }

  stop(): void {
    this.#section.hidden = true;
  }
}
