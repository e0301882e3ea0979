// OpenAI's shape of answers: completions and their chunks. Knows no model and no worker.

import type {
  AssistantMessage,
  ChatChoice,
  ChatCompletion,
  ChatCompletionChunk,
  ChatDelta,
  ChoiceLogprobs,
  FinishReason,
  TextChoice,
  TextCompletion,
  TextLogprobs,
  TokenLogprob,
  Usage,
} from "../api/types";
import type { AnswerDelta, ChatResult } from "../protocol/messages";

/** What all chunks of an answer, or the one completion, have in common. */
export interface Envelope {
  id: string;
  created: number;
  model: string;
}

export function newEnvelope(model: string, kind: "chatcmpl" | "cmpl" = "chatcmpl"): Envelope {
  return { id: `${kind}-${crypto.randomUUID()}`, created: Math.floor(Date.now() / 1000), model };
}

/** Of one answer, or of several to the same prompt, which counts once. */
export function usageOf(results: readonly ChatResult[]): Usage {
  const [first] = results;
  const sum = (of: (result: ChatResult) => number) => results.reduce((total, result) => total + of(result), 0);
  const [completionTokens, prefillMs, decodeMs] = [sum((r) => r.completionTokens), sum((r) => r.prefillMs), sum((r) => r.decodeMs)];
  const rate = (tokens: number, ms: number) => (ms > 0 ? (1000 * tokens) / ms : 0);
  const { promptTokens = 0, reusedTokens = 0 } = first ?? {};
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: reusedTokens },
    completion_tokens_details: {
      accepted_prediction_tokens: sum((r) => r.acceptedTokens),
      rejected_prediction_tokens: sum((r) => r.rejectedTokens),
    },
    extra: {
      prefill_tokens_per_second: rate(
        sum((r) => r.promptTokens - r.reusedTokens),
        prefillMs,
      ),
      decode_tokens_per_second: rate(
        sum((r) => r.decodedTokens),
        decodeMs,
      ),
      time_to_first_token_s: (first?.prefillMs ?? 0) / 1000,
      reused_tokens: reusedTokens,
    },
  };
}

// --------------------------------------------------------------------------------------------------------------- chat

const choiceLogprobs = (content: readonly TokenLogprob[], wanted: boolean): ChoiceLogprobs | null =>
  wanted ? { content: [...content], refusal: null } : null;

function messageOf({ text, reasoning, toolCalls }: ChatResult): AssistantMessage {
  const message: AssistantMessage = { role: "assistant", content: text === "" && toolCalls.length > 0 ? null : text, refusal: null };
  if (reasoning !== "") message.reasoning_content = reasoning;
  if (toolCalls.length > 0) message.tool_calls = toolCalls;
  return message;
}

/** @param results at least one */
export function completion(envelope: Envelope, results: readonly ChatResult[], logprobs: boolean): ChatCompletion {
  const choices = results.map((result, index): ChatChoice => ({
    index,
    message: messageOf(result),
    finish_reason: result.finishReason,
    logprobs: choiceLogprobs(result.logprobs, logprobs),
  }));
  return { ...envelope, object: "chat.completion", choices: choices as [ChatChoice, ...ChatChoice[]], usage: usageOf(results) };
}

export function chunk(
  envelope: Envelope,
  index: number,
  delta: ChatDelta,
  finishReason: FinishReason | null = null,
  logprobs: ChoiceLogprobs | null = null,
): ChatCompletionChunk {
  return {
    ...envelope,
    object: "chat.completion.chunk",
    choices: [{ index, delta, finish_reason: finishReason, logprobs }],
    usage: null,
  };
}

export function deltaChunk(
  envelope: Envelope,
  index: number,
  { content, reasoning, toolCalls, logprobs }: AnswerDelta,
): ChatCompletionChunk {
  const delta: ChatDelta = {};
  if (content !== undefined) delta.content = content;
  if (reasoning !== undefined) delta.reasoning_content = reasoning;
  if (toolCalls !== undefined) delta.tool_calls = toolCalls;
  return chunk(envelope, index, delta, null, choiceLogprobs(logprobs ?? [], logprobs !== undefined));
}

export function usageChunk(envelope: Envelope, results: readonly ChatResult[]): ChatCompletionChunk {
  return { ...envelope, object: "chat.completion.chunk", choices: [], usage: usageOf(results) };
}

// --------------------------------------------------------------------------------------------------------------- text

/** @param start where the text of the first of them begins in the answer */
function textLogprobs(tokens: readonly TokenLogprob[], start: number): TextLogprobs {
  let offset = start;
  const offsets = tokens.map(({ token }) => {
    const at = offset;
    offset += token.length;
    return at;
  });
  return {
    tokens: tokens.map(({ token }) => token),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ top_logprobs: top }) => Object.fromEntries(top.map(({ token, logprob }) => [token, logprob]))),
    text_offset: offsets,
  };
}

export interface TextPiece {
  text: string;
  logprobs?: readonly TokenLogprob[] | undefined;
  finishReason?: FinishReason;
  /** Characters of the answer before it. */
  start: number;
}

export const textChoice = (index: number, { text, logprobs, finishReason, start }: TextPiece): TextChoice => ({
  index,
  text,
  finish_reason: finishReason ?? null,
  logprobs: logprobs === undefined ? null : textLogprobs(logprobs, start),
});

export const textCompletion = (envelope: Envelope, choices: TextChoice[], usage: Usage | null): TextCompletion => ({
  ...envelope,
  object: "text_completion",
  choices,
  usage,
});
