// Jinja2's tests, `value is name(arguments)`, by name.

import { bind } from "./arguments";
import { operate } from "./arithmetic";
import { TemplateError } from "./budget";
import { IS } from "./text";
import {
  Bytes,
  Callable,
  compare,
  contains,
  Dict,
  equal,
  isNumber,
  Markup,
  PyObject,
  Range,
  str,
  textOf,
  Tuple,
  Undefined,
  type Named,
  type Value,
} from "./values";

type Test = readonly [parameters: string, holds: (value: Value, other: Value) => boolean];

const iterable = (value: Value) =>
  textOf(value) !== undefined || Array.isArray(value) || (value instanceof PyObject && value.iterate() !== undefined);
const sequence = (value: Value) =>
  textOf(value) !== undefined ||
  Array.isArray(value) ||
  [Tuple, Dict, Range, Bytes].some((kind) => value instanceof kind) ||
  value instanceof Undefined;
const same = (a: Value, b: Value) => a === b || (textOf(a) !== undefined && textOf(a) === textOf(b));
const one = (holds: (value: Value) => boolean): Test => ["", holds];
const two = (holds: (value: Value, other: Value) => boolean): Test => ["other", holds];
const remainder = (value: Value, by: bigint) => operate("Mod", value, by);

const equals = two(equal);
const differs = two((a, b) => !equal(a, b));
const less = two((a, b) => compare(a, b) < 0);
const lessOrEqual = two((a, b) => compare(a, b) <= 0);
const greater = two((a, b) => compare(a, b) > 0);
const greaterOrEqual = two((a, b) => compare(a, b) >= 0);

const TESTS: Record<string, Test> = {
  odd: one((value) => equal(remainder(value, 2n), 1n)),
  even: one((value) => equal(remainder(value, 2n), 0n)),
  divisibleby: ["num", (value, by) => equal(operate("Mod", value, by), 0n)],
  defined: one((value) => !(value instanceof Undefined)),
  undefined: one((value) => value instanceof Undefined),
  none: one((value) => value === null),
  boolean: one((value) => typeof value === "boolean"),
  false: one((value) => value === false),
  true: one((value) => value === true),
  integer: one((value) => typeof value === "bigint"),
  float: one((value) => typeof value === "number"),
  number: one(isNumber),
  lower: one((value) => IS.islower?.(str(value)) === true),
  upper: one((value) => IS.isupper?.(str(value)) === true),
  string: one((value) => textOf(value) !== undefined),
  mapping: one((value) => value instanceof Dict),
  sequence: one(sequence),
  iterable: one(iterable),
  callable: one((value) => value instanceof Callable || value instanceof Undefined),
  sameas: two(same),
  escaped: one((value) => value instanceof Markup),
  in: ["seq", (value, container) => contains(container, value)],
  eq: equals,
  equalto: equals,
  "==": equals,
  ne: differs,
  "!=": differs,
  lt: less,
  lessthan: less,
  "<": less,
  le: lessOrEqual,
  "<=": lessOrEqual,
  gt: greater,
  greaterthan: greater,
  ">": greater,
  ge: greaterOrEqual,
  ">=": greaterOrEqual,
};

export const isTest = (name: string): boolean => Object.hasOwn(TESTS, name);

/** @throws TemplateError for a test that Jinja2 does not have */
export function runTest(name: string, value: Value, args: readonly Value[], named: Named): boolean {
  const test = Object.hasOwn(TESTS, name) ? TESTS[name] : undefined;
  if (test === undefined) throw new TemplateError(`No test named '${name}' found.`);
  const [other] = bind(name, test[0], args, named);
  return test[1](value, other ?? null);
}
