// The messages between the page (page/link.ts) and the worker (worker/serve.ts). Types only; both ends switch over them exhaustively.

import type {
  ChatMessage,
  EngineInfo,
  EngineStats,
  FinishReason,
  FunctionTool,
  GenerateOptions,
  LoadProgress,
  SamplingOptions,
  TokenLogprob,
  ToolCall,
  ToolCallDelta,
} from "../api/types";
import type { AnswerFormat } from "../api/constraint";
import type { SerializedError } from "../api/errors";
import type { TextWork } from "../text/work";

export type { TextWork };

export interface LoadOptions {
  backend: string;
  kv: string;
  contextLength: number | undefined;
  threads: number | undefined;
  cache: boolean;
  autotune: boolean | undefined;
  /** Of every request for a file. */
  headers: Record<string, string>;
  /** The page fetches the files: it was given a function for it. */
  fetchesOnPage: boolean;
}

/** What the page is asked to fetch, and how; answered by `response`, then `piece`s, then `done`. */
export interface PageRequest {
  url: string;
  headers: Record<string, string>;
  cache: RequestCache;
}

/** What the page says of a request of the worker. */
export type PageAnswer =
  | { type: "response"; id: number; status: number; headers: [string, string][] }
  | { type: "piece"; id: number; bytes: Uint8Array<ArrayBuffer> }
  /** The body's end, or why the request failed. */
  | { type: "done"; id: number; error: string | undefined };

/** What an answer is to be like, after its OpenAI shape was checked on the page. */
export interface AnswerCall {
  sampling: SamplingOptions;
  seed: number | undefined;
  repetitionWindow: number | undefined;
  maxTokens: number | undefined;
  stop: string[];
  /** The model's own end is none. */
  ignoreEos: boolean;
  /** What the answer has to be; undefined: anything. */
  format: AnswerFormat | undefined;
  /** Send `delta` messages while generating. */
  stream: boolean;
  /** Of so many tokens besides each one that was taken; undefined: of none. */
  logprobs: number | undefined;
  /** Added to the logits of these ids. */
  bias: [id: number, bias: number][];
  /** The page changes the logits of each step (messages `logits`). */
  processed: boolean;
}

export interface TemplateCall {
  messages: ChatMessage[];
  tools: FunctionTool[];
  /** What the template is given besides. */
  variables: Record<string, unknown>;
  addGenerationPrompt: boolean | undefined;
  continueFinalMessage: boolean | undefined;
}

export interface ChatCall extends AnswerCall, TemplateCall {
  /** What the answer is expected to repeat; undefined: nothing is. */
  prediction: string | undefined;
  /** `none`: the model is not told of the tools. */
  toolChoice: "none" | "auto" | "required" | { name: string };
  parallelToolCalls: boolean;
  /** Special tokens in contents are text. */
  contentsAsText: boolean;
  /** The oldest turns are forgotten when the context is full. */
  slides: boolean;
}

export interface CompletionCall extends AnswerCall {
  prompt: string | number[];
  echo: boolean;
}

export interface EmbedCall {
  /** Each as text or as ids. */
  inputs: (string | number[])[];
  /** How many numbers of each embedding are wanted; undefined: all. */
  dimensions: number | undefined;
}

export interface Embedded {
  /** In the order of the inputs, each of length 1. */
  embeddings: Float32Array[];
  promptTokens: number;
}

/** What has come of an answer since the last one; what is absent is empty. */
export interface AnswerDelta {
  content?: string;
  reasoning?: string;
  toolCalls?: ToolCallDelta[];
  logprobs?: TokenLogprob[];
}

export interface ChatResult {
  /** What was said, without what was thought and called. */
  text: string;
  reasoning: string;
  toolCalls: ToolCall[];
  /** Of every token, those that no text shows too; empty when nobody asked. */
  logprobs: TokenLogprob[];
  finishReason: FinishReason;
  promptTokens: number;
  completionTokens: number;
  /** Of a prediction: tokens that came of it, and those that were tried in vain. */
  acceptedTokens: number;
  rejectedTokens: number;
  reusedTokens: number;
  /** Characters of what the text began with, before the first token: of an echoed prompt. */
  openingLength: number;
  prefillMs: number;
  decodeMs: number;
  decodedTokens: number;
}

/** What a call asks and what answers it. */
export interface Calls {
  load: { args: { url: string; options: LoadOptions }; result: EngineInfo };
  logits: { args: { ids: number[] }; result: Float32Array };
  embed: { args: EmbedCall; result: Embedded };
  generate: { args: { ids: number[]; options: Omit<GenerateOptions, "signal"> }; result: number[] };
  chat: { args: ChatCall; result: ChatResult };
  complete: { args: CompletionCall; result: ChatResult };
  tokenize: { args: { text: string; addSpecialTokens: boolean }; result: number[] };
  detokenize: { args: { ids: number[]; skipSpecialTokens: boolean }; result: string };
  template: { args: TemplateCall; result: string };
  file: { args: { path: string }; result: Uint8Array<ArrayBuffer> };
  reset: { args: null; result: null };
  dispose: { args: null; result: null };
}
export type CallName = keyof Calls;

export type Call = { [N in CallName]: { type: "call"; id: number; name: N; args: Calls[N]["args"] } }[CallName];

export type ToWorker =
  | Call
  /** Ends the call `id`, running or waiting: it returns what there is. */
  | { type: "abort"; id: number }
  /** Ends the generation that is running. */
  | { type: "interrupt" }
  | PageAnswer
  /** The logits of the call `id` as its processor left them, or why it failed. */
  | { type: "logits"; id: number; logits: Float32Array<ArrayBuffer> | undefined; error: SerializedError | undefined }
  /** Of a page that may end before the worker does: whoever gets this Web Lock knows that it has. */
  | { type: "client"; lock: string }
  /** The page wants nothing any more. */
  | { type: "bye" }
  /** Answered as soon as the worker's event loop turns. */
  | { type: "ping" };

export type FromWorker =
  /** Whoever gets this Web Lock knows that the worker is gone. */
  | { type: "started"; lock: string }
  | { type: "pong" }
  /** Work on text begins, for the call `id` (none: for a load), or with undefined has ended: it may hang. */
  | { type: "text"; work: TextWork | undefined; id: number | undefined }
  | { type: "result"; id: number; value: Calls[CallName]["result"]; stats: EngineStats }
  | { type: "error"; id: number; error: SerializedError; stats: EngineStats }
  | { type: "delta"; id: number; delta: AnswerDelta; stats: EngineStats }
  /** The page's processor is wanted, for the logits after `ids`. */
  | { type: "logits"; id: number; logits: Float32Array<ArrayBuffer>; ids: number[] }
  | { type: "progress"; progress: LoadProgress }
  /** The page's own fetch function is wanted. */
  | { type: "fetch"; id: number; request: PageRequest }
  /** Nobody waits for it any more. */
  | { type: "fetch-abort"; id: number }
  /** Files will be kept: only a page can ask the browser not to delete them. */
  | { type: "keeping" }
  /** The device is gone; the model is being started anew. */
  | { type: "recovering"; error: SerializedError }
  | { type: "moved"; info: EngineInfo }
  /** For good. */
  | { type: "lost"; error: SerializedError };
