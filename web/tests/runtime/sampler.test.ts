// The sampler on the CPU against the draws of the compiler's reference, which the plan's kernels are held to as well.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { sampleToken } from "../../src/runtime/sampler";
import { answerCounts, GREEDY } from "../../src/runtime/sampling";

interface Golden {
  logits: number[];
  cases: { sampling: Record<string, number>; position: number; tokens: number[] }[];
}

const path = resolve(import.meta.dirname, "../../../tests/golden/sampling.json");
const golden = JSON.parse(readFileSync(path, "utf8")) as Golden;
const logits = Float32Array.from(golden.logits);

test.each(golden.cases)("draws what the reference draws with $sampling", ({ sampling, position, tokens }) => {
  const { temperature = 0, top_k: topK = 0, top_p: topP = 1, min_p: minP = 0, seed = 0 } = sampling;
  const {
    repetition_penalty: repetitionPenalty = 1,
    presence_penalty: presencePenalty = 0,
    frequency_penalty: frequencyPenalty = 0,
  } = sampling;
  const given = { temperature, topK, topP, minP, seed, repetitionPenalty, presencePenalty, frequencyPenalty };
  const generated: number[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const counts = answerCounts([], generated, logits.length);
    generated.push(sampleToken(logits, counts, given, position + 1 + i));
  }
  expect(generated).toEqual(tokens);
});

describe("penalties", () => {
  const flat = Float32Array.of(1, 0.9, 0.8, -1);
  const counts = answerCounts([0], [1, 1], 4);

  test("see the prompt, and how often a token came", () => {
    expect(sampleToken(flat, counts, GREEDY, 3)).toBe(0);
    expect(sampleToken(flat, counts, { ...GREEDY, repetitionPenalty: 1.2 }, 3)).toBe(0);
    expect(sampleToken(flat, counts, { ...GREEDY, repetitionPenalty: 1.3 }, 3)).toBe(2);
    expect(sampleToken(Float32Array.of(0.5, 1, 0, 0), counts, { ...GREEDY, presencePenalty: 0.6 }, 3)).toBe(0);
    expect(sampleToken(Float32Array.of(0.5, 1, 0, 0), counts, { ...GREEDY, frequencyPenalty: 0.3 }, 3)).toBe(0);
  });
});

test("of equals the first is taken, and of a text that allows one token that", () => {
  expect(sampleToken(Float32Array.of(1, 3, 3), undefined, GREEDY, 1)).toBe(1);
  const one = Float32Array.of(-Infinity, -Infinity, 0);
  expect(sampleToken(one, undefined, { ...GREEDY, temperature: 1, topP: 0.5, minP: 0.1 }, 1)).toBe(2);
});
