// The page's end of the protocol: calls out, answers in, and a worker that died or hangs replaced by another one, with the model
// loaded anew and the calls that had said nothing yet asked again. Knows no shape of requests; chat.ts does.

import type { EngineInfo, EngineOptions, EngineStats, LogitsProcessor } from "../api/types";
import { abortError, deserializeError, serializeError, WispError } from "../api/errors";
import { type EngineWorker, startWorker, watchLock } from "./host";
import { PageFetcher } from "./fetcher";
import type { AnswerDelta, Call, CallName, Calls, ChatResult, FromWorker, TextWork, ToWorker } from "../protocol/messages";
import { Watchdog } from "./watchdog";

export interface CallOptions {
  signal?: AbortSignal | undefined;
  onDelta?: ((delta: AnswerDelta) => void) | undefined;
  /** Changes the logits of each step. */
  onLogits?: LogitsProcessor | undefined;
  /** The caller learns the call's id, to end it early. */
  onId?: (id: number) => void;
}

interface Pending {
  call: Call;
  resolve: (value: never) => void;
  reject: (error: Error) => void;
  onDelta: ((delta: AnswerDelta) => void) | undefined;
  onLogits: LogitsProcessor | undefined;
  /** Something of its answer is out already. */
  begun: boolean;
}

type Events = Pick<EngineOptions, "onProgress" | "onRecovering" | "onBackendChange" | "onDeviceLost" | "fetch" | "worker">;

/** A worker that ends by itself so soon again does so for good. */
const TWICE_WITHIN_MS = 60_000;
/** Statistics that are those of the latest worker; the others are summed over all. */
const LATEST: readonly (keyof EngineStats)[] = ["gpuBytes", "loadMs", "compileMs", "tuneMs"];
/** Calls that generate. */
const ANSWERS = new Set<CallName>(["chat", "complete", "generate"]);
const CREATE_AGAIN = "Create the engine again.";
/** What a hung worker was at, in an error. */
const CULPRITS: Record<TextWork, string> = {
  template: "The model's chat template",
  tokenizer: "The model's tokenizer",
  "building the tokenizer": "Building the model's tokenizer",
  grammar: "The request's response_format",
};

const NO_ANSWER: ChatResult = {
  text: "",
  reasoning: "",
  toolCalls: [],
  logprobs: [],
  finishReason: "abort",
  promptTokens: 0,
  completionTokens: 0,
  acceptedTokens: 0,
  rejectedTokens: 0,
  reusedTokens: 0,
  openingLength: 0,
  prefillMs: 0,
  decodeMs: 0,
  decodedTokens: 0,
};

export class WorkerLink {
  /** Set by what the worker says after the load. */
  latestInfo: EngineInfo | undefined;
  private latestStats: EngineStats | undefined;
  /** Of the workers before this one. */
  private spent: Partial<EngineStats> = {};
  private readonly pending = new Map<number, Pending>();
  private nextId = 0;
  /** Why no call can be made any more. */
  private closed: Error | undefined;
  /** What the model was loaded with. */
  private loaded: Calls["load"]["args"] | undefined;
  /** A new worker is loading the model: calls wait. */
  private restarting = false;
  private diedAt = -Infinity;
  /** The call that was to end, by interrupt(). */
  private stopped: number | undefined;
  /** The call whose text the worker is at. */
  private textOf: number | undefined;
  private worker!: EngineWorker;
  private watchdog!: Watchdog;
  private fetcher: PageFetcher | undefined;
  private watch: { stop: () => void } | undefined;

  constructor(private readonly events: Events) {
    this.start();
  }

  call<N extends CallName>(name: N, args: Calls[N]["args"], options: CallOptions = {}): Promise<Calls[N]["result"]> {
    const { signal } = options;
    if (this.closed !== undefined) return Promise.reject(this.closed);
    if (signal?.aborted === true) return Promise.reject(abortError(signal));
    if (name === "reset" && this.restarting) return Promise.resolve(null as Calls[N]["result"]); // A new worker remembers nothing.
    return this.request(name, args, options);
  }

  /** Without asking whether the link is closed: for the last call of all. */
  request<N extends CallName>(
    name: N,
    args: Calls[N]["args"],
    { signal, onDelta, onLogits, onId }: CallOptions = {},
  ): Promise<Calls[N]["result"]> {
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
      const call = { type: "call", id, name, args } as Call;
      this.pending.set(id, {
        call,
        resolve: (value) => {
          settle();
          resolve(value);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
        onDelta,
        onLogits,
        begun: false,
      });
      if (!this.restarting) this.send(call);
    });
  }

  abort(id: number): void {
    if (this.restarting) {
      this.pending.get(id)?.reject(abortError());
      this.pending.delete(id);
      return;
    }
    if (id === this.textOf) this.watchdog.hurry();
    this.send({ type: "abort", id });
  }

  interrupt(): void {
    this.throwIfClosed();
    if (this.restarting) this.endFirst();
    else {
      this.stopped = this.firstAnswer();
      this.watchdog.hurry();
      this.send({ type: "interrupt" });
    }
  }

  /** The call that would be running answers with what it has: nothing. */
  private endFirst(): void {
    const id = this.firstAnswer();
    const pending = id === undefined ? undefined : this.pending.get(id);
    if (id === undefined || pending === undefined) return;
    this.pending.delete(id);
    pending.resolve((pending.call.name === "generate" ? [] : NO_ANSWER) as never);
  }

  /** The call that runs, or that would be running. */
  private firstAnswer(): number | undefined {
    for (const [id, { call }] of this.pending) if (ANSWERS.has(call.name)) return id;
    return undefined;
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
    this.watchdog.stop();
    this.watch?.stop();
    this.fetcher?.abortAll();
    this.worker.terminate();
  }

  /** Undefined before the load. */
  get stats(): EngineStats | undefined {
    const { latestStats, spent } = this;
    if (latestStats === undefined) return undefined;
    const total = { ...latestStats };
    for (const [name, value] of Object.entries(spent) as [keyof EngineStats, number][]) if (!LATEST.includes(name)) total[name] += value;
    return total;
  }

  private start(again = false): void {
    const onError = (message: string) => {
      const started = this.loaded !== undefined;
      const what =
        message === "" ? `The engine's worker ${started ? "ended" : "could not be started"}` : `The engine's worker failed: ${message}`;
      const remedy = started ? CREATE_AGAIN : "Check that worker.js lies beside wisp.js and that the page's CSP allows it.";
      this.failed(new WispError("worker", { what, remedy }), false);
    };
    const worker = startWorker({
      onMessage: (message) => {
        if (worker === this.worker) this.receive(message);
      },
      onError: (message) => {
        if (worker === this.worker) onError(message);
      },
      start: this.events.worker,
      again,
    });
    this.worker = worker;
    this.textOf = undefined;
    const { fetch } = this.events;
    if (fetch !== undefined) this.fetcher = new PageFetcher(fetch, (message) => worker.post(message));
    this.watchdog = new Watchdog({
      ping: () => this.send({ type: "ping" }),
      busy: () => this.pending.size > 0,
      shared: worker.shared === true,
      onHang: (work, seconds) => {
        if (!this.startApart()) this.failed(hung(work, seconds), work !== undefined);
      },
    });
  }

  /** A shared worker that hangs before the model is loaded hangs for every page that comes: this one takes a worker of its own. */
  private startApart(): boolean {
    if (this.closed !== undefined || this.loaded !== undefined || this.worker.shared !== true) return false;
    this.terminate();
    this.start(true);
    for (const { call } of this.pending.values()) this.send(call);
    return true;
  }

  /** The worker is gone, or of no use. @param culprit the call whose text was being worked on is to blame, not the worker */
  private failed(error: WispError, culprit: boolean): void {
    this.terminate();
    if (this.closed !== undefined) return;
    const args = this.loaded;
    const now = performance.now();
    const again = !culprit && now - this.diedAt < TWICE_WITHIN_MS;
    if (!culprit) this.diedAt = now;
    if (args === undefined || this.restarting || again) {
      this.close(error);
      if (args !== undefined) this.events.onDeviceLost?.(error);
      return;
    }
    this.rejectBegun(error, culprit ? this.textOf : undefined);
    if (this.stopped !== undefined && this.pending.has(this.stopped)) this.endFirst();
    this.spent = { ...this.stats, recoveries: (this.stats?.recoveries ?? 0) + 1 };
    if (this.latestStats !== undefined) this.latestStats = zeros(this.latestStats);
    this.start(true);
    this.events.onRecovering?.(error);
    this.reload(args).catch((failure: unknown) => {
      if (this.closed !== undefined) return;
      const lost = failure instanceof WispError ? failure : error;
      this.terminate();
      this.close(lost);
      this.events.onDeviceLost?.(lost);
    });
  }

  /** What cannot be asked again fails; a new worker has nothing to forget. */
  private rejectBegun(error: WispError, culprit: number | undefined): void {
    for (const [id, { call, begun, resolve, reject }] of this.pending) {
      if (call.name === "reset") resolve(null as never);
      else if (begun || id === culprit) reject(error);
      else continue;
      this.pending.delete(id);
    }
  }

  /** Loads the model into the new worker, then asks what waits. */
  private async reload(args: Calls["load"]["args"]): Promise<void> {
    const loading = this.request("load", args);
    this.restarting = true;
    this.latestInfo = await loading;
    this.restarting = false;
    for (const { call } of this.pending.values()) this.send(call);
    this.events.onBackendChange?.(this.latestInfo);
  }

  /** Asks the call's processor, which is the page's, and sends what it made of the logits. */
  private async process({ id, logits, ids }: Extract<FromWorker, { type: "logits" }>): Promise<void> {
    const pending = this.pending.get(id);
    if (pending === undefined) return; // It was given up.
    pending.begun = true; // Its processor may have a state.
    try {
      const changed = (await pending.onLogits?.(logits, ids)) ?? logits;
      this.send({ type: "logits", id, logits: new Float32Array(changed), error: undefined });
    } catch (error) {
      this.send({ type: "logits", id, logits: undefined, error: serializeError(error) });
    }
  }

  /** With what is to be said of the worker. */
  private noticed(info: EngineInfo): EngineInfo {
    const { notice } = this.worker;
    return notice === undefined ? info : { ...info, notices: [...info.notices, notice] };
  }

  private send(message: ToWorker): void {
    this.worker.post(message);
  }

  /** The device went away: another one is being made ready, has taken its place, or there is none. */
  private moved(message: Extract<FromWorker, { type: "recovering" | "moved" | "lost" }>): void {
    if (message.type === "moved") {
      this.latestInfo = this.noticed(message.info);
      this.events.onBackendChange?.(this.latestInfo);
      return;
    }
    const error = deserializeError(message.error);
    if (message.type === "lost") this.close(error);
    const { onRecovering, onDeviceLost } = this.events;
    if (error instanceof WispError) (message.type === "lost" ? onDeviceLost : onRecovering)?.(error);
  }

  private receive(message: FromWorker): void {
    this.watchdog.heard();
    switch (message.type) {
      case "started":
        this.watch = watchLock(message.lock, () => this.failed(ended(), false));
        return;
      case "pong":
        return;
      case "text":
        this.textOf = message.work === undefined ? undefined : message.id;
        this.watchdog.announce(message.work);
        return;
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
      case "recovering":
      case "moved":
      case "lost":
        if (this.closed === undefined) this.moved(message); // An engine that was lost, or disposed of, tells nothing more.
        return;
      case "delta": {
        this.latestStats = message.stats;
        const pending = this.pending.get(message.id);
        if (pending === undefined) return;
        pending.begun = true;
        pending.onDelta?.(message.delta);
        return;
      }
      case "logits":
        void this.process(message);
        return;
      case "result": {
        this.latestStats = message.stats;
        const pending = this.pending.get(message.id);
        if (pending?.call.name === "load") {
          this.loaded = pending.call.args;
          pending.resolve(this.noticed(message.value as EngineInfo) as never);
        } else pending?.resolve(message.value as never);
        this.pending.delete(message.id);
        return;
      }
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

function ended(): WispError {
  return new WispError("worker", { what: "The engine's worker ended", remedy: CREATE_AGAIN });
}

function hung(work: TextWork | undefined, seconds: number): WispError {
  if (work === undefined)
    return new WispError("worker", { what: `The engine's worker has not answered for ${seconds} s`, remedy: CREATE_AGAIN });
  return new WispError("worker", {
    what: `${CULPRITS[work]} ran for ${seconds} s without an end and was stopped`,
    remedy: "It may not be made for such a message: send another one, or use another model.",
  });
}

function zeros(stats: EngineStats): EngineStats {
  return Object.fromEntries(Object.keys(stats).map((name) => [name, 0])) as unknown as EngineStats;
}

/** Some browsers ask the user, some look at how the site is used; the answer shows in `engine.info.notices`. */
function askPersistence(): void {
  const { storage } = globalThis.navigator as { storage?: Partial<StorageManager> };
  storage?.persist?.().catch(() => undefined);
}
