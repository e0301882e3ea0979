// Answers drawn at random from what a constraint allows, over the vocabulary of the demo model.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { Constraint } from "../../src/api/constraint";
import type { Vocabulary } from "../../src/text/grammar/vocabulary";
import { Tokenizer } from "../../src/text/tokenizer";
import * as library from "../../src/text/tokenizer-library";

const DEMO = resolve(import.meta.dirname, "../../../configs/demo");
const read = (name: string): Record<string, unknown> => JSON.parse(readFileSync(resolve(DEMO, name), "utf8")) as Record<string, unknown>;

const tokenizer = new Tokenizer(read("tokenizer.json"), read("tokenizer_config.json"), library);
export const SIZE = Math.max(...Object.values((read("tokenizer.json")["model"] as { vocab: Record<string, number> }).vocab)) + 1;
export const STOP = tokenizer.encode(tokenizer.specialTokens["eos_token"] ?? "", false)[0] ?? 0;

export function demoVocabulary(): Vocabulary {
  return tokenizer.vocabulary(SIZE, [STOP]);
}

/** Mulberry32: numbers from 0 to 1. */
export function random(seed: number): () => number {
  let a = seed + 0x9e3779b9;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** After so many tokens what closes comes first: answers that may go on for ever end. */
const SOON = 25;
const MOST = 300;
const CLOSERS = Array.from('"}],@.0').map((text) => tokenizer.encode(text, false).at(-1) ?? 0);

export interface RandomAnswer {
  text: string;
  tokens: number[];
  forced: number;
  ended: boolean;
}

export async function answer(constraint: Constraint, draw: () => number): Promise<RandomAnswer> {
  const tokens: number[] = [];
  let forced = 0;
  const end = (ended: boolean): RandomAnswer => ({ text: tokenizer.decode(tokens, true), tokens, forced, ended });
  while (tokens.length < MOST) {
    const next = await constraint.next();
    if (next.kind === "ended") return end(true);
    if (next.kind === "forced") {
      for (const token of next.tokens) constraint.accept(token);
      tokens.push(...next.tokens);
      forced += next.tokens.length;
      continue;
    }
    const allowed = (id: number): boolean => next.kind === "any" || (((next.mask[id >> 5] ?? 0) >>> (id & 31)) & 1) === 1;
    const closer = tokens.length > SOON ? [STOP, ...CLOSERS].find((id) => allowed(id)) : undefined;
    const choices = Array.from({ length: SIZE }, (_, id) => id).filter(allowed);
    const token = closer !== undefined && draw() < 0.8 ? closer : (choices[Math.floor(draw() * choices.length)] ?? STOP);
    constraint.accept(token);
    if (token === STOP) return end(true);
    tokens.push(token);
  }
  return end(false);
}
