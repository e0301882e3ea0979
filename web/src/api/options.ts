// What callers pass is checked here, once, by the same words. Callers may be JavaScript: a type is a promise that nobody checked.

import { RequestError } from "./errors";

export interface NumberRange {
  least: number;
  /** None: any that is not smaller. */
  most?: number;
  integer?: boolean;
}

/** @throws RequestError naming `what`, the value and the range */
export function checkNumber(what: string, value: number, { least, most, integer = false }: NumberRange): number {
  const right =
    typeof value === "number" && value >= least && (most === undefined || value <= most) && (!integer || Number.isInteger(value));
  if (right) return value;
  const range = most === undefined ? `of at least ${least}` : `from ${least} to ${most}`;
  throw new RequestError({ what, got: String(value), expected: `${integer ? "an integer" : "a number"} ${range}` });
}
