// Deterministic automata over code points: what has to be decided of several conditions at once (two patterns, a pattern and a
// length, all names but some) is decided here, before any text is there. Knows expressions; no JSON.

import { RequestError } from "../../api/errors";
import { ANY, characters, choice, EMPTY, type Expression, type Range, ranges, rule, sequence } from "./expression";
import { END, START } from "./regex";

/** Symbols are intervals of code points: symbol i begins at `bounds[i]` and ends before `bounds[i + 1]`. State 0 is the first. */
export interface Automaton {
  bounds: readonly number[];
  /** By state, then symbol; -1: the text does not match. */
  next: readonly Int32Array[];
  accepts: readonly boolean[];
}

const MOST_STATES = 4000;
const END_OF_CODES = 0x110000;

function tooMany(): never {
  throw new RequestError({
    what: "The patterns and lengths of a text are too much together",
    got: `more than ${MOST_STATES} states`,
    remedy: "Shorten the text's maxLength, or leave out one of its conditions.",
  });
}

/** An automaton that is not deterministic: edges that take a symbol, and edges that take none. */
interface Nfa {
  symbols: { ranges: readonly Range[]; to: number }[][];
  /** `when`: only at the text's start or end. */
  free: { to: number; when: typeof START | typeof END | undefined }[][];
}

function state(nfa: Nfa): number {
  nfa.symbols.push([]);
  nfa.free.push([]);
  if (nfa.free.length > 20 * MOST_STATES) tooMany();
  return nfa.free.length - 1;
}

/** Thompson's construction: the state behind `expression`, begun in `from`. */
function build(nfa: Nfa, expression: Expression, from: number): number {
  const free = (a: number, to: number, when?: typeof START | typeof END) => nfa.free[a]?.push({ to, when });
  switch (expression.type) {
    case "text": {
      let at = from;
      for (const character of expression.text) {
        const to = state(nfa);
        nfa.symbols[at]?.push({ ranges: characters(character), to });
        at = to;
      }
      return at;
    }
    case "class": {
      const to = state(nfa);
      nfa.symbols[from]?.push({ ranges: expression.ranges, to });
      return to;
    }
    case "sequence":
      return expression.items.reduce((at, item) => build(nfa, item, at), from);
    case "choice": {
      const to = state(nfa);
      for (const item of expression.items) {
        const begin = state(nfa);
        free(from, begin);
        free(build(nfa, item, begin), to);
      }
      return to;
    }
    case "repeat": {
      let at = from;
      for (let i = 0; i < expression.least; i++) at = build(nfa, expression.item, at);
      if (expression.most === Infinity) {
        const loop = state(nfa);
        free(at, loop);
        free(build(nfa, expression.item, loop), loop);
        return loop;
      }
      const end = state(nfa);
      free(at, end);
      for (let i = expression.least; i < expression.most; i++) {
        at = build(nfa, expression.item, at);
        free(at, end);
      }
      return end;
    }
    case "rule": {
      if (expression.name !== START && expression.name !== END) throw new Error("an automaton of a grammar");
      const to = state(nfa);
      free(from, to, expression.name);
      return to;
    }
  }
}

/** Of the texts that match `expression` as a whole (`search` false), or hold a match anywhere. */
export function automatonOf(expression: Expression, search: boolean): Automaton {
  const nfa: Nfa = { symbols: [], free: [] };
  const start = state(nfa);
  let at = start;
  const anything = () => {
    const loop = state(nfa);
    nfa.free[at]?.push({ to: loop, when: undefined });
    nfa.symbols[loop]?.push({ ranges: ANY, to: loop });
    at = loop;
  };
  if (search) anything();
  at = build(nfa, expression, at);
  if (search) anything();
  const bounds = boundsOf(nfa.symbols.flat().map((edge) => edge.ranges));
  const closure = (states: Iterable<number>, when: typeof START | typeof END | undefined): number[] => {
    const found = new Set(states);
    for (const one of found) for (const edge of nfa.free[one] ?? []) if (edge.when === undefined || edge.when === when) found.add(edge.to);
    return [...found].sort((a, b) => a - b);
  };
  // A text may be empty: its start is its end then.
  const both = (states: number[]): number[] => {
    let found = states;
    for (let size = -1; size < found.length;) {
      size = found.length;
      found = closure(closure(found, START), END);
    }
    return found;
  };
  const first = closure([start], START);
  const sets: number[][] = [first];
  const numbers = new Map([[first.join(), 0]]);
  const next: Int32Array[] = [];
  for (let i = 0; i < sets.length; i++) {
    const row = new Int32Array(bounds.length).fill(-1);
    const edges = (sets[i] ?? []).flatMap((one) => nfa.symbols[one] ?? []);
    bounds.forEach((bound, symbol) => {
      const reached = edges.filter((edge) => edge.ranges.some(([from, to]) => from <= bound && bound <= to)).map(({ to }) => to);
      if (reached.length === 0) return;
      const set = closure(reached, undefined);
      const key = set.join();
      const known = numbers.get(key) ?? sets.push(set) - 1;
      if (known >= MOST_STATES) tooMany();
      numbers.set(key, known);
      row[symbol] = known;
    });
    next.push(row);
  }
  const accepts = sets.map((set, i) => (i === 0 ? both([start]) : closure(set, END)).includes(at));
  // The first state must not be come back to where it alone accepts the empty text.
  return trimmed({ bounds, next, accepts });
}

function boundsOf(all: readonly (readonly Range[])[]): number[] {
  const found = new Set([0, 0xd800, 0xe000]);
  for (const parts of all)
    for (const [first, last] of parts) {
      found.add(first);
      if (last + 1 < END_OF_CODES) found.add(last + 1);
    }
  return [...found].sort((a, b) => a - b);
}

const NO_EDGE = -1;

/** Without the states that no text ends from; there is always a first. */
function trimmed({ bounds, next, accepts }: Automaton): Automaton {
  const ends = accepts.map((accepting) => accepting);
  for (let changed = true; changed;) {
    changed = false;
    next.forEach((row, i) => {
      if (ends[i] !== true && row.some((to) => to >= 0 && ends[to] === true)) ends[i] = changed = true;
    });
  }
  const numbers = new Map<number, number>();
  const order = [0];
  numbers.set(0, 0);
  for (const one of order)
    for (const to of next[one] ?? []) {
      if (to < 0 || ends[to] !== true || numbers.has(to)) continue;
      numbers.set(to, order.length);
      order.push(to);
    }
  return {
    bounds,
    next: order.map((one) => Int32Array.from(next[one] ?? [], (to) => (to < 0 ? NO_EDGE : (numbers.get(to) ?? NO_EDGE)))),
    accepts: order.map((one) => accepts[one] === true),
  };
}

/** Whether no text matches. */
export function isEmpty({ accepts }: Automaton): boolean {
  return !accepts.includes(true);
}

/** What both accept; with `without`, what `a` accepts and `b` does not. */
export function intersect(a: Automaton, b: Automaton, without = false): Automaton {
  const bounds = [...new Set([...a.bounds, ...b.bounds])].sort((x, y) => x - y);
  const symbolsOf = ({ bounds: own }: Automaton) => {
    let symbol = 0;
    return bounds.map((bound) => {
      while ((own[symbol + 1] ?? END_OF_CODES) <= bound) symbol++;
      return symbol;
    });
  };
  const [symbolsA, symbolsB] = [symbolsOf(a), symbolsOf(b)];
  const pairs: [number, number][] = [[0, 0]];
  const numbers = new Map([["0,0", 0]]);
  const next: Int32Array[] = [];
  for (let i = 0; i < pairs.length; i++) {
    const [x, y] = pairs[i] ?? [0, 0];
    const row = new Int32Array(bounds.length).fill(-1);
    bounds.forEach((_, symbol) => {
      const to = a.next[x]?.[symbolsA[symbol] ?? 0] ?? -1;
      const other = y < 0 ? -1 : (b.next[y]?.[symbolsB[symbol] ?? 0] ?? -1);
      if (to < 0 || (other < 0 && !without)) return;
      const key = `${to},${other}`;
      const known = numbers.get(key) ?? pairs.push([to, other]) - 1;
      if (known >= MOST_STATES) tooMany();
      numbers.set(key, known);
      row[symbol] = known;
    });
    next.push(row);
  }
  const accepts = pairs.map(([x, y]) => a.accepts[x] === true && (y >= 0 && b.accepts[y] === true) !== without);
  return trimmed({ bounds, next, accepts });
}

/** Every text. */
export const EVERYTHING: Automaton = automatonOf(EMPTY, true);

/** Texts of `least` to `most` code points. */
export function lengths(least: number, most: number): Automaton {
  const any: Expression = { type: "class", ranges: ANY };
  if (least > MOST_STATES || (most !== Infinity && most > MOST_STATES)) tooMany();
  return automatonOf({ type: "repeat", item: any, least, most }, false);
}

/** These texts. */
export function words(all: readonly string[]): Automaton {
  return automatonOf(choice(...all.map((text): Expression => ({ type: "text", text }))), false);
}

/** States that one way alone leads to are written out where they are reached, so deep. */
const MOST_NESTED = 40;

/**
 * The automaton as rules, each for what may follow from a state on: the expression of the first.
 * @param spell how code points are written; @param add makes a rule: its name
 */
export function grammarOf(
  automaton: Automaton,
  spell: (parts: readonly Range[]) => Expression,
  add: (make: (name: string) => Expression) => string,
): Expression {
  const { bounds, next, accepts } = automaton;
  if (isEmpty(automaton)) return choice();
  const names = new Map<number, string>();
  const arrivals = new Int32Array(next.length);
  next.forEach((row, one) => {
    for (const to of new Set(row)) if (to >= 0 && to !== one) arrivals[to] = (arrivals[to] ?? 0) + 1;
  });
  let depth = 0;
  const bodyOf = (one: number): Expression => {
    const byTarget = new Map<number, Range[]>();
    next[one]?.forEach((to, symbol) => {
      if (to < 0) return;
      const part: Range = [bounds[symbol] ?? 0, (bounds[symbol + 1] ?? END_OF_CODES) - 1];
      byTarget.set(to, [...(byTarget.get(to) ?? []), part]);
    });
    const own = byTarget.get(one);
    byTarget.delete(one);
    const exits = [...byTarget].map(([to, parts]) => sequence(spell(ranges(parts)), visit(to)));
    if (accepts[one] === true) exits.push(EMPTY);
    // A state that leads to itself is a loop, which engines walk faster than a rule that names itself.
    return own === undefined
      ? choice(...exits)
      : sequence({ type: "repeat", item: spell(ranges(own)), least: 0, most: Infinity }, choice(...exits));
  };
  const visit = (one: number): Expression => {
    const known = names.get(one);
    if (known !== undefined) return rule(known);
    if (arrivals[one] === 1 && one > 0 && depth < MOST_NESTED) {
      depth++;
      const body = bodyOf(one);
      depth--;
      return body;
    }
    return rule(
      add((name) => {
        names.set(one, name);
        return bodyOf(one);
      }),
    );
  };
  return visit(0);
}
