// What a request wants of each step's logits: to have them told, changed, or both. Knows tokens and numbers; no messages.

import { RequestError } from "../api/errors";
import type { TokenLogprob, TopLogprob } from "../api/types";
import type { AnswerCall } from "../protocol/messages";
import { sampleToken } from "../runtime/sampler";
import { answerCounts, penalizes, type Sampling } from "../runtime/sampling";
import type { Watch } from "../runtime/session";
import type { Tokenizer } from "../text/tokenizer";

/** The page's own function: what it makes of the logits after `ids`. */
export type Process = (logits: Float32Array<ArrayBuffer>, ids: number[]) => Promise<Float32Array>;

export interface Watching {
  tokenizer: Tokenizer;
  sampling: Sampling;
  /** Penalties look at so many of the last tokens. */
  repetitionWindow: number;
  ids: readonly number[];
  process: Process;
  onLogprob: (found: TokenLogprob, token: number) => void;
}

/** Undefined when nothing is wanted: answers go fastest then. @throws RequestError for an id that is none */
export function watchOf({ bias, processed, logprobs }: AnswerCall, vocabSize: number, watching: Watching): Watch | undefined {
  const { tokenizer, sampling, repetitionWindow, ids, process, onLogprob } = watching;
  const wrong = bias.find(([id]) => id >= vocabSize);
  if (wrong !== undefined) throw new RequestError({ what: "logit_bias", got: `id ${wrong[0]}`, expected: `ids below ${vocabSize}` });
  const changes = processed || bias.length > 0;
  if (!changes && logprobs === undefined) return undefined;
  return async (given, sampled, position, generated) => {
    let logits = given;
    let token = sampled;
    if (changes) {
      const changed = Float32Array.from(given);
      for (const [id, value] of bias) changed[id] = (changed[id] ?? 0) + value;
      logits = processed ? await process(changed, [...ids, ...generated]) : changed;
      if (logits.length !== vocabSize)
        throw new RequestError({ what: "logits_processor", got: `${logits.length} logits`, expected: String(vocabSize) });
      const counts = penalizes(sampling) ? answerCounts(ids, generated, vocabSize, repetitionWindow) : undefined;
      token = sampleToken(logits, counts, sampling, position);
    }
    if (logprobs !== undefined) onLogprob(logprobsOf(logits, token, logprobs, tokenizer), token);
    return token;
  };
}

/** Of the distribution that the logits are, `count` of the most probable tokens with it. */
export function logprobsOf(logits: Float32Array, token: number, count: number, tokenizer: Tokenizer): TokenLogprob {
  let most = -Infinity;
  for (const logit of logits) if (logit > most) most = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - most);
  const offset = most + Math.log(sum);
  const top: number[] = [];
  if (count > 0)
    for (const [id, logit] of logits.entries()) {
      if (top.length === count && logit <= (logits[top[count - 1] ?? 0] ?? 0)) continue;
      const after = top.findIndex((other) => logit > (logits[other] ?? 0));
      top.splice(after < 0 ? top.length : after, 0, id);
      top.length = Math.min(top.length, count);
    }
  const described = (id: number): TopLogprob => {
    const bytes = tokenizer.bytesOf(id);
    // What is no number in JSON is OpenAI's for "very improbable".
    const logprob = Math.max((logits[id] ?? -Infinity) - offset, -9999);
    return { token: new TextDecoder().decode(Uint8Array.from(bytes)), logprob, bytes };
  };
  return { ...described(token), top_logprobs: top.map(described) };
}
