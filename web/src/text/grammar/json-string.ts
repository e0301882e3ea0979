// Strings of a JSON Schema as expressions: lengths, patterns and formats together.

import { type Automaton, automatonOf, EVERYTHING, grammarOf, intersect, lengths, words } from "./automaton";
import { ANY, characterClass, type Expression, mapClasses, repeat, rulesOf, sequence, text } from "./expression";
import type { Compiler, Together } from "./schema-compiler";
import { CHARACTER, spelled } from "./json-text";
import { END, parseRegex, START } from "./regex";
import { NOT_PATTERN, numberOf, refuse, type Schema } from "./schema-keywords";

const DATE = "\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))";
const TIME = "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";
const LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const BYTE = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
/** Of RFC 3339, 5321, 1123, 2673, 4291, 3986 and 4122 the part that nobody doubts. */
const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE}T${TIME}`,
  duration: "P(\\d{1,6}W|\\d{1,6}D(T\\d{1,6}H(\\d{1,6}M(\\d{1,6}S)?)?)?|T\\d{1,6}(H(\\d{1,6}M(\\d{1,6}S)?)?|M(\\d{1,6}S)?|S))",
  email: `[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@${LABEL}(\\.${LABEL})+`,
  hostname: `${LABEL}(\\.${LABEL}){0,3}`,
  ipv4: `${BYTE}(\\.${BYTE}){3}`,
  ipv6: "([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}",
  uri: "https?://[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)*(:[1-9]\\d{0,3})?(/[A-Za-z0-9._~-]+)*/?(\\?[A-Za-z0-9._~=&-]*)?(#[A-Za-z0-9._~-]*)?",
  uuid: "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
};

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
    const source = typeof format === "string" ? FORMATS[format] : undefined;
    if (source === undefined) return refuse("a format that is not supported", format, `There are ${Object.keys(FORMATS).join(", ")}.`);
    found.push({ expression: parseRegex(source), search: false });
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
