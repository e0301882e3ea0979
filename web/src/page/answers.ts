// Both APIs of OpenAI's over the worker: whole answers and streams, of one answer or several. Knows no model.

import { RequestError } from "../api/errors";
import type {
  AnswerRequest,
  ChatCompletion,
  ChatCompletionChunk,
  ChatRequest,
  CompletionRequest,
  EngineInfo,
  Streaming,
  TextCompletion,
} from "../api/types";
import type { AnswerDelta, AnswerCall, Calls, ChatResult } from "../protocol/messages";
import { chunk, completion, deltaChunk, newEnvelope, textChoice, textCompletion, usageChunk, usageOf } from "./chat";
import { requireTask } from "./embeddings";
import type { WorkerLink } from "./link";
import { PushStream } from "./push-stream";
import { countOf, toCall, toCompletionCall } from "./request";

interface Options {
  signal?: AbortSignal | undefined;
}

/** What is asked of the worker: once for each answer. */
interface Asked<N extends "chat" | "complete"> {
  name: N;
  call: Calls[N]["args"];
  count: number;
  signal: AbortSignal | undefined;
  processor: AnswerRequest["logits_processor"];
}

/** Who hears what comes; `index` is the answer's. */
interface Listener {
  onDelta: (index: number, delta: AnswerDelta) => void;
  onEnd: (index: number, result: ChatResult) => void;
  /** The id of the call that runs, to end it early. */
  onId: (id: number) => void;
}

export class Answers {
  constructor(
    private readonly link: WorkerLink,
    private readonly info: () => EngineInfo,
  ) {}

  /** Both forms of create(): a promise of a completion, or a promise of a stream that can be iterated itself. */
  chat(request: ChatRequest, options: Options = {}): Promise<ChatCompletion> | Streaming<ChatCompletionChunk> {
    const asked = (): Asked<"chat"> => {
      requireTask(this.info(), "text-generation", "chat.completions.create()");
      this.checkTemplate();
      return { name: "chat", call: toCall(request), ...this.common(request, options) };
    };
    const envelope = () => newEnvelope(this.info().model);
    if (request.stream !== true)
      return this.whole(asked, (results, { call }) => completion(envelope(), results, call.logprobs !== undefined));
    return streaming(() => {
      const [made, ask] = [envelope(), asked()];
      return this.stream<ChatCompletionChunk>(ask, request, {
        first: (index) => [chunk(made, index, { role: "assistant", content: "" })],
        delta: (index, delta) => deltaChunk(made, index, delta),
        last: (index, { finishReason }) => chunk(made, index, {}, finishReason),
        usage: (results) => usageChunk(made, results),
      });
    });
  }

  text(request: CompletionRequest, options: Options = {}): Promise<TextCompletion> | Streaming<TextCompletion> {
    const asked = (): Asked<"complete"> => {
      requireTask(this.info(), "text-generation", "completions.create()");
      return { name: "complete", call: toCompletionCall(request), ...this.common(request, options) };
    };
    const envelope = () => newEnvelope(this.info().model, "cmpl");
    const wanted = ({ call }: { call: AnswerCall }, { logprobs }: ChatResult) => (call.logprobs === undefined ? undefined : logprobs);
    if (request.stream !== true)
      return this.whole(asked, (results, ask) => {
        const choices = results.map((result, index) => {
          const { text, finishReason, openingLength: start } = result;
          return textChoice(index, { text, finishReason, logprobs: wanted(ask, result), start });
        });
        return textCompletion(envelope(), choices, usageOf(results));
      });
    return streaming(() => {
      const [made, ask] = [envelope(), asked()];
      const lengths: number[] = [];
      return this.stream<TextCompletion>(ask, request, {
        first: () => [],
        delta: (index, { content = "", logprobs }) => {
          const start = lengths[index] ?? 0;
          lengths[index] = start + content.length;
          return textCompletion(made, [textChoice(index, { text: content, logprobs, start })], null);
        },
        last: (index, { finishReason }) => textCompletion(made, [textChoice(index, { text: "", finishReason, start: 0 })], null),
        usage: (results) => textCompletion(made, [], usageOf(results)),
      });
    });
  }

  private common(request: AnswerRequest, { signal = request.signal }: Options) {
    return { count: countOf(request), signal, processor: request.logits_processor };
  }

  private async whole<N extends "chat" | "complete", T>(
    asked: () => Asked<N>,
    make: (results: ChatResult[], asked: Asked<N>) => T,
  ): Promise<T> {
    const ask = await Promise.resolve().then(asked);
    return make(await this.run(ask), ask);
  }

  private stream<T>(
    ask: Asked<"chat"> | Asked<"complete">,
    { stream_options: options }: AnswerRequest,
    make: {
      first: (index: number) => T[];
      delta: (index: number, delta: AnswerDelta) => T;
      last: (index: number, result: ChatResult) => T;
      usage: (results: ChatResult[]) => T;
    },
  ): AsyncIterableIterator<T> {
    this.link.throwIfClosed();
    let id: number | undefined;
    let left = false;
    const chunks = new PushStream<T>(() => {
      left = true;
      if (id !== undefined) this.link.abort(id);
    });
    for (let index = 0; index < ask.count; index++) for (const each of make.first(index)) chunks.push(each);
    const listener: Listener = {
      onDelta: (index, delta) => chunks.push(make.delta(index, delta)),
      onEnd: (index, result) => chunks.push(make.last(index, result)),
      onId: (given) => (id = given),
    };
    this.run(ask as Asked<"chat">, listener, () => left).then(
      (results) => {
        if (options?.include_usage === true) chunks.push(make.usage(results));
        chunks.end();
      },
      (error: unknown) => chunks.fail(error),
    );
    return chunks;
  }

  /** The answers, one after another; no more after one that was ended by hand. */
  private async run<N extends "chat" | "complete">(ask: Asked<N>, listener?: Listener, left = () => false): Promise<ChatResult[]> {
    const { name, call, count, signal, processor } = ask;
    const results: ChatResult[] = [];
    for (let index = 0; index < count && !left(); index++) {
      const seed = call.seed === undefined || call.seed === -1 ? call.seed : call.seed + index;
      const result = await this.link.call<"chat" | "complete">(
        name,
        { ...call, seed },
        {
          signal,
          onDelta: listener === undefined ? undefined : (delta) => listener.onDelta(index, delta),
          onLogits: processor,
          ...(listener === undefined ? {} : { onId: listener.onId }),
        },
      );
      results.push(result);
      listener?.onEnd(index, result);
      if (result.finishReason === "abort") break;
    }
    return results;
  }

  private checkTemplate(): void {
    const { hasChatTemplate, model } = this.info();
    if (hasChatTemplate) return;
    throw new RequestError({
      what: `${model} has no chat template`,
      remedy: "It is not a chat model: write the prompt yourself and use completions.create().",
    });
  }
}

function streaming<T>(make: () => AsyncIterableIterator<T>): Streaming<T> {
  const promise = new Promise<AsyncIterableIterator<T>>((resolve) => resolve(make()));
  promise.catch(() => undefined); // A caller that iterates gets the error from the iterator.
  return Object.assign(promise, {
    async *[Symbol.asyncIterator]() {
      yield* await promise;
    },
  });
}
