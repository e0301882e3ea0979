// Strings of a JSON Schema as expressions: lengths, patterns and formats together.

import { type Automaton, automatonOf, EVERYTHING, grammarOf, intersect, lengths, words } from "./automaton";
import { ANY, characterClass, type Expression, mapClasses, repeat, rulesOf, sequence, text } from "./expression";
import type { Compiler, Together } from "./schema-compiler";
import { sourceOf } from "./formats";
import { CHARACTER, spelled } from "./json-text";
import { END, parseRegex, START } from "./regex";
import { NOT_PATTERN, numberOf, refuse, type Schema } from "./schema-keywords";

/** A pattern, and whether it is all of the text or anywhere in it. */
interface Pattern {
  expression: Expression;
  search: boolean;
}

function patternsOf(schema: Schema): Pattern[] {
  const { pattern, format } = schema;
  const found: Pattern[] = [];
  if (pattern !== undefined) {
    if (typeof pattern !== "string") refuse("no text as pattern", pattern);
    else found.push({ expression: parseRegex(pattern), search: true });
  }
  if (format !== undefined) {
    found.push({ expression: parseRegex(sourceOf(format)), search: false });
  }
  return found;
}

function lengthsOf(together: Together): [number, number] {
  const all = (keyword: string) => together.flatMap((schema) => numberOf(schema, keyword, 0) ?? []);
  return [Math.max(0, ...all("minLength")), Math.min(Infinity, ...all("maxLength"))];
}

/** What of a text is left when the ends that it must be at are taken off; undefined where ^ or $ stand elsewhere. */
function withoutEnds({ expression, search }: Pattern): Expression | undefined {
  const items = expression.type === "sequence" ? [...expression.items] : [expression];
  const isEnd = (item: Expression | undefined, name: string) => item?.type === "rule" && item.name === name;
  const [fromStart, toEnd] = [isEnd(items[0], START), isEnd(items.at(-1), END)];
  if (fromStart) items.shift();
  if (toEnd) items.pop();
  if (items.some((item) => rulesOf(item).size > 0)) return undefined;
  const anything = repeat(characterClass(ANY), 0, Infinity);
  return sequence(...(search && !fromStart ? [anything] : []), ...items, ...(search && !toEnd ? [anything] : []));
}

export function stringOf(compiler: Compiler, together: Together, excluded: readonly string[]): Expression {
  const [least, most] = lengthsOf(together);
  const patterns = together.flatMap(patternsOf);
  const against = together.some((schema) => schema[NOT_PATTERN] !== undefined);
  const quoted = (inner: Expression) => sequence(text('"'), inner, text('"'));
  const [pattern, ...more] = patterns;
  if (!against && excluded.length === 0) {
    if (pattern === undefined) return quoted(repeat(CHARACTER, least, most));
    const whole = withoutEnds(pattern);
    if (whole !== undefined && more.length === 0 && least === 0 && most === Infinity) return quoted(mapClasses(whole, spelled));
  }
  return quoted(grammarOf(textsOfAll(together, excluded), spelled, compiler.add));
}

/** The texts that are valid against all of `together`, enum and const left aside. */
export function textsOfAll(together: Together, excluded: readonly string[]): Automaton {
  const [least, most] = lengthsOf(together);
  let found = least === 0 && most === Infinity ? EVERYTHING : lengths(least, most);
  for (const { expression, search } of together.flatMap(patternsOf)) found = intersect(found, automatonOf(expression, search));
  for (const { [NOT_PATTERN]: pattern } of together)
    if (typeof pattern === "string") found = intersect(found, automatonOf(parseRegex(pattern), true), true);
  return excluded.length === 0 ? found : intersect(found, words(excluded), true);
}

/** As a whole, without being quoted: a regular expression that is the answer. */
export function regexGrammar(source: string, add: (make: (name: string) => Expression) => string): Expression {
  const expression = parseRegex(source);
  const whole = withoutEnds({ expression, search: false });
  return whole ?? grammarOf(automatonOf(expression, false), characterClass, add);
}
