// OpenAI's shape for chat completions: requests in, completions and chunks out. Knows no model and no worker; what it does
// not support it refuses by name.

import type { ChatCompletion, ChatCompletionChunk, ChatMessage, ChatRequest, FinishReason, SamplingOptions, Usage } from "../api/types";
import { RequestError } from "../api/errors";
import { SAMPLING, SAMPLING_NAMES } from "../api/sampling";
import type { ChatCall, ChatResult } from "../protocol/messages";

const KNOWN = new Set<string>([
  "messages",
  "stream",
  "stream_options",
  ...SAMPLING_NAMES.map((name) => SAMPLING[name].request),
  "seed",
  "max_tokens",
  "max_completion_tokens",
  "stop",
  "model",
  "user",
  "signal",
] satisfies (keyof ChatRequest)[]);

const ANY = () => true;
const isEmpty = (value: unknown): boolean => typeof value === "object" && value !== null && Object.keys(value).length === 0;
const isOneOf =
  (...values: readonly unknown[]) =>
  (value: unknown): boolean =>
    values.includes(value);

/** Parameters of OpenAI's that change nothing when they have these values: clients and libraries send them unasked. */
const HARMLESS: Record<string, (value: unknown) => boolean> = {
  n: isOneOf(1),
  logprobs: isOneOf(false),
  top_logprobs: isOneOf(0),
  tools: isEmpty,
  functions: isEmpty,
  tool_choice: isOneOf("none", "auto"), // without tools
  function_call: isOneOf("none", "auto"),
  parallel_tool_calls: isOneOf(true, false),
  logit_bias: isEmpty,
  response_format: (value) => (value as { type?: unknown } | null)?.type === "text",
  modalities: (value) => Array.isArray(value) && value.every(isOneOf("text")),
  store: ANY, // what a service would do with the answer afterwards
  metadata: ANY,
};
/** What a message may hold besides, as answers of OpenAI's have it: nothing. */
const isNothing = (value: unknown): boolean => value === null || value === undefined || isEmpty(value);
const MOST_STOPS = 16;

const show = (value: unknown): string => (value === undefined ? "nothing" : JSON.stringify(value).slice(0, 80));

/** @throws RequestError naming the parameter, what was got and what is supported */
export function toCall(request: ChatRequest): ChatCall {
  for (const [name, value] of Object.entries(request)) {
    if (KNOWN.has(name) || value === null || value === undefined || HARMLESS[name]?.(value) === true) continue;
    throw new RequestError({
      what: `The parameter ${name} is not supported`,
      got: show(value),
      expected: `only ${[...KNOWN].join(", ")}`,
    });
  }
  return {
    messages: checkMessages(request.messages),
    sampling: samplingOf(request),
    seed: request.seed ?? undefined,
    maxTokens: request.max_completion_tokens ?? request.max_tokens ?? undefined,
    stop: checkStop(request.stop ?? []),
    stream: request.stream === true,
  };
}

function samplingOf(request: ChatRequest): SamplingOptions {
  const given = SAMPLING_NAMES.map((name) => [name, request[SAMPLING[name].request]] as const);
  return Object.fromEntries(given.filter(([, value]) => value !== null && value !== undefined));
}

/** Callers may be JavaScript: the type is a promise that nobody checked. */
export function checkMessages(messages: unknown): ChatMessage[] {
  if (!Array.isArray(messages) || messages.length === 0)
    throw new RequestError({ what: "messages", got: show(messages), expected: "a list of at least one message" });
  return messages.map((message: unknown, i) => {
    if (typeof message !== "object" || message === null || Array.isArray(message))
      throw new RequestError({ what: `messages[${i}]`, got: show(message), expected: "an object with role and content" });
    const { role, content, ...rest } = message as Partial<Record<string, unknown>>;
    const more = Object.keys(rest).find((name) => !isNothing(rest[name]));
    if (more !== undefined)
      throw new RequestError({ what: `messages[${i}].${more} is not supported`, got: show(rest[more]), expected: "only role and content" });
    if (typeof role !== "string") throw new RequestError({ what: `messages[${i}].role`, got: typeof role, expected: "a string" });
    if (typeof content === "string") return { role, content };
    const parts = Array.isArray(content) ? (content as ({ type?: unknown; text?: unknown } | null | undefined)[]) : undefined;
    if (parts === undefined || parts.some((part) => part?.type !== "text" || typeof part.text !== "string"))
      throw new RequestError({
        what: `messages[${i}].content`,
        got: show(content),
        expected: 'a string or a list of {type: "text", text}: the model reads text only',
      });
    return { role, content: parts.map((part) => part?.text as string).join("") };
  });
}

function checkStop(stop: unknown): string[] {
  const list: unknown[] = Array.isArray(stop) ? stop : [stop];
  if (list.length > MOST_STOPS || list.some((item) => typeof item !== "string" || item === ""))
    throw new RequestError({ what: "stop", got: show(stop), expected: `at most ${MOST_STOPS} strings, none empty` });
  return list as string[];
}

/** What all chunks of an answer, or the one completion, have in common. */
export interface Envelope {
  id: string;
  created: number;
  model: string;
}

export function newEnvelope(model: string): Envelope {
  return { id: `chatcmpl-${crypto.randomUUID()}`, created: Math.floor(Date.now() / 1000), model };
}

export function usageOf(result: ChatResult): Usage {
  const { promptTokens, completionTokens, reusedTokens, prefillMs, decodeMs, decodedTokens } = result;
  const rate = (tokens: number, ms: number) => (ms > 0 ? (1000 * tokens) / ms : 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    extra: {
      prefill_tokens_per_second: rate(promptTokens - reusedTokens, prefillMs),
      decode_tokens_per_second: rate(decodedTokens, decodeMs),
      time_to_first_token_s: prefillMs / 1000,
      reused_tokens: reusedTokens,
    },
  };
}

export function completion(envelope: Envelope, result: ChatResult): ChatCompletion {
  const message = { role: "assistant" as const, content: result.text };
  return {
    ...envelope,
    object: "chat.completion",
    choices: [{ index: 0, message, finish_reason: result.finishReason, logprobs: null }],
    usage: usageOf(result),
  };
}

export function chunk(
  envelope: Envelope,
  delta: { role?: "assistant"; content?: string },
  finishReason: FinishReason | null = null,
): ChatCompletionChunk {
  return {
    ...envelope,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, finish_reason: finishReason, logprobs: null }],
    usage: null,
  };
}

export function usageChunk(envelope: Envelope, result: ChatResult): ChatCompletionChunk {
  return { ...envelope, object: "chat.completion.chunk", choices: [], usage: usageOf(result) };
}

/** Values pushed by one side, awaited by the other. Leaving the loop calls `onReturn`. */
export class PushStream<T> implements AsyncIterableIterator<T> {
  private readonly values: T[] = [];
  private readonly waiting: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void }[] = [];
  private ended = false;
  private error: { value: unknown } | undefined;

  constructor(private readonly onReturn: () => void) {}

  push(value: T): void {
    if (this.ended) return;
    const reader = this.waiting.shift();
    if (reader === undefined) this.values.push(value);
    else reader.resolve({ done: false, value });
  }

  end(): void {
    this.ended = true;
    for (const { resolve } of this.waiting.splice(0)) resolve({ done: true, value: undefined });
  }

  fail(error: unknown): void {
    if (this.ended) return;
    this.ended = true;
    const reader = this.waiting.shift();
    if (reader === undefined) this.error = { value: error };
    else reader.reject(error);
    this.end();
  }

  async next(): Promise<IteratorResult<T>> {
    const value = this.values.shift();
    if (value !== undefined) return Promise.resolve({ done: false, value });
    if (this.error !== undefined) {
      const { value: error } = this.error;
      this.error = undefined;
      throw error;
    }
    if (this.ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  return(): Promise<IteratorResult<T>> {
    if (!this.ended) this.onReturn();
    this.values.length = 0;
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
