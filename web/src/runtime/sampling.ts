// Sampling parameters: their defaults, their validation and their words in the state buffer (compiler/artifact/FORMAT.md).
// Knows no model and no text; the sampler itself is a kernel of the plan.

import type { SamplingOptions } from "../api/types";
import { RequestError } from "../api/errors";

export type Sampling = Required<SamplingOptions> & { seed: number };

/** Word indices of the state buffer. */
export const STATE = { position: 0, token: 1, chunkLength: 2, seed: 3 } as const;
export const STATE_WORDS = 16;

interface Range {
  least: number;
  most: number;
  integer?: boolean;
}

const RANGES: Record<keyof SamplingOptions, Range> = {
  temperature: { least: 0, most: 100 },
  topK: { least: 0, most: 2 ** 31, integer: true },
  topP: { least: 1e-6, most: 1 },
  minP: { least: 0, most: 1 },
  repetitionPenalty: { least: 1e-3, most: 1e3 },
  presencePenalty: { least: -100, most: 100 },
  frequencyPenalty: { least: -100, most: 100 },
};

function checked(name: keyof SamplingOptions, value: number): number {
  const { least, most, integer } = RANGES[name];
  if (typeof value !== "number" || !(value >= least && value <= most) || (integer === true && !Number.isInteger(value)))
    throw new RequestError({
      what: name,
      got: String(value),
      expected: `${integer === true ? "an integer" : "a number"} from ${least} to ${most}`,
    });
  return value;
}

/**
 * @param seed undefined takes a random one
 * @throws RequestError naming the parameter and its range
 */
export function resolveSampling(options: SamplingOptions, defaults: Required<SamplingOptions>, seed: number | undefined): Sampling {
  const pick = (name: keyof SamplingOptions) => checked(name, options[name] ?? defaults[name]);
  return {
    temperature: pick("temperature"),
    topK: pick("topK"),
    topP: pick("topP"),
    minP: pick("minP"),
    repetitionPenalty: pick("repetitionPenalty"),
    presencePenalty: pick("presencePenalty"),
    frequencyPenalty: pick("frequencyPenalty"),
    seed: seed === undefined ? randomSeed() : checkedSeed(seed),
  };
}

function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
}

/** Any integer; its lowest 32 bits count. */
function checkedSeed(seed: number): number {
  if (!Number.isSafeInteger(seed)) throw new RequestError({ what: "seed", got: String(seed), expected: "an integer" });
  return Number(BigInt.asUintN(32, BigInt(seed)));
}

export const GREEDY: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: 0,
};

/** Words 3..15 of the state buffer. */
export function samplingWords(sampling: Sampling): Uint8Array<ArrayBuffer> {
  const bytes = new ArrayBuffer(4 * (STATE_WORDS - STATE.seed));
  const view = new DataView(bytes);
  view.setUint32(0, sampling.seed, true);
  view.setFloat32(4, sampling.temperature, true);
  view.setUint32(8, sampling.topK, true);
  view.setFloat32(12, sampling.topP, true);
  view.setFloat32(16, sampling.minP, true);
  view.setFloat32(20, sampling.repetitionPenalty, true);
  view.setFloat32(24, sampling.presencePenalty, true);
  view.setFloat32(28, sampling.frequencyPenalty, true);
  return new Uint8Array(bytes);
}

/** Whether the sampler reads token_counts at all. */
export function penalizes(sampling: Sampling): boolean {
  return sampling.repetitionPenalty !== 1 || sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0;
}

/** token_counts: bit 31 for what is in the prompt, below it how often a token was generated. */
export function answerCounts(prompt: readonly number[], generated: readonly number[], vocabSize: number): Uint32Array<ArrayBuffer> {
  const counts = new Uint32Array(vocabSize);
  for (const id of prompt) counts[id] = 0x80000000;
  for (const id of generated) counts[id] = (counts[id] ?? 0) + 1;
  return counts;
}
