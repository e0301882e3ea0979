// Grammars over a model's tokens: which of them may come next. A file of its own, grammar.js, loaded with the first request that
// needs it.
//
// The vocabulary is a trie of bytes, and a mask is one walk over it beside the grammar's machine; masks are kept by the machine's
// state. Why our own: the one engine that npm has, XGrammar 0.1.27 (406 kB with its WebAssembly), takes characters above ASCII
// in classes as single bytes, allows digits behind `("a" | [1] [0-9]) ("." [0-9]{1,3})?` that are not there, and leaves out of a
// JSON Schema in silence what it does not hold. (November 2026)

import type { AnswerFormat, Constraint, Next } from "../../api/constraint";
import { RequestError } from "../../api/errors";
import { grammarOfAlternatives } from "./alternatives";
import { type Expression, type Grammar, productive, ROOT } from "./expression";
import { parseGbnf } from "./gbnf";
import { grammarOfSchema } from "./json-schema";
import { regexGrammar } from "./json-string";
import { DEAD, Machine } from "./machine";
import { buildTrie, type Trie } from "./trie";
import type { Vocabulary } from "./vocabulary";

/** Machines that are kept, with the masks that each has made. */
const MOST_MACHINES = 8;
const MOST_MASKS = 256;
/** Bytes that are appended at once: a grammar may force as many as it likes. */
const MOST_FORCED = 4096;

/** @throws RequestError naming what is not supported */
export function grammarOf(format: AnswerFormat): Grammar {
  switch (format.type) {
    case "json_object":
      return grammarOfSchema({ type: "object" });
    case "json_schema":
      return grammarOfSchema(format.schema);
    case "grammar":
      return parseGbnf(format.grammar);
    case "alternatives":
      return grammarOfAlternatives(format.alternatives);
    case "regex": {
      const rules = new Map<string, Expression>();
      const add = (make: (name: string) => Expression): string => {
        const name = `r${rules.size}`;
        rules.set(name, { type: "choice", items: [] });
        rules.set(name, make(name));
        return name;
      };
      const root = regexGrammar(format.regex, add);
      const found = productive(new Map([[ROOT, root], ...rules]));
      if (found === undefined) throw new RequestError({ what: "The regular expression matches no text", got: format.regex.slice(0, 80) });
      return found;
    }
  }
}

interface Compiled {
  machine: Machine;
  masks: Map<number, Uint32Array<ArrayBuffer>>;
}

export class GrammarEngine {
  private readonly trie: Trie;
  private readonly compiled = new Map<string, Compiled>();

  constructor(private readonly vocabulary: Vocabulary) {
    this.trie = buildTrie(vocabulary.bytes);
  }

  /**
   * @param begun what has come of the format already
   * @throws RequestError naming what of the format is not supported, also where the stack does not reach for what is nested in it,
   *   and where it does not begin so
   */
  constraint(format: AnswerFormat, begun = ""): GrammarConstraint {
    try {
      const constraint = new GrammarConstraint(this.compiledOf(format), this.trie, this.vocabulary);
      if (constraint.advance(new TextEncoder().encode(begun))) return constraint;
    } catch (error) {
      // Firefox has an InternalError for it.
      if (!(error instanceof RangeError) && (error as Error | undefined)?.name !== "InternalError") throw error;
      throw new RequestError({ what: "The response_format is nested too deeply, or too large", remedy: "Write it with fewer levels." });
    }
    throw new RequestError({
      what: "The message that is continued does not begin what the response_format allows",
      got: JSON.stringify(begun.slice(0, 80)),
      expected: "a beginning of it",
      remedy: "Leave the response_format out, or set continue_final_message to false.",
    });
  }

  private compiledOf(format: AnswerFormat): Compiled {
    const key = JSON.stringify(format);
    const compiled = this.compiled.get(key) ?? { machine: new Machine(grammarOf(format)), masks: new Map() };
    this.compiled.delete(key);
    this.compiled.set(key, compiled);
    const [oldest] = this.compiled.keys();
    if (this.compiled.size > MOST_MACHINES && oldest !== undefined) this.compiled.delete(oldest);
    return compiled;
  }
}

/** An answer under way. */
export class GrammarConstraint implements Constraint {
  private state = 0;
  private stopped = false;

  constructor(
    private readonly compiled: Compiled,
    private readonly trie: Trie,
    private readonly vocabulary: Vocabulary,
  ) {
    // Machines are shared, by answers one after another: what crowds one is cleared away between two.
    if (!compiled.machine.crowded) return;
    compiled.masks.clear();
    compiled.machine.restart(0);
  }

  next(): Next {
    const { machine } = this.compiled;
    if (this.stopped || machine.isLast(this.state)) return { kind: "ended" };
    const tokens = this.forced();
    return tokens.length > 0 ? { kind: "forced", tokens } : { kind: "some", mask: this.mask() };
  }

  accept(token: number): void {
    if (this.vocabulary.stopTokenIds.includes(token)) {
      this.stopped = true;
      return;
    }
    if (!this.advance(this.vocabulary.bytes[token] ?? [])) throw new Error(`token ${token} is not of the grammar`);
  }

  /** Goes on behind these bytes. False: they may not come here. */
  advance(bytes: Iterable<number>): boolean {
    const { machine, masks } = this.compiled;
    for (const byte of bytes) {
      const state = machine.after(this.state, byte);
      if (state === DEAD) return false;
      this.state = state;
      if (!machine.crowded) continue;
      masks.clear();
      this.state = machine.restart(state);
    }
    return true;
  }

  private mask(): Uint32Array<ArrayBuffer> {
    const words = this.masked(this.state);
    if (words.every((word) => word === 0))
      throw new RequestError({
        what: "The model's vocabulary has no token that the grammar allows here",
        remedy: "Allow more characters.",
      });
    return words;
  }

  private masked(state: number): Uint32Array<ArrayBuffer> {
    const { machine, masks } = this.compiled;
    const known = masks.get(state);
    if (known !== undefined) {
      masks.delete(state);
      masks.set(state, known);
      return known;
    }
    // Where something is repeated many times, nearly every count has the same mask: but for the tokens that reach its end.
    const { to, within } = machine.alike(state);
    const words =
      to === state
        ? this.trie.allowed(machine, state, new Uint32Array(Math.ceil(this.vocabulary.bytes.length / 32)))
        : this.trie.allowed(machine, state, this.masked(to).slice(), within);
    if (machine.ends(state)) for (const id of this.vocabulary.stopTokenIds) words[id >> 5] = (words[id >> 5] ?? 0) | (1 << (id & 31));
    const [oldest] = masks.keys();
    if (masks.size >= MOST_MASKS && oldest !== undefined) masks.delete(oldest); // Not used for the longest time.
    masks.set(state, words);
    return words;
  }

  /**
   * The tokens of the text that has to come. One that ends in the middle of a word is left to the model: it may know a token
   * that goes further.
   */
  private forced(): number[] {
    const { machine } = this.compiled;
    const bytes: number[] = [];
    let { state } = this;
    for (let byte = machine.onlyByte(state); byte !== undefined && bytes.length < MOST_FORCED; byte = machine.onlyByte(state)) {
      bytes.push(byte);
      state = machine.after(state, byte);
    }
    const text = textOf(bytes);
    if (text === "") return [];
    const tokens = this.vocabulary.encode(text);
    if (/[\p{L}\p{N}]$/u.test(text)) tokens.pop();
    return tokens;
  }
}

/** Without the bytes of a last character that is not whole, and none where they begin within one. */
function textOf(bytes: readonly number[]): string {
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes), { stream: true });
  return text.includes("\ufffd") ? "" : text;
}
