// A session of the Prompt API: a list of messages, asked in turn. Of the engine it knows the public API.

import type { ChatRequest, Engine, ResponseFormat, ToolCall } from "../api/types";
import {
  checkPrompt,
  domError,
  explained,
  formatOf,
  type LanguageModelPrompt,
  MAX_TEMPERATURE,
  MAX_TOP_K,
  type Prompt,
  QuotaExceeded,
  type ResponseConstraint,
  type Said,
} from "./prompt-messages";

export interface LanguageModelTool {
  name: string;
  description: string;
  /** A JSON schema of the one argument. */
  inputSchema: Record<string, unknown>;
  execute: (input: never) => Promise<string>;
}

export interface LanguageModelPromptOptions {
  responseConstraint?: ResponseConstraint;
  /** The model is not told of the constraint: the prompt does. */
  omitResponseConstraintInput?: boolean;
  signal?: AbortSignal;
}

export interface LanguageModelParams {
  defaultTopK: number;
  maxTopK: number;
  defaultTemperature: number;
  maxTemperature: number;
}

export function paramsOf({ info: { generation, vocabSize } }: Engine): LanguageModelParams {
  const { topK, temperature } = generation;
  return {
    defaultTopK: topK > 0 ? topK : vocabSize,
    maxTopK: Math.min(vocabSize, MAX_TOP_K),
    defaultTemperature: Math.min(temperature, MAX_TEMPERATURE),
    maxTemperature: MAX_TEMPERATURE,
  };
}

export interface Settings {
  engine: Engine;
  initial: Said[];
  sampling: Pick<ChatRequest, "temperature" | "top_k">;
  tools: LanguageModelTool[];
}

/** A model that calls functions for so long will not end. */
const MOST_ROUNDS = 32;

type OverflowHandler = ((event: Event) => void) | null;

export class LanguageModelSession extends EventTarget {
  onquotaoverflow: OverflowHandler = null;
  /** The newer name of `onquotaoverflow`. */
  oncontextoverflow: OverflowHandler = null;
  private messages: Said[];
  private usage = 0;
  /** The end of the session's queue. */
  private queue: Promise<unknown> = Promise.resolve();
  private readonly end = new AbortController();

  constructor(private readonly settings: Settings) {
    super();
    this.messages = [...settings.initial];
    for (const type of ["quotaoverflow", "contextoverflow"] as const)
      this.addEventListener(type, (event) => this[`on${type}`]?.call(this, event));
  }

  /** @throws QuotaExceededError where the initial prompts are too long */
  async begin(): Promise<void> {
    await this.fit([]);
    this.usage = await this.count(this.messages);
  }

  get temperature(): number {
    return this.settings.sampling.temperature ?? paramsOf(this.settings.engine).defaultTemperature;
  }

  get topK(): number {
    return this.settings.sampling.top_k ?? paramsOf(this.settings.engine).defaultTopK;
  }

  /** Tokens. */
  get inputUsage(): number {
    return this.usage;
  }
  get inputQuota(): number {
    return this.settings.engine.info.contextLength;
  }
  get contextUsage(): number {
    return this.inputUsage;
  }
  get contextWindow(): number {
    return this.inputQuota;
  }

  prompt(input: LanguageModelPrompt, options: LanguageModelPromptOptions = {}): Promise<string> {
    return this.ask(input, options, () => undefined);
  }

  /** The answer in pieces. */
  promptStreaming(input: LanguageModelPrompt, options: LanguageModelPromptOptions = {}): ReadableStream<string> {
    const left = new AbortController();
    return new ReadableStream<string>({
      start: (controller) => {
        this.ask(input, options, (piece) => controller.enqueue(piece), left.signal).then(
          () => controller.close(),
          (error: unknown) => {
            if (!left.signal.aborted) controller.error(error);
          },
        );
      },
      cancel: () => left.abort(),
    });
  }

  async append(input: LanguageModelPrompt, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    const { messages } = checkPrompt(input);
    await this.inTurn([signal], async () => {
      const kept = await this.fit(messages);
      const usage = await this.count([...kept, ...messages]);
      return () => {
        this.messages = [...kept, ...messages];
        this.usage = usage;
      };
    });
  }

  /** How many tokens the input would add. */
  async measureInputUsage(input: LanguageModelPrompt, options: LanguageModelPromptOptions = {}): Promise<number> {
    this.throwIfDestroyed();
    options.signal?.throwIfAborted();
    const { messages } = this.asked(input, options);
    return (await this.count([...this.messages, ...messages])) - (await this.count(this.messages));
  }

  measureContextUsage(input: LanguageModelPrompt, options: LanguageModelPromptOptions = {}): Promise<number> {
    return this.measureInputUsage(input, options);
  }

  async clone({ signal }: { signal?: AbortSignal } = {}): Promise<this> {
    return this.inTurn([signal], () => {
      const copy = new (this.constructor as new (settings: Settings) => this)(this.settings);
      copy.messages = [...this.messages];
      copy.usage = this.usage;
      return Promise.resolve(() => copy);
    });
  }

  /** Ends what runs; the engine stays for other sessions. */
  destroy(): void {
    this.end.abort(new DOMException("The session was destroyed", "AbortError"));
  }

  private throwIfDestroyed(): void {
    if (this.end.signal.aborted) throw new DOMException("The session was destroyed", "InvalidStateError");
  }

  /** `work` after what was asked before; what it returns is done only if nobody has given up meanwhile. */
  private async inTurn<T>(signals: (AbortSignal | undefined)[], work: (signal: AbortSignal) => Promise<() => T>): Promise<T> {
    this.throwIfDestroyed();
    const { signal, free } = firstOf([this.end.signal, ...signals]);
    const done = this.queue.then(async () => {
      signal.throwIfAborted();
      const commit = await work(signal);
      signal.throwIfAborted();
      return commit();
    });
    this.queue = done.catch(() => undefined);
    try {
      return await abortable(done, signal);
    } catch (error) {
      throw domError(error);
    } finally {
      free();
    }
  }

  private asked(input: LanguageModelPrompt, options: LanguageModelPromptOptions): Prompt & { response_format: ResponseFormat | null } {
    const { messages, continues } = checkPrompt(input);
    const format = formatOf(options.responseConstraint);
    const told = format === null || options.omitResponseConstraintInput === true ? messages : explained(messages, format);
    return { messages: told, continues, response_format: format };
  }

  private async ask(
    input: LanguageModelPrompt,
    options: LanguageModelPromptOptions,
    onText: (piece: string) => void,
    left?: AbortSignal,
  ): Promise<string> {
    const { messages, continues, response_format } = this.asked(input, options);
    return this.inTurn([options.signal, left], async (signal) => {
      const said = [...(await this.fit(messages)), ...messages];
      for (let round = 0; round < MOST_ROUNDS; round++) {
        const continuing = continues && round === 0;
        const request = { messages: said, response_format, continue_final_message: continuing, add_generation_prompt: !continuing };
        const { text, calls, usage } = await this.answer(request, onText, signal);
        const last = continuing ? said.pop() : undefined;
        const content = (last?.content ?? "") + text;
        if (calls.length === 0)
          return () => {
            this.messages = [...said, { role: "assistant", content }];
            this.usage = usage;
            return text;
          };
        said.push({ role: "assistant", content, tool_calls: calls }, ...(await this.results(calls)));
      }
      throw new DOMException(`The model called its tools ${MOST_ROUNDS} times without an answer`, "OperationError");
    });
  }

  private async answer(request: ChatRequest, onText: (piece: string) => void, signal: AbortSignal) {
    const { engine, sampling, tools } = this.settings;
    const functions = tools.map(({ name, description, inputSchema }) => ({
      type: "function" as const,
      function: { name, description, parameters: inputSchema },
    }));
    const given = { ...request, ...sampling, tools: functions, stream: true as const, stream_options: { include_usage: true } };
    const calls: ToolCall[] = [];
    let [text, usage] = ["", 0];
    for await (const chunk of await engine.chat.completions.create(given, { signal })) {
      usage = chunk.usage?.total_tokens ?? usage;
      const { content = "", tool_calls: deltas = [] } = chunk.choices[0]?.delta ?? {};
      text += content;
      if (content !== "") onText(content);
      for (const { index, id = "", function: called } of deltas) {
        const call = (calls[index] ??= { id, type: "function", function: { name: called.name ?? "", arguments: "" } });
        call.function.arguments += called.arguments ?? "";
      }
    }
    return { text, calls, usage };
  }

  private results(calls: readonly ToolCall[]): Promise<Said[]> {
    return Promise.all(
      calls.map(async ({ id, function: { name, arguments: json } }): Promise<Said> => {
        const tool = this.settings.tools.find((it) => it.name === name);
        const result = await tool?.execute(JSON.parse(json) as never);
        return { role: "tool", name, tool_call_id: id, content: result ?? "" };
      }),
    );
  }

  /** What is kept of the conversation so that `messages` and a word of an answer have room: the oldest turns go, not the initial ones. */
  private async fit(messages: readonly Said[]): Promise<Said[]> {
    const { initial } = this.settings;
    const quota = this.inputQuota;
    let kept = this.messages;
    for (;;) {
      const requested = await this.count([...kept, ...messages], true);
      if (requested < quota) break;
      const turns = kept.slice(initial.length);
      if (turns.length === 0) throw new QuotaExceeded("The prompt is too long for the model's context", requested, quota);
      const next = turns.findIndex(({ role }, i) => i > 0 && role === "user");
      kept = [...initial, ...(next < 0 ? [] : turns.slice(next))];
    }
    if (kept.length < this.messages.length) for (const type of ["quotaoverflow", "contextoverflow"]) this.dispatchEvent(new Event(type));
    return kept;
  }

  private async count(messages: Said[], asks = false): Promise<number> {
    if (messages.length === 0) return 0;
    const { engine } = this.settings;
    // A template may refuse what is no conversation yet, such as what the system says alone.
    const text = await engine
      .applyChatTemplate(messages, { addGenerationPrompt: asks, continueFinalMessage: false })
      .catch(() => messages.map(({ content }) => content).join("\n"));
    return (await engine.tokenize(text, { addSpecialTokens: false })).length;
  }
}

/** A signal that is the first of several. */
function firstOf(signals: (AbortSignal | undefined)[]): { signal: AbortSignal; free: () => void } {
  const controller = new AbortController();
  const abort = ({ target }: { target: unknown }) => controller.abort((target as AbortSignal).reason);
  for (const signal of signals) {
    if (signal?.aborted === true) abort({ target: signal });
    signal?.addEventListener("abort", abort);
  }
  const free = () => {
    for (const signal of signals) signal?.removeEventListener("abort", abort);
  };
  return { signal: controller.signal, free };
}

/** Rejects as soon as the signal says so, though the work may end later. */
function abortable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason as Error);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    work.then(resolve, reject);
  });
}
