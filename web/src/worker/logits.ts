// What a request wants of each step's logits: to have them told, changed, or both. Knows tokens and numbers; no messages.

import type { Constraint } from "../api/constraint";
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
  stopTokenIds: ReadonlySet<number>;
  /** What the answer is held to. */
  constraint: Constraint | undefined;
  process: Process;
  onLogprob: (found: TokenLogprob, token: number) => void;
}

/** Whether a call wants anything of the logits: answers go fastest where none does. */
export const watches = ({ bias, processed, logprobs }: AnswerCall): boolean => processed || bias.length > 0 || logprobs !== undefined;

/**
 * The steps of an answer whose logits are wanted, in this order: biased, given to the page's function, left to what the
 * constraint allows, drawn from, told. So what is told is the distribution that was drawn from, but for the sampling's own
 * parameters: with a constraint, of the tokens that it allows.
 */
export class Watcher {
  /** The constraint lets nothing follow. */
  ended = false;
  private readonly forced: number[] = [];

  /** @throws RequestError for an id that is none */
  constructor(
    private readonly call: AnswerCall,
    private readonly vocabSize: number,
    private readonly watching: Watching,
  ) {
    const wrong = call.bias.find(([id]) => id >= vocabSize);
    if (wrong !== undefined) throw new RequestError({ what: "logit_bias", got: `id ${wrong[0]}`, expected: `ids below ${vocabSize}` });
  }

  readonly step: Watch = async (given, sampled, position, generated) => {
    const { call, vocabSize } = this;
    const { tokenizer, sampling, repetitionWindow, ids, constraint, process, onLogprob } = this.watching;
    const changes = call.processed || call.bias.length > 0 || constraint !== undefined;
    let logits = given;
    let token = sampled;
    if (changes) {
      const changed = Float32Array.from(given);
      for (const [id, value] of call.bias) changed[id] = (changed[id] ?? 0) + value;
      logits = call.processed ? await process(changed, [...ids, ...generated]) : changed;
      if (logits.length !== vocabSize)
        throw new RequestError({ what: "logits_processor", got: `${logits.length} logits`, expected: String(vocabSize) });
      if (constraint !== undefined) logits = await this.constrained(logits, constraint);
      const counts = penalizes(sampling) ? answerCounts(ids, generated, vocabSize, repetitionWindow) : undefined;
      token = sampleToken(logits, counts, sampling, position);
    }
    if (call.logprobs !== undefined) onLogprob(logprobsOf(logits, token, call.logprobs, tokenizer), token);
    await this.accept(token);
    return token;
  };

  private async constrained(logits: Float32Array, constraint: Constraint): Promise<Float32Array> {
    const out = new Float32Array(logits.length).fill(-Infinity);
    const [next] = this.forced;
    const allowed = next === undefined ? await constraint.next() : ({ kind: "forced", tokens: this.forced } as const);
    switch (allowed.kind) {
      case "any":
        return logits;
      case "ended":
        for (const id of this.watching.stopTokenIds) out[id] = 0;
        return out;
      case "forced":
        if (next === undefined) this.forced.push(...allowed.tokens);
        out[this.forced[0] ?? 0] = 0;
        return out;
      case "some": {
        let most = -Infinity;
        for (const [id, logit] of logits.entries()) {
          if ((((allowed.mask[id >> 5] ?? 0) >>> (id & 31)) & 1) === 0) continue;
          out[id] = logit;
          most = Math.max(most, logit);
        }
        if (most > -Infinity) return out;
        throw new RequestError({ what: "logits_processor", got: "-Infinity for every token that the response_format allows" });
      }
    }
  }

  private async accept(token: number): Promise<void> {
    const { constraint } = this.watching;
    if (constraint === undefined) return;
    this.forced.shift();
    constraint.accept(token);
    if (this.forced.length > 0) return;
    const next = await constraint.next();
    this.ended = next.kind === "ended";
    if (next.kind === "forced") this.forced.push(...next.tokens);
  }
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
      if (logit === -Infinity) continue; // left out
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
