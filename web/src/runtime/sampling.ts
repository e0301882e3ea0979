// Sampling parameters: their defaults, their validation and their words in the state buffer (compiler/artifact/FORMAT.md).
// Knows no model and no text; the sampler itself is a kernel of the plan.

import { RequestError } from "../api/errors";
import { checkNumber } from "../api/options";
import { checkSampling, everyParameter, SAMPLING, SAMPLING_NAMES, SAMPLING_OFF } from "../api/sampling";
import type { SamplingOptions } from "../api/types";

export type Sampling = Required<SamplingOptions> & { seed: number };

/** Word indices of the state buffer. */
export const STATE = { position: 0, token: 1, chunkLength: 2, seed: 3, verifiedFrom: 11 } as const;
export const STATE_WORDS = 16;
/** Quotients by less may be beyond f32, where they have no order. */
const LEAST_TEMPERATURE = 1e-4;

/**
 * The sampler's own words for what callers may say.
 *
 * @param seed undefined and -1 take a random one
 * @throws RequestError naming the parameter and its range
 */
export function resolveSampling(options: SamplingOptions, defaults: Required<SamplingOptions>, seed: number | undefined): Sampling {
  const values = everyParameter((name) => checkSampling(name, options[name] ?? defaults[name]));
  const greedy = values.temperature < LEAST_TEMPERATURE || values.topP === 0;
  return {
    ...values,
    temperature: greedy ? 0 : values.temperature,
    topK: Math.max(0, values.topK),
    seed: seed === undefined || seed === -1 ? randomSeed() : checkedSeed(seed),
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

export const GREEDY: Sampling = { ...SAMPLING_OFF, seed: 0 };

/** Words 3..15 of the state buffer. */
export function samplingWords(sampling: Sampling): Uint8Array<ArrayBuffer> {
  const bytes = new ArrayBuffer(4 * (STATE_WORDS - STATE.seed));
  const view = new DataView(bytes);
  view.setUint32(0, sampling.seed, true);
  SAMPLING_NAMES.forEach((name, i) => {
    const at = 4 * (i + 1);
    if ("integer" in SAMPLING[name]) view.setUint32(at, sampling[name], true);
    else view.setFloat32(at, sampling[name], true);
  });
  return new Uint8Array(bytes);
}

const PENALTIES = ["repetitionPenalty", "presencePenalty", "frequencyPenalty"] as const;

/** Whether the sampler reads token_counts at all. */
export function penalizes(sampling: Sampling): boolean {
  return PENALTIES.some((name) => sampling[name] !== SAMPLING[name].off);
}

/** How many of the last tokens penalties look at; Infinity: all. @throws RequestError */
export function checkWindow(window: number | undefined): number {
  if (window === undefined || window === -1) return Infinity;
  return checkNumber("repetition_window", window, { least: 1, integer: true });
}

/** token_counts: bit 31 for what is in the prompt, below it how often a token was generated, of the last `window` tokens. */
export function answerCounts(
  prompt: readonly number[],
  generated: readonly number[],
  vocabSize: number,
  window = Infinity,
): Uint32Array<ArrayBuffer> {
  const counts = new Uint32Array(vocabSize);
  const from = Math.max(0, prompt.length + generated.length - window);
  for (const id of prompt.slice(from)) counts[id] = PROMPT_BIT;
  for (const id of generated.slice(Math.max(0, from - prompt.length))) counts[id] = (counts[id] ?? 0) + 1;
  return counts;
}

/** What has just left the window, and its word of token_counts now; undefined when nothing has. */
export function leftWindow(
  prompt: readonly number[],
  generated: readonly number[],
  window: number,
): { token: number; count: number } | undefined {
  const from = prompt.length + generated.length - window;
  const token = from <= prompt.length ? prompt[from - 1] : generated[from - 1 - prompt.length];
  if (token === undefined) return undefined;
  const asked = from < prompt.length && prompt.includes(token, from);
  const count = generated.slice(Math.max(0, from - prompt.length)).filter((id) => id === token).length;
  return { token, count: (asked ? PROMPT_BIT : 0) + count };
}

const PROMPT_BIT = 0x80000000;
