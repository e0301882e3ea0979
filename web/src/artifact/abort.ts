// Signals that end with any of several: AbortSignal.any(), and what does in its place where browsers of before 2024 lack it.

/** Aborted as soon as one of `signals` is, with its reason. */
export function anySignal(signals: AbortSignal[]): AbortSignal {
  const { any } = AbortSignal as Partial<typeof AbortSignal>;
  return any?.call(AbortSignal, signals) ?? listening(signals);
}

/** The browser's own lets go of signals that nobody listens to any more; this one holds on to them as long as `signals` live. */
export function listening(signals: readonly AbortSignal[]): AbortSignal {
  const controller = new AbortController();
  const aborted = signals.find((signal) => signal.aborted);
  if (aborted !== undefined) {
    controller.abort(aborted.reason);
    return controller.signal;
  }
  for (const signal of signals)
    signal.addEventListener("abort", () => controller.abort(signal.reason), { once: true, signal: controller.signal });
  return controller.signal;
}
