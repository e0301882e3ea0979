// Context-free grammars over code points, as values: what JSON Schemas, regular expressions and GBNF become, and what a
// machine is made of. Knows none of the three.

/** Code points from `first` to `last`. */
export type Range = readonly [first: number, last: number];

export type Expression =
  | { type: "text"; text: string }
  /** One code point of these ranges, which are sorted and do not touch. */
  | { type: "class"; ranges: readonly Range[] }
  | { type: "sequence"; items: readonly Expression[] }
  /** None: nothing at all matches. */
  | { type: "choice"; items: readonly Expression[] }
  | { type: "repeat"; item: Expression; least: number; most: number }
  | { type: "rule"; name: string };

/** Rules by name; an answer is what the rule `root` is. */
export type Grammar = ReadonlyMap<string, Expression>;
export const ROOT = "root";

export const NEVER: Expression = { type: "choice", items: [] };
export const EMPTY: Expression = { type: "text", text: "" };

export const text = (value: string): Expression => ({ type: "text", text: value });
export const rule = (name: string): Expression => ({ type: "rule", name });

export function isNever(expression: Expression): boolean {
  return expression.type === "choice" && expression.items.length === 0;
}

export function sequence(...items: readonly Expression[]): Expression {
  if (items.some(isNever)) return NEVER;
  const kept = items.filter((item) => item !== EMPTY && !(item.type === "text" && item.text === ""));
  const [first, ...rest] = kept;
  return first === undefined ? EMPTY : rest.length === 0 ? first : { type: "sequence", items: kept };
}

export function choice(...items: readonly Expression[]): Expression {
  const kept = items.filter((item) => !isNever(item));
  const [first, ...rest] = kept;
  return first !== undefined && rest.length === 0 ? first : { type: "choice", items: kept };
}

export function repeat(item: Expression, least: number, most: number): Expression {
  if (most < least) return NEVER;
  if (most === 0) return EMPTY;
  if (isNever(item)) return least === 0 ? EMPTY : NEVER;
  return least === 1 && most === 1 ? item : { type: "repeat", item, least, most };
}

export const optional = (item: Expression): Expression => repeat(item, 0, 1);

const LAST = 0x10ffff;
/** Halves of characters: no text has one alone. */
const SURROGATES: Range = [0xd800, 0xdfff];

/** Sorted, joined, without surrogates. */
export function ranges(parts: readonly Range[]): Range[] {
  const out: [number, number][] = [];
  for (const [first, last] of parts.toSorted(([a], [b]) => a - b)) {
    const before = out.at(-1);
    if (before !== undefined && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else out.push([first, last]);
  }
  return out.flatMap(([first, last]): Range[] => {
    if (last < SURROGATES[0] || first > SURROGATES[1]) return [[first, last]];
    const both: Range[] = [
      [first, SURROGATES[0] - 1],
      [SURROGATES[1] + 1, last],
    ];
    return both.filter(([from, to]) => from <= to);
  });
}

export function complement(parts: readonly Range[]): Range[] {
  const out: Range[] = [];
  let next = 0;
  for (const [first, last] of [...ranges(parts), [LAST + 1, LAST + 1] as const]) {
    if (first > next) out.push([next, first - 1]);
    next = last + 1;
  }
  return ranges(out);
}

export function intersection(a: readonly Range[], b: readonly Range[]): Range[] {
  return ranges(
    a.flatMap(([first, last]) =>
      b.map(([from, to]): Range => [Math.max(first, from), Math.min(last, to)]).filter(([from, to]) => from <= to),
    ),
  );
}

export function characterClass(parts: readonly Range[]): Expression {
  const joined = ranges(parts);
  return joined.length === 0 ? NEVER : { type: "class", ranges: joined };
}

export const ANY: readonly Range[] = complement([]);
export const characters = (all: string): Range[] => ranges(Array.from(all, (character): Range => [codeOf(character), codeOf(character)]));
export const codeOf = (character: string): number => character.codePointAt(0) ?? 0;

/** The same with every class and text replaced, code point by code point. */
export function mapClasses(expression: Expression, map: (ranges: readonly Range[]) => Expression): Expression {
  switch (expression.type) {
    case "text":
      return sequence(...Array.from(expression.text, (character) => map(characters(character))));
    case "class":
      return map(expression.ranges);
    case "sequence":
      return sequence(...expression.items.map((item) => mapClasses(item, map)));
    case "choice":
      return choice(...expression.items.map((item) => mapClasses(item, map)));
    case "repeat":
      return repeat(mapClasses(expression.item, map), expression.least, expression.most);
    case "rule":
      return expression;
  }
}

/**
 * The grammar without what can never end, such as an object that must hold itself, and without rules that nothing needs.
 * Undefined: nothing matches it.
 */
export function productive(grammar: Grammar): Grammar | undefined {
  const ends = new Set<string>();
  const canEnd = (expression: Expression): boolean => {
    switch (expression.type) {
      case "text":
      case "class":
        return true;
      case "sequence":
        return expression.items.every(canEnd);
      case "choice":
        return expression.items.some(canEnd);
      case "repeat":
        return expression.least === 0 || canEnd(expression.item);
      case "rule":
        return ends.has(expression.name);
    }
  };
  for (let before = -1; before < ends.size;) {
    before = ends.size;
    for (const [name, body] of grammar) if (!ends.has(name) && canEnd(body)) ends.add(name);
  }
  if (!ends.has(ROOT)) return undefined;
  const prune = (expression: Expression): Expression => {
    switch (expression.type) {
      case "sequence":
        return sequence(...expression.items.map(prune));
      case "choice":
        return choice(...expression.items.map(prune));
      case "repeat":
        return repeat(prune(expression.item), expression.least, expression.most);
      case "rule":
        return ends.has(expression.name) ? expression : NEVER;
      case "text":
      case "class":
        return expression;
    }
  };
  const kept = new Map<string, Expression>();
  const visit = (name: string): void => {
    const body = grammar.get(name);
    if (body === undefined || kept.has(name)) return;
    const pruned = prune(body);
    kept.set(name, pruned);
    rulesOf(pruned).forEach(visit);
  };
  visit(ROOT);
  return kept;
}

/** Every text that matches has a byte at least; false, too, where that depends on a rule. */
export function consumes(expression: Expression): boolean {
  switch (expression.type) {
    case "text":
      return expression.text !== "";
    case "class":
      return true;
    case "sequence":
      return expression.items.some(consumes);
    case "choice":
      return expression.items.every(consumes);
    case "repeat":
      return expression.least > 0 && consumes(expression.item);
    case "rule":
      return false;
  }
}

/** The names of the rules that it refers to. */
export function rulesOf(expression: Expression): Set<string> {
  const found = new Set<string>();
  const walk = (part: Expression): void => {
    if (part.type === "rule") found.add(part.name);
    else if (part.type === "sequence" || part.type === "choice") part.items.forEach(walk);
    else if (part.type === "repeat") walk(part.item);
  };
  walk(expression);
  return found;
}

/** The range in pieces whose UTF-8 is a range in each byte, whatever the others are: the algorithm of Rust's utf8-ranges. */
export function inUtf8([first, last]: Range): Range[] {
  const cut = (at: number): Range[] => [...inUtf8([first, at]), ...inUtf8([at + 1, last])];
  const end = [0x7f, 0x7ff, 0xffff].find((most) => first <= most && last > most);
  if (end !== undefined) return cut(end);
  if (last <= 0x7f) return [[first, last]];
  for (const bits of [6, 12, 18]) {
    const below = 2 ** bits - 1;
    if ((first & ~below) === (last & ~below)) continue;
    if ((first & below) !== 0) return cut(first | below);
    if ((last & below) !== below) return cut((last & ~below) - 1);
  }
  return [[first, last]];
}
