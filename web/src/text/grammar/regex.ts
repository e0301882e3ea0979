// Regular expressions of ECMA-262 (with `u`) as expressions. What cannot be told by the text before it, character by character,
// is refused by name: references back, lookaround, word boundaries.

import { RequestError } from "../../api/errors";
import {
  ANY,
  characterClass,
  characters,
  choice,
  codeOf,
  complement,
  EMPTY,
  type Expression,
  type Range,
  repeat,
  sequence,
} from "./expression";

/** An expression, with the ends of the text as rules of these names. */
export const START = "^";
export const END = "$";

const DIGITS: Range[] = [[0x30, 0x39]];
const WORD: Range[] = [...DIGITS, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]];
const SPACE: Range[] = [
  [0x9, 0xd],
  [0x20, 0x20],
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff],
];
const LINE_ENDS = characters("\n\r\u2028\u2029");
const CLASSES: Record<string, readonly Range[]> = { d: DIGITS, w: WORD, s: SPACE };
const CONTROLS: Record<string, number> = { t: 9, n: 10, v: 11, f: 12, r: 13, "0": 0 };
const MOST_REPEATS = 10_000;

/** @throws RequestError naming what is not supported */
export function parseRegex(source: string): Expression {
  const parser = new Parser(source);
  const expression = parser.choice();
  if (!parser.done) parser.refuse("a ) without its (");
  return expression;
}

class Parser {
  private at = 0;
  private readonly all: string[];

  constructor(private readonly source: string) {
    this.all = Array.from(source);
  }

  get done(): boolean {
    return this.at >= this.all.length;
  }

  refuse(what: string): never {
    throw new RequestError({
      what: `The regular expression ${JSON.stringify(this.source).slice(0, 80)} has ${what} at character ${this.at}`,
      expected: "characters, classes, groups, |, ?, *, +, {m,n}, ^ and $",
    });
  }

  private peek(): string | undefined {
    return this.all[this.at];
  }

  private take(wanted: string): boolean {
    const found = this.all.slice(this.at, this.at + wanted.length).join("") === wanted;
    if (found) this.at += wanted.length;
    return found;
  }

  choice(): Expression {
    const items = [this.sequence()];
    while (this.take("|")) items.push(this.sequence());
    return choice(...items);
  }

  private sequence(): Expression {
    const items: Expression[] = [];
    for (let next = this.peek(); next !== undefined && next !== "|" && next !== ")"; next = this.peek()) items.push(this.repeated());
    return sequence(...items);
  }

  private repeated(): Expression {
    const item = this.atom();
    const times = this.times();
    if (times === undefined) return item;
    const [least, most] = times;
    if (least > MOST_REPEATS || (most !== Infinity && most > MOST_REPEATS)) this.refuse(`more than ${MOST_REPEATS} repetitions`);
    if (most < least) this.refuse("a repetition whose least is more than its most");
    this.take("?"); // Lazy or not, the same texts match.
    if (this.peek() === "*" || this.peek() === "+") this.refuse("a repetition of a repetition");
    return repeat(item, least, most);
  }

  private times(): [number, number] | undefined {
    if (this.take("*")) return [0, Infinity];
    if (this.take("+")) return [1, Infinity];
    if (this.take("?")) return [0, 1];
    if (this.peek() !== "{") return undefined;
    const found = /^\{(\d{1,6})(,(\d{0,6}))?\}/.exec(this.all.slice(this.at, this.at + 16).join(""));
    if (found === null) return this.refuse("a { that begins no repetition");
    this.at += found[0].length;
    const least = Number(found[1]);
    return [least, found[2] === undefined ? least : found[3] === "" ? Infinity : Number(found[3])];
  }

  private atom(): Expression {
    const next = this.all[this.at++];
    switch (next) {
      case undefined:
        return EMPTY;
      case "(": {
        if (this.take("?=") || this.take("?!") || this.take("?<=") || this.take("?<!")) this.refuse("lookaround");
        if (!this.take("?:") && this.take("?")) {
          const name = /^<\w+>/.exec(this.all.slice(this.at, this.at + 64).join(""));
          if (name === null) return this.refuse("a group of an unknown kind");
          this.at += name[0].length;
        }
        const inner = this.choice();
        if (!this.take(")")) this.refuse("a ( without its )");
        return inner;
      }
      case "[":
        return characterClass(this.classRanges());
      case ".":
        return characterClass(complement(LINE_ENDS));
      case "^":
        return { type: "rule", name: START };
      case "$":
        return { type: "rule", name: END };
      case "\\":
        return characterClass(this.escape(false));
      case "*":
      case "+":
      case "?":
      case "{":
        return this.refuse(`a ${next} that repeats nothing`);
      default:
        return characterClass(characters(next));
    }
  }

  private classRanges(): Range[] {
    const negated = this.take("^");
    const found: Range[] = [];
    while (!this.take("]")) {
      const first = this.classMember();
      const [from] = first[0] ?? [0];
      const single = first.length === 1 && first[0]?.[0] === first[0]?.[1];
      if (this.peek() === "-" && this.all[this.at + 1] !== "]" && single) {
        this.at += 1;
        const last = this.classMember();
        const to = last[0]?.[1] ?? 0;
        if (last.length !== 1 || to < from) this.refuse("a range that ends before it begins");
        found.push([from, to]);
      } else found.push(...first);
    }
    return negated ? complement(found) : found;
  }

  private classMember(): readonly Range[] {
    const next = this.all[this.at++];
    if (next === undefined) return this.refuse("a [ without its ]");
    return next === "\\" ? this.escape(true) : characters(next);
  }

  /** Behind a backslash. */
  private escape(inClass: boolean): readonly Range[] {
    const next = this.all[this.at++];
    if (next === undefined) return this.refuse("a \\ at its end");
    const known = CLASSES[next];
    if (known !== undefined) return known;
    const opposite = CLASSES[next.toLowerCase()];
    if (opposite !== undefined) return complement(opposite);
    const control = CONTROLS[next];
    if (control !== undefined) return [[control, control]];
    if (next === "b" && inClass) return [[8, 8]];
    if (next === "b" || next === "B") return this.refuse("a word boundary");
    if (/[1-9]/.test(next) || next === "k") return this.refuse("a reference back");
    if (next === "p" || next === "P") return this.property(next === "P");
    if (next === "x" || next === "u") return this.code(next);
    if (next === "c") {
      const code = codeOf(this.all[this.at++] ?? "") % 32;
      return [[code, code]];
    }
    if (/[A-Za-z0-9]/.test(next)) return this.refuse(`an unknown escape \\${next}`);
    return characters(next);
  }

  private code(kind: string): readonly Range[] {
    const rest = this.all.slice(this.at, this.at + 10).join("");
    const found = kind === "x" ? /^[0-9a-fA-F]{2}/.exec(rest) : (/^[0-9a-fA-F]{4}/.exec(rest) ?? /^\{[0-9a-fA-F]{1,6}\}/.exec(rest));
    if (found === null) return this.refuse(`a \\${kind} without its digits`);
    this.at += found[0].length;
    const code = parseInt(found[0].replace("{", ""), 16);
    return [[code, code]];
  }

  /** A property of Unicode: asked of the platform's own engine, code point by code point. */
  private property(negated: boolean): readonly Range[] {
    const found = /^\{[\w=]{1,40}\}/.exec(this.all.slice(this.at, this.at + 48).join(""));
    if (found === null) return this.refuse("a \\p without its property");
    this.at += found[0].length;
    let test: RegExp;
    try {
      test = new RegExp(`^\\p${found[0]}$`, "u");
    } catch {
      return this.refuse(`an unknown property \\p${found[0]}`);
    }
    const ranges: [number, number][] = [];
    for (const [first, last] of ANY) {
      for (let code = first; code <= last; code++) {
        if (!test.test(String.fromCodePoint(code))) continue;
        const before = ranges.at(-1);
        if (before?.[1] === code - 1) before[1] = code;
        else ranges.push([code, code]);
      }
    }
    return negated ? complement(ranges) : ranges;
  }
}
