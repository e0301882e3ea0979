// The public API (types in api.ts). Runs on the page: starts the worker, turns methods into calls and messages into promises.
// Knows nothing of models or GPUs. Requests made while another one runs wait in the worker's queue, in order.

import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatCompletions,
  ChatMessage,
  ChatRequest,
  ChatStream,
  Engine,
  EngineInfo,
  EngineOptions,
  EngineStats,
  GenerateOptions,
} from "./api";
import { chunk, completion, newEnvelope, PushStream, toCall, usageChunk } from "./chat";
import { abortError, deserializeError, RequestError, WispError } from "./errors";
import { addressOf, type EngineWorker, startWorker } from "./host";
import { PageFetcher } from "./page-fetch";
import type { Call, CallName, Calls, FromWorker, ToWorker } from "./protocol";

export type * from "./api";
export { ArtifactError, DeviceError, NetworkError, RequestError, WispError } from "./errors";

/** How long dispose() waits for the worker before ending it anyway. */
const DISPOSE_MS = 2000;

const GENERATE_OPTIONS = new Set<string>([
  "maxTokens",
  "temperature",
  "topK",
  "topP",
  "minP",
  "repetitionPenalty",
  "presencePenalty",
  "frequencyPenalty",
  "seed",
  "stopTokenIds",
  "ignoreEos",
  "signal",
] satisfies (keyof GenerateOptions)[]);

interface Pending {
  resolve: (value: never) => void;
  reject: (error: Error) => void;
  onDelta: ((text: string) => void) | undefined;
}

interface CallOptions {
  signal?: AbortSignal | undefined;
  onDelta?: (text: string) => void;
  /** The caller learns the call's id, to end it early. */
  onId?: (id: number) => void;
}

/** The page's end of the protocol. */
class WorkerLink {
  latestStats: EngineStats | undefined;
  /** Set by what the worker says after the load. */
  latestInfo: EngineInfo | undefined;
  private readonly pending = new Map<number, Pending>();
  private nextId = 0;
  /** Why no call can be made any more. */
  private closed: Error | undefined;
  private readonly worker: EngineWorker;
  private readonly fetcher: PageFetcher | undefined;

  constructor(
    private readonly events: Pick<EngineOptions, "onProgress" | "onRecovering" | "onBackendChange" | "onDeviceLost" | "fetch">,
  ) {
    if (events.fetch !== undefined) this.fetcher = new PageFetcher(events.fetch, (message) => this.send(message));
    const onError = (message: string) => {
      const what = message === "" ? "The engine's worker could not be started" : `The engine's worker failed: ${message}`;
      this.close(new WispError("internal", { what, remedy: "Check that worker.js lies beside wisp.js and that the page's CSP allows it." }));
    };
    this.worker = startWorker({ onMessage: (message) => this.receive(message), onError });
  }

  call<N extends CallName>(name: N, args: Calls[N]["args"], options: CallOptions = {}): Promise<Calls[N]["result"]> {
    const { signal } = options;
    if (this.closed !== undefined) return Promise.reject(this.closed);
    if (signal?.aborted === true) return Promise.reject(abortError(signal));
    return this.request(name, args, options);
  }

  /** Without asking whether the link is closed: for the last call of all. */
  request<N extends CallName>(name: N, args: Calls[N]["args"], { signal, onDelta, onId }: CallOptions = {}): Promise<Calls[N]["result"]> {
    const id = this.nextId++;
    onId?.(id);
    return new Promise<Calls[N]["result"]>((resolve, reject) => {
      const onAbort = () => {
        this.abort(id);
        this.pending.delete(id);
        reject(abortError(signal));
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      const settle = () => signal?.removeEventListener("abort", onAbort);
      this.pending.set(id, {
        resolve: (value) => {
          settle();
          resolve(value);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
        onDelta,
      });
      this.send({ type: "call", id, name, args } as Call);
    });
  }

  abort(id: number): void {
    this.send({ type: "abort", id });
  }

  interrupt(): void {
    this.throwIfClosed();
    this.send({ type: "interrupt" });
  }

  throwIfClosed(): void {
    if (this.closed !== undefined) throw this.closed;
  }

  /** Rejects what is pending and everything after. */
  close(error: Error): void {
    this.closed ??= error;
    for (const { reject } of this.pending.values()) reject(error);
    this.pending.clear();
  }

  terminate(): void {
    this.worker.terminate();
  }

  private send(message: ToWorker): void {
    this.worker.post(message);
  }

  private receive(message: FromWorker): void {
    switch (message.type) {
      case "progress":
        this.events.onProgress?.(message.progress);
        return;
      case "fetch":
        this.fetcher?.start(message.id, message.request);
        return;
      case "fetch-abort":
        this.fetcher?.abort(message.id);
        return;
      case "keeping":
        askPersistence();
        return;
      case "recovering": {
        const error = deserializeError(message.error);
        if (error instanceof WispError) this.events.onRecovering?.(error);
        return;
      }
      case "moved":
        this.latestInfo = message.info;
        this.events.onBackendChange?.(message.info);
        return;
      case "lost": {
        const error = deserializeError(message.error);
        this.close(error);
        if (error instanceof WispError) this.events.onDeviceLost?.(error);
        return;
      }
      case "delta":
        this.latestStats = message.stats;
        this.pending.get(message.id)?.onDelta?.(message.text);
        return;
      case "result":
        this.latestStats = message.stats;
        this.pending.get(message.id)?.resolve(message.value as never);
        this.pending.delete(message.id);
        return;
      case "error":
        this.latestStats = message.stats;
        this.pending.get(message.id)?.reject(deserializeError(message.error));
        this.pending.delete(message.id);
        return;
      default:
        message satisfies never;
    }
  }
}

class PageEngine implements Engine {
  readonly chat: Engine["chat"];
  private disposal: Promise<void> | undefined;

  constructor(
    private readonly link: WorkerLink,
    private readonly loadedInfo: EngineInfo,
  ) {
    this.chat = { completions: { create: this.complete.bind(this) as ChatCompletions["create"] } };
  }

  get info(): EngineInfo {
    return this.link.latestInfo ?? this.loadedInfo;
  }

  logits(ids: readonly number[]): Promise<Float32Array> {
    return this.link.call("logits", { ids: [...ids] });
  }

  generateIds(ids: readonly number[], options: GenerateOptions = {}): Promise<number[]> {
    const { signal, ...rest } = options;
    const unknown = Object.keys(rest).find((name) => !GENERATE_OPTIONS.has(name));
    if (unknown !== undefined) {
      const error = { what: "an option of generateIds()", got: unknown, expected: [...GENERATE_OPTIONS].join(", ") };
      return Promise.reject(new RequestError(error));
    }
    return this.link.call("generate", { ids: [...ids], options: rest }, { signal });
  }

  tokenize(text: string, { addSpecialTokens = true } = {}): Promise<number[]> {
    return this.link.call("tokenize", { text, addSpecialTokens });
  }

  detokenize(ids: readonly number[], { skipSpecialTokens = true } = {}): Promise<string> {
    return this.link.call("detokenize", { ids: [...ids], skipSpecialTokens });
  }

  applyChatTemplate(messages: ChatMessage[], { addGenerationPrompt = true } = {}): Promise<string> {
    return this.link.call("template", { messages, addGenerationPrompt });
  }

  interrupt(): void {
    this.link.interrupt();
  }

  async resetChat(): Promise<void> {
    await this.link.call("reset", null);
  }

  stats(): EngineStats {
    // Statistics outlive a lost device, not the engine.
    if (this.disposal !== undefined) this.link.throwIfClosed();
    const { latestStats } = this.link;
    if (latestStats === undefined) throw new Error("an engine without its load's statistics");
    return { ...latestStats };
  }

  dispose(): Promise<void> {
    this.disposal ??= this.end();
    return this.disposal;
  }

  private async end(): Promise<void> {
    const remedy = "Create another one with createEngine().";
    this.link.close(new RequestError({ what: "The engine was disposed of", remedy }, "disposed"));
    const freed = this.link.request("dispose", null).catch(() => undefined);
    await Promise.race([freed, new Promise((resolve) => setTimeout(resolve, DISPOSE_MS))]);
    this.link.terminate();
  }

  /** Both forms of create(): a promise of a completion, or a promise of a stream that can be iterated itself. */
  private complete(
    request: ChatRequest,
    { signal = request.signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<ChatCompletion> | (Promise<ChatStream> & AsyncIterable<ChatCompletionChunk>) {
    if (request.stream !== true) return this.completeWhole(request, signal);
    const promise = new Promise<ChatStream>((resolve) => resolve(this.stream(request, signal)));
    promise.catch(() => undefined); // A caller that iterates gets the error from the iterator.
    return Object.assign(promise, {
      async *[Symbol.asyncIterator]() {
        yield* await promise;
      },
    });
  }

  private async completeWhole(request: ChatRequest, signal: AbortSignal | undefined): Promise<ChatCompletion> {
    const call = toCall(request);
    this.checkTemplate();
    const envelope = newEnvelope(this.info.model);
    return completion(envelope, await this.link.call("chat", call, { signal }));
  }

  private stream(request: ChatRequest, signal: AbortSignal | undefined): ChatStream {
    const call = toCall(request);
    this.link.throwIfClosed();
    this.checkTemplate();
    const envelope = newEnvelope(this.info.model);
    let id: number | undefined;
    const chunks = new PushStream<ChatCompletionChunk>(() => {
      if (id !== undefined) this.link.abort(id);
    });
    chunks.push(chunk(envelope, { role: "assistant", content: "" }));
    const onDelta = (content: string) => chunks.push(chunk(envelope, { content }));
    const onId = (given: number) => (id = given);
    this.link.call("chat", call, { signal, onDelta, onId }).then(
      (result) => {
        chunks.push(chunk(envelope, {}, result.finishReason));
        if (request.stream_options?.include_usage === true) chunks.push(usageChunk(envelope, result));
        chunks.end();
      },
      (error: unknown) => chunks.fail(error),
    );
    return chunks;
  }

  private checkTemplate(): void {
    if (this.info.hasChatTemplate) return;
    throw new RequestError({
      what: `${this.info.model} has no chat template`,
      remedy: "It is not a chat model: write the prompt yourself and use tokenize() and generateIds().",
    });
  }
}

/**
 * Loads an artifact: chooses a variant, downloads (or finds in the cache) and checks its files, fills the device's memory.
 * @param url the artifact's directory, absolute or relative to the page; in Node a path too
 * @throws ArtifactError, NetworkError, DeviceError, RequestError, or the signal's reason
 */
export async function createEngine(url: string | URL, options: EngineOptions = {}): Promise<Engine> {
  const { backend = "auto", contextLength, threads, cache = true, autotune, fetch, signal } = options;
  const headers = checkHeaders(options.headers ?? {});
  if (fetch !== undefined && typeof fetch !== "function") throw new RequestError({ what: "fetch", got: typeof fetch, expected: "a function" });
  signal?.throwIfAborted();
  const link = new WorkerLink(options);
  try {
    const info = await link.call("load", { url: addressOf(url), options: { backend, contextLength, threads, cache, autotune, headers, fetchesOnPage: fetch !== undefined } }, { signal });
    return new PageEngine(link, info);
  } catch (error) {
    link.terminate();
    throw error;
  }
}

function checkHeaders(headers: Record<string, string>): Record<string, string> {
  try {
    return Object.fromEntries(new Headers(headers));
  } catch (error) {
    throw new RequestError({ what: "headers", got: error instanceof Error ? error.message : String(error), expected: "names and values of HTTP headers" });
  }
}

/** Some browsers ask the user, some look at how the site is used; the answer shows in `engine.info.notices`. */
function askPersistence(): void {
  const { storage } = globalThis.navigator as { storage?: Partial<StorageManager> };
  storage?.persist?.().catch(() => undefined);
}
