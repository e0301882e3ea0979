// The sampler on the CPU, for requests whose logits are changed after they were computed: the twin of the plan's kernels
// (compiler/artifact/FORMAT.md has the rules, compiler/kernels/reference.py the numbers). Pure.

import { penalizes, type Sampling } from "./sampling";

const GENERATED = 0x7fffffff;

/**
 * @param logits f32 (V)
 * @param counts as of answerCounts(); read where the sampling penalizes
 * @param position of the token to draw: the number of tokens before it
 * @returns its id: the lowest among equals
 */
export function sampleToken(logits: Float32Array, counts: Uint32Array | undefined, sampling: Sampling, position: number): number {
  const adjusted = adjust(logits, counts, sampling);
  if (sampling.temperature <= 0) return largest(adjusted);
  const bound = lowestAllowed(adjusted, sampling);
  const random = uniform(sampling.seed, position);
  return largest(adjusted, (value, id) => (value >= bound ? value + gumbel(random(id)) : -Infinity));
}

function largest(values: Float32Array, score: (value: number, id: number) => number = (value) => value): number {
  let [best, bestScore] = [0, -Infinity];
  for (const [id, value] of values.entries()) {
    const found = Math.fround(score(value, id));
    if (found > bestScore) [best, bestScore] = [id, found];
  }
  return best;
}

/** Penalties, then temperature, in f32. */
function adjust(logits: Float32Array, counts: Uint32Array | undefined, sampling: Sampling): Float32Array {
  const out = Float32Array.from(logits);
  const { repetitionPenalty, presencePenalty, frequencyPenalty, temperature } = sampling;
  if (counts !== undefined && penalizes(sampling)) {
    const [repetition, presence, frequency] = [repetitionPenalty, presencePenalty, frequencyPenalty].map(Math.fround) as [
      number,
      number,
      number,
    ];
    for (const [id, count] of counts.entries()) {
      if (count === 0) continue;
      const value = out[id] ?? 0;
      if (repetition !== 1) out[id] = value > 0 ? value / repetition : value * repetition;
      const generated = count & GENERATED;
      if (generated > 0) out[id] = (out[id] ?? 0) - Math.fround(presence + Math.fround(frequency * generated));
    }
  }
  if (temperature > 0) for (const [id, value] of out.entries()) out[id] = value / Math.fround(temperature);
  return out;
}

/** The smallest value that may be drawn: top_k, then top_p on what it leaves, then min_p; ties stay together. */
function lowestAllowed(adjusted: Float32Array, { topK, topP, minP }: Sampling): number {
  const sorted = Float32Array.from(adjusted).sort().reverse();
  const top = sorted[0] ?? 0;
  let bound = -Infinity;
  if (topK > 0 && topK < sorted.length) bound = sorted[topK - 1] ?? bound;
  if (topP < 1) {
    const kept = sorted.filter((value) => value >= bound);
    const odds = Array.from(kept, (value) => Math.exp(value - top));
    const wanted = odds.reduce((sum, each) => sum + each, 0) * Math.fround(topP);
    let mass = 0;
    bound = kept.find((_, i) => (mass += odds[i] ?? 0) >= wanted) ?? bound; // its equals are as large
  }
  if (minP > 0) bound = Math.max(bound, Math.fround(top + Math.fround(Math.log(minP))));
  return Math.min(bound, top);
}

const mix = (value: number): number => {
  let mixed = Math.imul(value ^ (value >>> 16), 0x7feb352d);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x846ca68b);
  return mixed ^ (mixed >>> 16);
};

/** The number in (0, 1) of each token at (seed, position). */
function uniform(seed: number, position: number): (id: number) => number {
  const start = mix((seed + Math.imul(position, 0x9e3779b9)) | 0);
  return (id) => {
    const mixed = mix(start ^ ((Math.imul(id, 0x85ebca6b) + 0xc2b2ae35) | 0));
    return ((mixed >>> 9) + 0.5) * 2 ** -23;
  };
}

const gumbel = (random: number): number => Math.fround(-Math.log(Math.fround(-Math.fround(Math.log(random)))));
