// Says when work on text begins and ends. A stranger's template or pattern may run for ever, and while it does this thread
// hears nothing: whoever watches it must know beforehand. Knows neither of them.

export type TextWork = "template" | "tokenizer" | "building the tokenizer" | "grammar";

let listener: ((work: TextWork | undefined) => void) | undefined;

/** @param next hears the work that begins, and undefined at its end */
export function onTextWork(next: typeof listener): void {
  listener = next;
}

/** `work` done by `make`, which is synchronous. */
export function announced<T>(work: TextWork, make: () => T): T {
  listener?.(work);
  try {
    return make();
  } finally {
    listener?.(undefined);
  }
}
