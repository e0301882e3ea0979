// How Python hands arguments to parameters. A function's parameters are a line like "sep? maxsplit?" or, where the first ones
// have no names for callers, "old new count? /". Knows nothing of what the functions do.

import { TemplateError } from "./budget";
import { isNumber, type Named, textOf, truthy, typeName, type Value } from "./values";

export type Arguments = readonly (Value | undefined)[];

/** @throws TemplateError for arguments that Python would refuse */
export function bind(name: string, parameters: string, args: readonly Value[], named: Named): Arguments {
  const words = parameters.split(" ").filter((word) => word !== "");
  const nameless = words.indexOf("/");
  const all = words.filter((word) => word !== "/");
  if (args.length > all.length) throw new TemplateError(`${name}() takes ${all.length} arguments, but ${args.length} were given`);
  const bound: (Value | undefined)[] = all.map((_, i) => args[i]);
  for (const [key, value] of named) {
    const at = all.findIndex((word) => word.replace("?", "") === key);
    if (at < 0 || at < nameless) throw new TemplateError(`${name}() got an unexpected keyword argument '${key}'`);
    if (bound[at] !== undefined) throw new TemplateError(`${name}() got multiple values for argument '${key}'`);
    bound[at] = value;
  }
  for (const [i, word] of all.entries())
    if (bound[i] === undefined && !word.endsWith("?")) throw new TemplateError(`${name}() missing required argument '${word}'`);
  return bound;
}

/** An argument that has to be a str. */
export function textArgument(value: Value | undefined, otherwise?: string): string {
  const text = value === undefined ? otherwise : textOf(value);
  if (text === undefined) throw new TemplateError(`expected str, got ${typeName(value ?? null)}`);
  return text;
}

/** An argument that has to be an int, which a bool is as well; far values come as the farthest that matter. */
export function intArgument(value: Value | undefined, otherwise?: number): number {
  if (value === undefined && otherwise !== undefined) return otherwise;
  if (value === undefined || !isNumber(value) || typeof value === "number")
    throw new TemplateError(`'${typeName(value ?? null)}' object cannot be interpreted as an integer`);
  return Math.max(-(2 ** 52), Math.min(2 ** 52, Number(value)));
}

export const flag = (value: Value | undefined): boolean => value !== undefined && truthy(value);

/** None is the same as no argument. */
export const given = (value: Value | undefined): Value | undefined => (value === null ? undefined : value);
