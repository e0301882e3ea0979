// GBNF, llama.cpp's notation of grammars (its grammars/README.md), as a grammar.

import { RequestError } from "../../api/errors";
import {
  ANY,
  characterClass,
  choice,
  codeOf,
  complement,
  type Expression,
  type Grammar,
  productive,
  type Range,
  repeat,
  ROOT,
  rule,
  rulesOf,
  sequence,
  text,
} from "./expression";

const NAME = /^[a-zA-Z][a-zA-Z0-9_-]*/;
const DEFINITION = /^[a-zA-Z][a-zA-Z0-9_-]*\s*::=/;
const ESCAPES: Record<string, string> = { n: "\n", r: "\r", t: "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^" };
const MOST_REPEATS = 10_000;

/** @throws RequestError with the line where it cannot be read, or naming a rule that is not there */
export function parseGbnf(source: string): Grammar {
  const rules = new Parser(source).grammar();
  if (!rules.has(ROOT)) refuse(`no rule ${ROOT}`);
  for (const [name, body] of rules) for (const used of rulesOf(body)) if (!rules.has(used)) refuse(`no rule ${used}, which ${name} uses`);

  return productive(rules) ?? refuse("nothing that its root matches");
}

function refuse(what: string): never {
  throw new RequestError({ what: `The grammar has ${what}`, expected: 'GBNF, such as: root ::= "yes" | "no"' });
}

class Parser {
  private at = 0;

  constructor(private readonly source: string) {}

  grammar(): Map<string, Expression> {
    const rules = new Map<string, Expression>();
    while (this.space() && this.at < this.source.length) {
      const name = this.match(NAME) ?? this.wrong("the name of a rule");
      this.space();
      if (this.match(/^::=/) === undefined) this.wrong(`::= behind ${name}`);
      if (rules.has(name)) refuse(`the rule ${name} twice`);
      rules.set(name, this.alternatives());
    }
    return rules;
  }

  private get rest(): string {
    return this.source.slice(this.at, this.at + 200);
  }

  private match(pattern: RegExp): string | undefined {
    const found = pattern.exec(this.rest)?.[0];
    if (found !== undefined) this.at += found.length;
    return found;
  }

  /** White space and comments. True: always, so that loops may begin with it. */
  private space(): boolean {
    while (this.match(/^(?:\s+|#[^\n]*)/) !== undefined);
    return true;
  }

  private wrong(expected: string): never {
    const line = this.source.slice(0, this.at).split("\n").length;
    return refuse(`${JSON.stringify(this.rest.split("\n")[0]?.slice(0, 40))} in line ${line}, where ${expected} should be`);
  }

  private alternatives(): Expression {
    const items = [this.items()];
    while (this.match(/^\|/) !== undefined) items.push(this.items());
    return choice(...items);
  }

  private items(): Expression {
    const items: Expression[] = [];
    while (this.space() && this.at < this.source.length && !/^[|)]/.test(this.rest) && !DEFINITION.test(this.rest)) items.push(this.item());
    return sequence(...items);
  }

  private item(): Expression {
    const element = this.element();
    const times = this.match(/^(?:[*+?]|\{\d{1,6}(?:,\d{0,6})?\})/);
    if (times === undefined) return element;
    const [least, most] = bounds(times);
    if (least > MOST_REPEATS || (most !== Infinity && most > MOST_REPEATS)) refuse(`more than ${MOST_REPEATS} repetitions`);
    return repeat(element, least, most);
  }

  private element(): Expression {
    if (this.match(/^"/) !== undefined)
      return text(
        this.until('"')
          .map((code) => String.fromCodePoint(code))
          .join(""),
      );
    if (this.match(/^\[/) !== undefined) return this.characterClass();
    if (this.match(/^\./) !== undefined) return characterClass(ANY);
    if (this.match(/^\(/) !== undefined) {
      const inner = this.alternatives();
      if (this.match(/^\)/) === undefined) this.wrong(")");
      return inner;
    }
    return rule(this.match(NAME) ?? this.wrong('"text", [class], (group) or a rule'));
  }

  private character(): number {
    const code = this.match(/^\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})/);
    if (code !== undefined) return Math.min(0x10ffff, parseInt(code.slice(2), 16));
    if (this.match(/^\\/) !== undefined) {
      const escaped = ESCAPES[this.source[this.at] ?? ""] ?? this.wrong("a known escape");
      this.at += 1;
      return codeOf(escaped);
    }
    const code2 = this.source.codePointAt(this.at) ?? this.wrong("a character");
    this.at += code2 > 0xffff ? 2 : 1;
    return code2;
  }

  private until(end: string): number[] {
    const found: number[] = [];
    while (this.source[this.at] !== end) {
      if (this.at >= this.source.length) this.wrong(end);
      found.push(this.character());
    }
    this.at += 1;
    return found;
  }

  private characterClass(): Expression {
    const negated = this.match(/^\^/) !== undefined;
    const found: Range[] = [];
    while (this.source[this.at] !== "]") {
      if (this.at >= this.source.length) this.wrong("]");
      const first = this.character();
      const isRange = this.source[this.at] === "-" && this.source[this.at + 1] !== "]";
      if (isRange) this.at += 1;
      const last = isRange ? this.character() : first;
      if (last < first) this.wrong("a range that ends where it begins or later");
      found.push([first, last]);
    }
    this.at += 1;
    return characterClass(negated ? complement(found) : found);
  }
}

function bounds(times: string): [number, number] {
  if (times === "*") return [0, Infinity];
  if (times === "+") return [1, Infinity];
  if (times === "?") return [0, 1];
  const [least = "", most] = times.slice(1, -1).split(",");
  return [Number(least), most === undefined ? Number(least) : most === "" ? Infinity : Number(most)];
}
