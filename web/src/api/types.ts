// The types of the public API: what a page passes to the engine and gets back. No code.

import type { WispError } from "./errors";
import type { Inspector } from "./inspect";
import type { ChatCompletions, ChatMessage, Embeddings, FunctionTool, TextCompletions } from "./openai";

export type * from "./inspect";
export type * from "./openai";
export type * from "./storage";

export interface LoadProgress {
  /** `manifest`: the small files; `weights`: download and upload; `kernels`: waiting for the shader compiler; `ready`. */
  phase: "manifest" | "weights" | "kernels" | "ready";
  /** Bytes of this load that are here, from the network or the cache, of `totalBytes`. */
  loadedBytes: number;
  totalBytes: number;
  /** Those of `loadedBytes` that came from the cache. */
  cachedBytes: number;
  /** Why nothing comes at the moment, in plain words ("HTTP status 503; trying again in 8 s"); null otherwise. */
  waiting: string | null;
}

export interface EngineOptions {
  /** `"auto"` takes the best variant that the device satisfies; a variant's name takes that one or fails. */
  backend?: string;
  /**
   * How the KV cache keeps keys and values: in 16 bits, or in 8, which take half the memory and cost a little quality. `"auto"`,
   * the default: in 16 where the device has memory for the context then, else in 8 where the artifact has variants for that.
   */
  kv?: "auto" | "f16" | "q8";
  /** Capacity of the KV cache in tokens, at most the artifact's context (the default). Less saves GPU memory. */
  contextLength?: number;
  /** Threads of a variant that runs on the CPU, 1 to 64. Default: what suits the processor; 1 where the page is not isolated. */
  threads?: number;
  onProgress?: (progress: LoadProgress) => void;
  /**
   * The device went away and another one is being made ready: what runs waits, and goes on where it was. Or (kind "worker") the
   * worker ended, or hung in a template or a tokenizer and was ended: the model is loaded anew, and what had answered in part fails.
   */
  onRecovering?: (error: WispError) => void;
  /** The engine goes on after a loss, on the same variant or, when `info` says so, on the CPU. `engine.info` is this. */
  onBackendChange?: (info: EngineInfo) => void;
  /** The device or the worker went away and none could take its place. Requests reject from now on; create another engine. */
  onDeviceLost?: (error: WispError) => void;
  /** Cancels the load. What was downloaded whole stays cached. */
  signal?: AbortSignal;
  /**
   * Measure, at the first load on a device, which of the artifact's alternative kernels are fastest there (about half a
   * second, at most a few), and remember it with the files. Default: on GPUs, not on software adapters. True: on those too, at length.
   */
  autotune?: boolean;
  /**
   * Keep the files in the Cache API for the next visit, one copy for all models that have them in common. Default: true, but false
   * for files that the page has already.
   */
  cache?: boolean;
  /** Sent with every request for one of the artifact's files, such as `{ Authorization: "Bearer ..." }`. */
  headers?: Record<string, string>;
  /**
   * Fetches the artifact's files in place of the browser's `fetch`: with a URL as text, and `headers`, `cache` and a `signal`.
   * It runs on the page, as functions cannot be sent to the worker; the bytes are passed on as they come.
   */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
  /**
   * Starts the engine's worker in place of the engine itself, where the page knows better where `worker.js` lies. Called again
   * when a worker ended or hung. It may be a module worker of the page's own whose script is `import "wisp/worker"`.
   *
   * `"shared"`, or a SharedWorker: tabs of the site that load the same artifact with the same options have one model, which is in
   * the device's memory once; their requests take turns. Statistics are the model's, whoever asked. Another artifact, or other
   * options, is a model beside it. Where tabs cannot share, `info.notices` says why this one has its own.
   *
   * A ServiceWorker of the site whose script does `import "wisp/service-worker"`, such as `(await navigator.serviceWorker.ready).active`:
   * the same in there. A browser may end one that no page has used for minutes, and the engine is lost then.
   */
  worker?: "shared" | SharedWorker | ServiceWorker | (() => Worker | SharedWorker);
}

export interface AdapterInfo {
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  /** A software adapter, far slower than a GPU. */
  isFallback: boolean;
  /** Of a GPU: `compatibility` is WebGPU on OpenGL ES or Direct3D 11, with smaller limits. */
  featureLevel?: "core" | "compatibility";
}

export interface SkippedVariant {
  variant: string;
  /** In plain words: what the device lacks, or what went wrong. */
  reason: string;
}

/** Which of the artifact's kernels run, program by program (`decode`, and `prefill_N` for chunks of N tokens of a prompt). */
export interface Tuning {
  /** `own`: nothing was measured; `remembered`: on an earlier visit. */
  source: "own" | "measured" | "remembered";
  /**
   * The alternative's name for each program that does not run with the artifact's own kernels: by its name, or by `program/kernel`
   * where only that kernel is not the artifact's own.
   */
  programs: Record<string, string>;
  /** Milliseconds of a run by those names and alternative (`own`: the artifact's own kernels), when they were measured now. */
  milliseconds: Record<string, Record<string, number>>;
  /** Alternatives that cannot be taken here, and why in plain words. */
  rejected: { alternative: string; reason: string }[];
}

export interface EngineInfo {
  /** The model's id. */
  model: string;
  task: "text-generation" | "embedding";
  /** Of an embedding model: how many numbers an embedding has. */
  embeddingSize: number | undefined;
  variant: string;
  backend: "webgpu" | "wasm";
  adapter: AdapterInfo;
  /** Threads of the CPU that compute; 0 on a GPU. */
  threads: number;
  /** Better variants that the device cannot run, or that failed while they ran. */
  skipped: SkippedVariant[];
  /** What would make it faster here, in plain words. */
  hints: string[];
  /**
   * What is otherwise than one would expect, in plain words: a context that was lowered to what the memory holds, files that the
   * browser does not keep, or keeps only while it has room, a copy that was used because the network gave none.
   */
  notices: string[];
  tuning: Tuning;
  /** Tokens that prompt and answer may have together: fewer than the model's where there is no memory for all. */
  contextLength: number;
  vocabSize: number;
  quantization: string;
  /** The schemes that matrices are stored in, the most frequent one (`quantization`) first. */
  schemes: string[];
  /** Where the weights' source was quantized already. */
  sourceValues: SourceValues | undefined;
  parameters: number;
  weightBytes: number;
  kvBytesPerToken: number;
  bosTokenId: number | null;
  stopTokenIds: number[];
  hasChatTemplate: boolean;
  /** Sampling parameters of requests that give none. */
  generation: Required<SamplingOptions>;
}

/** What became of the values of a source that was quantized already, in numbers of matrices. */
export interface SourceValues {
  /** How many hold each of the source's formats. */
  formats: Record<string, number>;
  /** They are the source's values; or those with scales rounded to 16 bits; or new ones. */
  exact: number;
  rounded: number;
  requantized: number;
  /** Of the requantized ones, relative to the squares of the source's values. */
  squaredError: number;
}

/** What is not given comes from `engine.info.generation`. */
export interface SamplingOptions {
  /** 0: greedy. */
  temperature?: number;
  /** 0 or -1: off. */
  topK?: number;
  /** 1: off; 0: the most probable token. */
  topP?: number;
  /** 0: off. */
  minP?: number;
  /** 1: off. */
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
}

export interface GenerateOptions extends SamplingOptions {
  /** Default: up to the end of the context. */
  maxTokens?: number;
  /** Default, and -1: random. The same seed, ids and parameters give the same answer. */
  seed?: number;
  /**
   * Penalties look at so many of the last tokens, of prompt and answer together (llama.cpp's and candle's `repeat_last_n`).
   * Default, and -1: at all. Each token is waited for then: on a GPU that answers late this is slower.
   */
  repetitionWindow?: number;
  /** Replaces the model's own stop ids. */
  stopTokenIds?: number[];
  /** Do not stop at any id. */
  ignoreEos?: boolean;
  /** Ends the generation and rejects with the signal's reason. */
  signal?: AbortSignal;
}

/**
 * Counters and timings since the engine was created. Cumulative: subtract two snapshots for one request's share. What a start
 * runs by itself (measuring kernels, the artifact's smoke test) shows in dispatches, submits, readbacks and bytes, not in tokens,
 * steps, prompts and requests.
 */
export interface EngineStats {
  /** Tokens delivered, the stop token included. */
  tokens: number;
  /** `decode` programs run; more than `tokens` by those that an early stop threw away. */
  decodeSteps: number;
  /** Tokens of prompts, those of them whose KV rows were there already, and those of these that had been set aside for another prompt. */
  promptTokens: number;
  reusedTokens: number;
  restoredTokens: number;
  requests: number;
  dispatches: number;
  submits: number;
  readbacks: number;
  bindGroupsCreated: number;
  bytesUploaded: number;
  bytesReadBack: number;
  bytesDownloaded: number;
  bytesFromCache: number;
  cacheHits: number;
  gpuBytes: number;
  loadMs: number;
  compileMs: number;
  /** What measuring alternative kernels took; 0 when there was nothing to measure. */
  tuneMs: number;
  /** From a request's start to its first token, summed; and from the first to the last. */
  prefillMs: number;
  decodeMs: number;
  /** How often the device or the worker was lost and the engine went on. */
  recoveries: number;
}

export interface TemplateOptions {
  /** Default: unless the last message is the assistant's, which is continued then. */
  addGenerationPrompt?: boolean;
  continueFinalMessage?: boolean;
  tools?: FunctionTool[];
  /** What else the template asks for, such as `{ enable_thinking: false }`. */
  templateVariables?: Record<string, unknown>;
  signal?: AbortSignal | undefined;
}

export interface EmbedOptions {
  /** The first so many numbers, made to have length 1 again: for models that were trained for it. Default: all. */
  dimensions?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface Engine {
  /** A new object after each recovery from a lost device. */
  readonly info: EngineInfo;
  readonly chat: { readonly completions: ChatCompletions };
  /** Text that goes on with a text; no chat template. */
  readonly completions: TextCompletions;
  readonly embeddings: Embeddings;
  /**
   * OpenAI's API at no address: answers requests for `chat/completions`, `completions`, `embeddings` and `models` whatever their host, as a
   * client that takes a `fetch` function makes them, and asks no network.
   */
  readonly fetch: (input: string | URL | Request, init?: RequestInit) => Promise<Response>;
  /** What the model is made of, for pages that show it. */
  readonly inspector: Inspector;
  /** f32 logits (vocabSize) after the last of `ids`, run from position 0; forgets the conversation held so far. */
  logits(ids: readonly number[]): Promise<Float32Array>;
  /**
   * The embeddings of texts, or of ids, in their order: each of length 1, so that the sum of products is the cosine. Of an embedding
   * model alone. A query's instruction is written before it, as the model's publisher says ("Instruct: ...\nQuery:...").
   */
  embed(input: string | readonly string[] | readonly (readonly number[])[], options?: EmbedOptions): Promise<Float32Array[]>;
  /** The generated ids, without the prompt and without the stop token. */
  generateIds(ids: readonly number[], options?: GenerateOptions): Promise<number[]>;
  /** Special tokens in `text` become their ids; `addSpecialTokens` (default true) adds what the tokenizer adds, such as BOS. */
  tokenize(text: string, options?: { addSpecialTokens?: boolean; signal?: AbortSignal | undefined }): Promise<number[]>;
  detokenize(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): Promise<string>;
  /** The text that the model's chat template makes of the messages. */
  applyChatTemplate(messages: ChatMessage[], options?: TemplateOptions): Promise<string>;
  /** Ends the running generation; it resolves with what there is and `finish_reason: "abort"`. */
  interrupt(): void;
  /** Forgets the conversation held in the KV cache. Never needed for correctness: unequal prefixes are found by comparing ids. */
  resetChat(): Promise<void>;
  stats(): EngineStats;
  /** Frees the device's memory and ends the worker. Anything after this throws. */
  dispose(): Promise<void>;
}
