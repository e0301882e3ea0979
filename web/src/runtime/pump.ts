// Hands work to a device at a pace and takes the results in their order. Knows neither what the work is nor the device.

import type { Clock } from "./clock";
import type { Pace } from "./pace";

export interface Work<T> {
  /** What it costs, in the pace's units. */
  units: number;
  /** Hands it over; resolves once it has run. */
  start: () => Promise<T>;
}

export interface Pump<T> {
  pace: Pace;
  clock: Clock;
  signal: AbortSignal;
  /** What comes next; undefined when nothing does. Asked again until it was started, so that it can follow the pace. */
  next: () => Work<T> | undefined;
  /** True ends it; what is under way then runs on, and nobody waits for it. */
  onResult: (result: T) => boolean;
  /** End when everything was handed over, without waiting for it to run. */
  handOver?: boolean;
}

type Event<T> = { kind: "result"; result: T } | { kind: "tick" } | { kind: "abort" };

/** "aborted" at once when the signal says so, whatever is under way. @throws what the work throws */
export async function pump<T>({ pace, clock, signal, next, onResult, handOver = false }: Pump<T>): Promise<"done" | "ended" | "aborted"> {
  const underWay: Promise<Event<T>>[] = [];
  const abort = new Promise<Event<T>>((resolve) => signal.addEventListener("abort", () => resolve({ kind: "abort" }), { once: true }));
  pace.begin(clock.now());
  while (!signal.aborted) {
    let wait = Infinity;
    for (let work = next(); work !== undefined; work = next()) {
      wait = pace.delay(work.units, clock.now());
      if (wait > 0) break;
      pace.submitted(work.units, clock.now());
      const result = work.start().then((value): Event<T> => ({ kind: "result", result: value }));
      result.catch(() => undefined); // After an early end nobody waits for what is still under way.
      underWay.push(result);
      wait = Infinity;
    }
    if (handOver && next() === undefined) return "done";
    const oldest = underWay[0];
    if (oldest === undefined) return "done";
    const ticks = wait === Infinity ? [] : [clock.sleep(wait).then((): Event<T> => ({ kind: "tick" }))];
    const event = await Promise.race([oldest, abort, ...ticks]);
    if (event.kind !== "result") continue;
    void underWay.shift();
    pace.answered(clock.now());
    if (onResult(event.result)) return "ended";
  }
  return "aborted";
}
