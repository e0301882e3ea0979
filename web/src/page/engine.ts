// The public API (types in api/types.ts). Runs on the page: turns methods into calls to the worker (link.ts) and answers into OpenAI's
// shape. Knows nothing of models or GPUs. Requests made while another one runs wait in the worker's queue, in order.

import type {
  ArtifactSource,
  ChatMessage,
  Engine,
  EngineInfo,
  EngineOptions,
  EngineStats,
  GenerateOptions,
  TemplateOptions,
} from "../api/types";
import { SAMPLING_NAMES } from "../api/sampling";
import { RequestError } from "../api/errors";
import { Answers } from "./answers";
import { Embedder, requireTask } from "./embeddings";
import { fetchFromFiles, FOLDER, readerOf } from "./files";
import { checkHeaders } from "./headers";
import { addressOf, checkPlatform } from "./host";
import { WorkerLink } from "./link";
import { openaiFetch } from "./openai-fetch";
import { toTemplateCall } from "./request";

export type * from "../api/types";
export { ArtifactError, DeviceError, NetworkError, RequestError, WispError } from "../api/errors";

/** How long dispose() waits for the worker before ending it anyway. */
const DISPOSE_MS = 2000;

const GENERATE_OPTIONS = new Set<string>([
  "maxTokens",
  ...SAMPLING_NAMES,
  "seed",
  "repetitionWindow",
  "stopTokenIds",
  "ignoreEos",
  "signal",
] satisfies (keyof GenerateOptions)[]);

class PageEngine implements Engine {
  readonly chat: Engine["chat"];
  readonly completions: Engine["completions"];
  readonly embeddings: Engine["embeddings"];
  readonly fetch: Engine["fetch"];
  readonly inspector: Engine["inspector"];
  private readonly embedder: Embedder;
  private disposal: Promise<void> | undefined;

  constructor(
    private readonly link: WorkerLink,
    private readonly loadedInfo: EngineInfo,
  ) {
    const answers = new Answers(link, () => this.info);
    this.chat = { completions: { create: answers.chat.bind(answers) as Engine["chat"]["completions"]["create"] } };
    this.completions = { create: answers.text.bind(answers) as Engine["completions"]["create"] };
    this.embedder = new Embedder(link, () => this.info);
    this.embeddings = { create: this.embedder.create.bind(this.embedder) };
    this.fetch = openaiFetch(this);
    this.inspector = { file: (path) => link.call("file", { path }) };
  }

  get info(): EngineInfo {
    return this.link.latestInfo ?? this.loadedInfo;
  }

  async logits(ids: readonly number[]): Promise<Float32Array> {
    requireTask(this.info, "text-generation", "engine.logits()");
    return this.link.call("logits", { ids: [...ids] });
  }

  embed(...asked: Parameters<Engine["embed"]>): Promise<Float32Array[]> {
    return this.embedder.embed(...asked);
  }

  async generateIds(ids: readonly number[], options: GenerateOptions = {}): Promise<number[]> {
    requireTask(this.info, "text-generation", "engine.generateIds()");
    const { signal, ...rest } = options;
    const unknown = Object.keys(rest).find((name) => !GENERATE_OPTIONS.has(name));
    if (unknown !== undefined) {
      throw new RequestError({ what: "an option of generateIds()", got: unknown, expected: [...GENERATE_OPTIONS].join(", ") });
    }
    return this.link.call("generate", { ids: [...ids], options: rest }, { signal });
  }

  tokenize(
    text: string,
    { addSpecialTokens = true, signal }: { addSpecialTokens?: boolean; signal?: AbortSignal | undefined } = {},
  ): Promise<number[]> {
    return this.link.call("tokenize", { text, addSpecialTokens }, { signal });
  }

  detokenize(ids: readonly number[], { skipSpecialTokens = true } = {}): Promise<string> {
    return this.link.call("detokenize", { ids: [...ids], skipSpecialTokens });
  }

  async applyChatTemplate(messages: ChatMessage[], options: TemplateOptions = {}): Promise<string> {
    return this.link.call("template", toTemplateCall(messages, options), { signal: options.signal });
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
    const { stats } = this.link;
    if (stats === undefined) throw new Error("an engine without its load's statistics");
    return stats;
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
}

/** As page/entry.ts says. */
export async function createEngine(source: ArtifactSource, options: EngineOptions = {}): Promise<Engine> {
  const { backend = "auto", kv = "auto", contextLength, threads, autotune, signal, worker } = options;
  checkPlatform();
  const headers = checkHeaders(options.headers ?? {});
  if (options.fetch !== undefined && typeof options.fetch !== "function")
    throw new RequestError({ what: "fetch", got: typeof options.fetch, expected: "a function" });
  checkWorker(worker);
  signal?.throwIfAborted();
  const isAddress = typeof source === "string" || source instanceof URL;
  const fetch = isAddress ? options.fetch : fetchFromFiles(readerOf(source));
  const url = isAddress ? addressOf(source) : FOLDER;
  const { cache = isAddress } = options;
  const link = new WorkerLink({ ...options, ...(fetch === undefined ? {} : { fetch }) });
  try {
    const info = await link.call(
      "load",
      { url, options: { backend, kv, contextLength, threads, cache, autotune, headers, fetchesOnPage: fetch !== undefined } },
      { signal },
    );
    return new PageEngine(link, info);
  } catch (error) {
    link.terminate();
    throw error;
  }
}

function checkWorker(worker: unknown): void {
  const isShared = worker === "shared" || (typeof SharedWorker !== "undefined" && worker instanceof SharedWorker);
  const isService = typeof ServiceWorker !== "undefined" && worker instanceof ServiceWorker;
  if (worker === undefined || typeof worker === "function" || isShared || isService) return;
  const got = typeof worker === "string" ? JSON.stringify(worker) : typeof worker;
  throw new RequestError({ what: "worker", got, expected: '"shared", a SharedWorker, a ServiceWorker, or a function that makes a worker' });
}
