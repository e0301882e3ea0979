// The decode loop of answers whose tokens are not free. Knows tokens and masks; what a constraint means it does not know.

import type { Constraint, Next } from "../api/constraint";

/** What the loop needs of its session. */
export interface ConstrainedSteps {
  /** The device runs while results are waited for. */
  readonly overlaps: boolean;
  /** Makes all rows resident but that of the last token, which the next forward() takes. False: aborted. */
  prefill(): Promise<boolean>;
  /** The step of the last token up to its logits. */
  forward(): void;
  writeMask(words: Uint32Array<ArrayBuffer>): void;
  /** Ends the step that forward() began. Undefined: aborted. */
  sample(): Promise<number | undefined>;
  /** A token of the answer. True: it ends it. */
  take(token: number): boolean;
  /** How many tokens may still come; of `wanted` ones, those that there is memory for. */
  left(wanted?: number): number;
}

const FREE: Constraint = { next: () => ({ kind: "any" }), accept: () => undefined };

/**
 * One step in flight: the mask of a token depends on all before it. Where the device overlaps, the next step up to its
 * logits is handed over before this one's token is read, so what may come next is found while the device works.
 *
 * @param all a mask of every token
 */
export async function decodeConstrained(
  steps: ConstrainedSteps,
  constraint: Constraint = FREE,
  all: Uint32Array<ArrayBuffer>,
): Promise<"stop" | "length" | "abort"> {
  /** The last token's step has begun. */
  let begun = false;
  let masked: Next["kind"] | undefined;
  while (steps.left() > 0) {
    const next = await constraint.next();
    if (next.kind === "ended") return "stop";
    if (next.kind === "forced") {
      for (const token of next.tokens.slice(0, steps.left(next.tokens.length))) {
        constraint.accept(token);
        if (steps.take(token)) return "stop";
      }
      if (!(await steps.prefill())) return "abort";
      begun = false;
      continue;
    }
    if (!begun) steps.forward();
    if (next.kind === "some" || masked !== "any") steps.writeMask(next.kind === "some" ? next.mask : all);
    masked = next.kind;
    const sampled = steps.sample();
    begun = steps.overlaps && steps.left() > 1;
    if (begun) steps.forward();
    const token = await sampled;
    if (token === undefined) return "abort";
    constraint.accept(token);
    if (steps.take(token)) return "stop";
  }
  return (await constraint.next()).kind === "ended" ? "stop" : "length";
}
