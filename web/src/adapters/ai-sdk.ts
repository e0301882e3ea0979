// A language model for Vercel's AI SDK (`ai` 7 or later, model specification v4) on an engine. Only what the SDK's shapes and OpenAI's
// differ in is here: what a request means is checked by the engine, whose errors pass unchanged.

import type {
  LanguageModelV4,
  LanguageModelV4CallOptions as CallOptions,
  LanguageModelV4Content as Content,
  LanguageModelV4FinishReason,
  LanguageModelV4GenerateResult,
  LanguageModelV4Message,
  LanguageModelV4StreamPart as StreamPart,
  LanguageModelV4StreamResult,
  LanguageModelV4ToolResultOutput,
  LanguageModelV4Usage,
  SharedV4Warning,
} from "@ai-sdk/provider";
import type {
  ChatCompletionChunk,
  ChatMessage,
  ChatRequest,
  ChatTextPart,
  Engine,
  FinishReason,
  FunctionTool,
  ToolCall,
  ToolCallDelta,
  Usage,
} from "../api/types";

import { isDisposed, isOfTheLost } from "./lost";

export { wispEmbedding } from "./ai-sdk-embedding";

const PROVIDER = "wisp";

/** Makes an engine. With `onDeviceLost` handed on to createEngine(), one that is lost for good is replaced at once. */
export type MakeEngine = (options: { onDeviceLost: () => void }) => Promise<Engine>;

/**
 * A model for `generateText`, `streamText` and the rest of the SDK.
 *
 * `providerOptions.wisp` are further fields of the engine's own requests, such as `{ min_p: 0.05 }` or `{ overflow: "slide" }`.
 *
 * @param engine an engine, its promise, or what makes one when the model is first asked, and again when that one is lost for good
 *   or disposed of: `(options) => createEngine("/model/", options)`
 */
export function wisp(engine: Engine | Promise<Engine> | MakeEngine): LanguageModelV4 {
  return new WispLanguageModel(engine);
}

class WispLanguageModel implements LanguageModelV4 {
  readonly specificationVersion = "v4";
  readonly provider = PROVIDER;
  readonly supportedUrls = {};
  private loading: Promise<Engine> | undefined;
  private loaded: Engine | undefined;

  constructor(private readonly source: Engine | Promise<Engine> | MakeEngine) {
    if (typeof source === "object" && "info" in source) this.loaded = source;
  }

  /** The artifact's, as soon as it is known. */
  get modelId(): string {
    return this.loaded?.info.model ?? PROVIDER;
  }

  async doGenerate(options: CallOptions): Promise<LanguageModelV4GenerateResult> {
    const { request, warnings } = requestOf(options);
    const { signal, engine } = await this.begin(options);
    const answer = await this.watch(engine, engine.chat.completions.create({ ...request, stream: false }, { signal }));
    const [{ message, finish_reason: reason }] = answer.choices;
    const { reasoning_content: reasoning = "", content, tool_calls: calls = [] } = message;
    const found: Content[] = [];
    if (reasoning !== "") found.push({ type: "reasoning", text: reasoning });
    if (content !== null && content !== "") found.push({ type: "text", text: content });
    for (const call of calls) found.push(toolCall(call));
    return {
      content: found,
      finishReason: finishReasonOf(reason),
      usage: usageOf(answer.usage),
      request: { body: request },
      response: { id: answer.id, timestamp: new Date(answer.created * 1000), modelId: answer.model, body: answer },
      warnings,
    };
  }

  async doStream(options: CallOptions): Promise<LanguageModelV4StreamResult> {
    const { request, warnings } = requestOf(options);
    const { signal, engine } = await this.begin(options);
    const asked = { ...request, stream: true as const, stream_options: { include_usage: true } };
    const chunks = await this.watch(engine, engine.chat.completions.create(asked, { signal }));
    const parts = partsOf(chunks, warnings, options.includeRawChunks === true);
    const next = () => this.watch(engine, parts.next());
    return { stream: streamOf({ next, return: () => parts.return(undefined) }, signal), request: { body: asked } };
  }

  private async begin({ abortSignal: signal }: CallOptions): Promise<{ engine: Engine; signal: AbortSignal | undefined }> {
    if (this.loaded !== undefined && isDisposed(this.loaded)) this.forget(this.loaded);
    const loading = (this.loading ??= this.load());
    try {
      const engine = await loading;
      if (this.loading === loading) this.loaded = engine;
      return { engine, signal };
    } catch (error) {
      if (typeof this.source === "function" && this.loading === loading) this.loading = undefined; // It may succeed the next time.
      throw error;
    }
  }

  private load(): Promise<Engine> {
    const { source } = this;
    if (typeof source !== "function") return Promise.resolve(source);
    const onDeviceLost = () => {
      if (this.loading === loading && this.loaded !== undefined) this.forget(this.loaded);
    };
    const loading = source({ onDeviceLost });
    return loading;
  }

  /** The next call has another one made, where there is something that makes them. */
  private forget(engine: Engine): void {
    if (typeof this.source !== "function" || this.loaded !== engine) return;
    this.loaded = this.loading = undefined;
    void engine.dispose();
  }

  private async watch<T>(engine: Engine, answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      if (isOfTheLost(error)) this.forget(engine);
      throw error;
    }
  }
}

// ------------------------------------------------------------------------------------------------------------ requests

function requestOf(options: CallOptions): { request: ChatRequest; warnings: SharedV4Warning[] } {
  const warnings: SharedV4Warning[] = [];
  const request: ChatRequest = {
    messages: options.prompt.flatMap(messagesOf),
    max_completion_tokens: options.maxOutputTokens ?? null,
    temperature: options.temperature ?? null,
    top_p: options.topP ?? null,
    top_k: options.topK ?? null,
    presence_penalty: options.presencePenalty ?? null,
    frequency_penalty: options.frequencyPenalty ?? null,
    stop: options.stopSequences ?? null,
    seed: options.seed ?? null,
    ...responseFormatOf(options.responseFormat),
    ...toolsOf(options, warnings),
    ...thinkingOf(options.reasoning, warnings),
    ...options.providerOptions?.[PROVIDER],
  };
  return { request, warnings };
}

function messagesOf(message: LanguageModelV4Message): ChatMessage[] {
  switch (message.role) {
    case "system":
      return [{ role: "system", content: message.content }];
    case "user":
      return [{ role: "user", content: message.content.map(textOf) }];
    case "assistant": {
      const said: ChatMessage & { content: string } = { role: "assistant", content: "" };
      for (const part of message.content) {
        if (part.type === "text") said.content += part.text;
        else if (part.type === "reasoning") said.reasoning_content = (said.reasoning_content ?? "") + part.text;
        else if (part.type === "tool-call")
          (said.tool_calls ??= []).push({
            id: part.toolCallId,
            type: "function",
            function: { name: part.toolName, arguments: JSON.stringify(part.input) },
          });
      }
      return [said];
    }
    case "tool":
      return message.content
        .filter((part) => part.type === "tool-result")
        .map((part) => ({ role: "tool", tool_call_id: part.toolCallId, name: part.toolName, content: resultOf(part.output) }));
  }
}

type UserPart = Extract<LanguageModelV4Message, { role: "user" }>["content"][number];

/** What is no text goes on as what it is: the engine says that it reads text only. */
function textOf(part: UserPart): ChatTextPart {
  if (part.type === "text") return { type: "text", text: part.text };
  if (part.data.type === "text") return { type: "text", text: part.data.text };
  return { type: part.mediaType } as unknown as ChatTextPart;
}

function resultOf(output: LanguageModelV4ToolResultOutput): string | ChatTextPart[] {
  switch (output.type) {
    case "text":
    case "error-text":
      return output.value;
    case "json":
    case "error-json":
      return JSON.stringify(output.value);
    case "execution-denied":
      return output.reason ?? "The call was not allowed.";
    case "content":
      return output.value.map((part) =>
        part.type === "text" ? { type: "text", text: part.text } : ({ type: part.type } as unknown as ChatTextPart),
      );
  }
}

function responseFormatOf(format: CallOptions["responseFormat"]): Pick<ChatRequest, "response_format"> {
  if (format?.type !== "json") return {};
  const { schema, name = "answer" } = format;
  if (schema === undefined) return { response_format: { type: "json_object" } };
  return { response_format: { type: "json_schema", json_schema: { name, schema, strict: true } } };
}

function toolsOf({ tools = [], toolChoice }: CallOptions, warnings: SharedV4Warning[]): Pick<ChatRequest, "tools" | "tool_choice"> {
  const functions: FunctionTool[] = [];
  for (const tool of tools) {
    if (tool.type === "provider") {
      warnings.push({ type: "unsupported", feature: `provider-defined tool ${tool.id}` });
      continue;
    }
    const { name, description, inputSchema, strict, inputExamples } = tool;
    if (inputExamples !== undefined) warnings.push({ type: "unsupported", feature: `input examples of the tool ${name}` });
    const parameters = inputSchema as Record<string, unknown>;
    functions.push({
      type: "function",
      function: { name, parameters, ...(description === undefined ? {} : { description }), ...(strict === undefined ? {} : { strict }) },
    });
  }
  if (functions.length === 0) return {};
  if (toolChoice?.type === "tool") return { tools: functions, tool_choice: { type: "function", function: { name: toolChoice.toolName } } };
  return { tools: functions, tool_choice: toolChoice?.type ?? "auto" };
}

function thinkingOf(effort: CallOptions["reasoning"], warnings: SharedV4Warning[]): Pick<ChatRequest, "enable_thinking"> {
  if (effort === undefined || effort === "provider-default") return {};
  if (effort !== "none")
    warnings.push({ type: "compatibility", feature: "reasoning", details: `"${effort}" is any effort: a model thinks, or does not.` });
  return { enable_thinking: effort !== "none" };
}

// ------------------------------------------------------------------------------------------------------------- answers

const toolCall = ({ id, function: { name, arguments: input } }: ToolCall): Content & StreamPart => ({
  type: "tool-call",
  toolCallId: id,
  toolName: name,
  input,
});

function finishReasonOf(raw: FinishReason): LanguageModelV4FinishReason {
  const unified = { stop: "stop", length: "length", tool_calls: "tool-calls", abort: "other" } as const;
  return { unified: unified[raw], raw };
}

function usageOf(usage: Usage | null): LanguageModelV4Usage {
  const cacheRead = usage?.prompt_tokens_details.cached_tokens;
  const total = usage?.prompt_tokens;
  return {
    inputTokens: { total, noCache: usage === null ? undefined : usage.prompt_tokens - (cacheRead ?? 0), cacheRead, cacheWrite: undefined },
    outputTokens: { total: usage?.completion_tokens, text: undefined, reasoning: undefined },
    ...(usage === null ? {} : { raw: { ...usage } }),
  };
}

/** The parts of a stream that are open: text or thought, and the call that is written. */
class OpenParts {
  private block: { type: "text" | "reasoning"; id: string } | undefined;
  private call: ToolCall | undefined;
  private count = 0;

  *say(type: "text" | "reasoning", delta: string | undefined): Generator<StreamPart> {
    if (delta === undefined || delta === "") return;
    if (this.block?.type !== type) {
      yield* this.end();
      this.block = { type, id: String(this.count++) };
      yield { type: `${type}-start`, id: this.block.id };
    }
    yield { type: `${type}-delta`, id: this.block.id, delta };
  }

  *write({ id, function: { name, arguments: delta = "" } }: ToolCallDelta): Generator<StreamPart> {
    if (id !== undefined && name !== undefined) {
      yield* this.end();
      this.call = { id, type: "function", function: { name, arguments: "" } };
      yield { type: "tool-input-start", id, toolName: name };
    }
    if (this.call === undefined || delta === "") return;
    this.call.function.arguments += delta;
    yield { type: "tool-input-delta", id: this.call.id, delta };
  }

  *end(): Generator<StreamPart> {
    const { block, call } = this;
    this.block = this.call = undefined;
    if (block !== undefined) yield { type: `${block.type}-end`, id: block.id };
    if (call === undefined) return;
    yield { type: "tool-input-end", id: call.id };
    yield toolCall(call);
  }
}

async function* partsOf(
  chunks: AsyncIterableIterator<ChatCompletionChunk>,
  warnings: SharedV4Warning[],
  raw: boolean,
): AsyncGenerator<StreamPart> {
  yield { type: "stream-start", warnings };
  const open = new OpenParts();
  let isFirst = true;
  let reason: FinishReason = "stop";
  let usage: Usage | null = null;
  for await (const chunk of chunks) {
    if (raw) yield { type: "raw", rawValue: chunk };
    if (isFirst) yield { type: "response-metadata", id: chunk.id, timestamp: new Date(chunk.created * 1000), modelId: chunk.model };
    isFirst = false;
    usage = chunk.usage ?? usage;
    for (const { delta, finish_reason: finished } of chunk.choices) {
      yield* open.say("reasoning", delta.reasoning_content);
      yield* open.say("text", delta.content);
      for (const call of delta.tool_calls ?? []) yield* open.write(call);
      reason = finished ?? reason;
    }
  }
  yield* open.end();
  yield { type: "finish", finishReason: finishReasonOf(reason), usage: usageOf(usage) };
}

/** Errors are parts, as the SDK has them; the end that its own signal asked for is none. */
function streamOf(
  parts: Pick<AsyncGenerator<StreamPart, void>, "next" | "return">,
  signal: AbortSignal | undefined,
): ReadableStream<StreamPart> {
  return new ReadableStream({
    async pull(controller) {
      try {
        const next = await parts.next();
        if (next.done !== true) {
          controller.enqueue(next.value);
          return;
        }
      } catch (error) {
        if (signal?.aborted === true) throw error;
        controller.enqueue({ type: "error", error });
        controller.enqueue({ type: "finish", finishReason: { unified: "error", raw: undefined }, usage: usageOf(null) });
      }
      controller.close();
    },
    async cancel() {
      await parts.return(undefined);
    },
  });
}
