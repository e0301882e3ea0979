// The sampling parameters, a row each: the one list of them. Their words in the state buffer are runtime/sampling.ts's. The
// compiler's twin of the ranges is compiler/artifact/state.py; tests/golden/sampling.json holds both together.

import { checkNumber, type NumberRange } from "./options";
import type { ChatRequest, SamplingOptions } from "./types";

interface SamplingParameter extends NumberRange {
  most: number;
  /** Its name in a chat request. */
  request: keyof ChatRequest;
  /** The value that changes nothing; of the temperature, the one that makes the sampler greedy. */
  off: number;
}

/** In the order of their words in the state buffer (compiler/artifact/FORMAT.md). */
export const SAMPLING = {
  temperature: { request: "temperature", off: 0, least: 0, most: 100 },
  topK: { request: "top_k", off: 0, least: -1, most: 2 ** 31 - 1, integer: true },
  topP: { request: "top_p", off: 1, least: 0, most: 1 },
  minP: { request: "min_p", off: 0, least: 0, most: 1 },
  repetitionPenalty: { request: "repetition_penalty", off: 1, least: 0.01, most: 100 },
  presencePenalty: { request: "presence_penalty", off: 0, least: -100, most: 100 },
  frequencyPenalty: { request: "frequency_penalty", off: 0, least: -100, most: 100 },
} as const satisfies Record<keyof SamplingOptions, SamplingParameter>;

export type SamplingName = keyof typeof SAMPLING;

export const SAMPLING_NAMES = Object.keys(SAMPLING) as SamplingName[];

/** A value for every parameter. */
export function everyParameter(value: (name: SamplingName) => number): Required<SamplingOptions> {
  return Object.fromEntries(SAMPLING_NAMES.map((name) => [name, value(name)])) as Record<SamplingName, number>;
}

export const SAMPLING_OFF = everyParameter((name) => SAMPLING[name].off);

/** @throws RequestError naming the parameter and its range */
export function checkSampling(name: SamplingName, value: number): number {
  return checkNumber(name, value, SAMPLING[name]);
}
