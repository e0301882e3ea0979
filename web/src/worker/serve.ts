// The worker's end of the protocol: one model a port, which ports may have in common (clients.ts). Knows messages and their order;
// what a model answers is model.ts's, how it comes to be load/'s. Calls that use a model's KV cache run one after another, those of
// a port in the order of arrival, never interleaved.

import { abortError, deserializeError, serializeError } from "../api/errors";
import type { Call, CallName, Calls, ChatCall, FromWorker, ToWorker } from "../protocol/messages";
import { announced, onTextWork } from "../text/work";
import { type Client, Models, type SharedModel } from "./clients";
import { load, type LoadedModel, type LoadEvents } from "./load/load";
import { type Asker, chat, complete, generate } from "./answer";
import { embed } from "./embed";
import { artifactFile } from "./inspect";
import { describe, statsOf } from "./model";
import { chatPrompt, completionPrompt, render, tokenizerOf } from "./prompt";
import { PageFetch } from "./page-fetch";

type Result = Calls[CallName]["result"];

/** The way to the page and back. */
export interface WorkerPort {
  post: (message: FromWorker, transfer?: Transferable[]) => void;
  /** Called once. */
  listen: (receive: (message: ToWorker) => void) => void;
}

const servers = new Set<Server>();
onTextWork((work) => {
  // All hear of it: while it lasts, none of them is answered.
  for (const server of servers) server.post({ type: "text", work, id: server.textOf });
});

/**
 * Answers what comes through `port`, until the worker ends or whoever is behind the port does.
 *
 * @param models what ports have in common
 */
export function serve(port: WorkerPort, models = new Models()): void {
  const server = new Server(port, models);
  servers.add(server);
  port.listen((message) => server.receive(message));
}

class Server implements Client {
  /** The call whose text is being worked on. */
  textOf: number | undefined;
  readonly post: WorkerPort["post"];
  private shared: SharedModel | undefined;
  /** The load, when there was one. */
  private joined: Promise<unknown> = Promise.resolve();
  /** Of every call that is running or waits; an abort reaches both. */
  private readonly aborts = new Map<number, AbortController>();
  /** Of calls whose logits the page has. */
  private readonly processing = new Map<number, { resolve: (logits: Float32Array) => void; reject: (error: Error) => void }>();
  private readonly pageFetch: PageFetch;

  /** Lets go of the lock that says that the worker lives. */
  private release: () => void = () => undefined;

  constructor(
    port: WorkerPort,
    private readonly models: Models,
  ) {
    this.post = port.post;
    this.pageFetch = new PageFetch((message) => this.post(message));
    this.holdLock();
  }

  private get model(): LoadedModel | undefined {
    return this.shared?.model;
  }

  /** Held until the worker ends, however it ends. */
  private holdLock(): void {
    const lock = `wisp-worker-${crypto.randomUUID()}`;
    void lockManager()?.request(lock, () => {
      this.post({ type: "started", lock });
      return new Promise<void>((resolve) => (this.release = resolve));
    });
  }

  receive(message: ToWorker): void {
    switch (message.type) {
      case "call":
        void this.answer(message);
        return;
      case "abort":
        this.aborts.get(message.id)?.abort();
        this.processing.get(message.id)?.reject(abortError()); // The page's function may never answer.
        return;
      case "interrupt": {
        const running = this.shared?.queue.running;
        if (running?.client === this) this.aborts.get(running.id)?.abort();
        return;
      }
      case "client":
        // To be had when the page has ended, however it ended.
        void lockManager()?.request(message.lock, () => this.close());
        return;
      case "bye":
        this.close();
        return;
      case "response":
      case "piece":
      case "done":
        this.pageFetch.receive(message);
        return;
      case "logits": {
        const { id, logits, error } = message;
        const waiting = this.processing.get(id);
        this.processing.delete(id);
        if (logits === undefined) waiting?.reject(error === undefined ? new Error("no logits") : deserializeError(error));
        else waiting?.resolve(logits);
        return;
      }
      case "ping":
        this.post({ type: "pong" });
        return;
      default:
        message satisfies never;
    }
  }

  private async answer(call: Call): Promise<void> {
    const { id } = call;
    const controller = new AbortController();
    this.aborts.set(id, controller);
    try {
      const value = await (isExclusive(call.name) ? this.enqueue(call, controller.signal) : this.perform(call, controller.signal));
      this.post(
        { type: "result", id, value, stats: statsOf(this.model) },
        value instanceof Float32Array || value instanceof Uint8Array ? [value.buffer as ArrayBuffer] : [],
      );
    } catch (error) {
      this.post({ type: "error", id, error: serializeError(error), stats: statsOf(this.model) });
    } finally {
      this.aborts.delete(id);
      this.processing.delete(id);
    }
  }

  private async enqueue(call: Call, signal: AbortSignal): Promise<Result> {
    await this.joined.catch(() => undefined);
    return this.shared === undefined ? this.perform(call, signal) : this.shared.queue.run(this, call.id, () => this.perform(call, signal));
  }

  private async perform(call: Call, signal: AbortSignal): Promise<Result> {
    const { id } = call;
    switch (call.name) {
      case "load":
        return describe(await (this.joined = this.load(call.args, signal)));
      case "logits":
        return this.loaded().session.logits(call.args.ids);
      case "embed":
        return embed(this.loaded(), call.args, signal, (make) => this.textWork(id, make));
      case "generate":
        return generate(this.loaded(), call.args, signal);
      case "chat": {
        const model = this.loaded();
        const promptOf = (messages: ChatCall["messages"]) => this.textWork(id, () => chatPrompt(model, { ...call.args, messages }));
        return chat(model, promptOf(call.args.messages), call.args, this.asker(id, signal), promptOf);
      }
      case "complete": {
        const model = this.loaded();
        const ids = this.textWork(id, () => completionPrompt(model, call.args));
        return complete(model, ids, call.args, this.asker(id, signal));
      }
      case "tokenize":
        return this.textWork(id, () => tokenizerOf(this.loaded()).encode(call.args.text, call.args.addSpecialTokens));
      case "detokenize": {
        const { ids, skipSpecialTokens } = call.args;
        return this.textWork(id, () => announced("tokenizer", () => tokenizerOf(this.loaded()).decode(ids, skipSpecialTokens)));
      }
      case "template":
        return this.textWork(id, () => render(this.loaded(), call.args));
      case "file":
        return artifactFile(this.loaded(), call.args.path, signal);
      case "reset":
        this.loaded().session.reset();
        return null;
      case "dispose":
        this.leave();
        return null;
    }
  }

  /** Nobody is behind the port any more. */
  private close(): void {
    this.leave();
    servers.delete(this);
    this.release();
  }

  /** What is asked is ended, what was loaded is left. */
  private leave(): void {
    for (const controller of this.aborts.values()) controller.abort();
    for (const { reject } of this.processing.values()) reject(abortError());
    this.processing.clear();
    if (this.shared !== undefined) this.models.leave(this, this.shared);
    this.shared = undefined;
  }

  private asker(id: number, signal: AbortSignal): Asker {
    return {
      signal,
      textWork: (make) => this.textWork(id, make),
      onDelta: (delta) => this.post({ type: "delta", id, delta, stats: statsOf(this.model) }),
      process: (logits, ids) =>
        new Promise((resolve, reject) => {
          this.processing.set(id, { resolve, reject });
          this.post({ type: "logits", id, logits, ids }, [logits.buffer]);
        }),
    };
  }

  /** An abort ends the wait, and the load itself unless others wait for it. */
  private async load(args: Calls["load"]["args"], signal: AbortSignal): Promise<LoadedModel> {
    const shared = this.models.join(this, keyOf(args), (model) => this.start(args, model));
    this.shared = shared;
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(abortError(signal)), { once: true });
    });
    try {
      return await Promise.race([shared.loading ?? aborted, aborted]);
    } catch (error) {
      this.models.leave(this, shared);
      this.shared = undefined;
      throw error;
    }
  }

  private start({ url, options }: Calls["load"]["args"], shared: SharedModel): Promise<LoadedModel> {
    const events: LoadEvents = {
      onKeeping: () => shared.post({ type: "keeping" }),
      onRecovering: (error) => shared.post({ type: "recovering", error: serializeError(error) }),
      onMoved: () => {
        if (shared.model !== undefined) shared.post({ type: "moved", info: describe(shared.model) });
      },
      onLost: (error) => {
        this.models.forget(shared); // Who creates the engine again gets another one.
        shared.post({ type: "lost", error: serializeError(error) });
      },
    };
    const fetch = options.fetchesOnPage ? (address: string, init: RequestInit) => this.pageFetch.fetch(address, init) : undefined;
    return load(url, options, shared.ends.signal, (progress) => shared.post({ type: "progress", progress }), events, fetch);
  }

  private loaded(): LoadedModel {
    if (this.model === undefined) throw new Error("no model is loaded");
    return this.model;
  }

  /** `make` works on the text of the call `id`. */
  private textWork<T>(id: number, make: () => T): T {
    this.textOf = id;
    try {
      return make();
    } finally {
      this.textOf = undefined;
    }
  }
}

/** What makes two loads one; a page's own fetch function makes it the page's own. */
function keyOf({ url, options }: Calls["load"]["args"]): string | undefined {
  const { backend, kv, contextLength, threads, cache, autotune, headers, fetchesOnPage } = options;
  const sent = Object.entries(headers).sort(([a], [b]) => (a < b ? -1 : 1));
  return fetchesOnPage ? undefined : JSON.stringify([url, backend, kv, contextLength, threads, cache, autotune, sent]);
}

function lockManager(): LockManager | undefined {
  return ((globalThis as { navigator?: object }).navigator as { locks?: LockManager } | undefined)?.locks;
}

function isExclusive(name: CallName): boolean {
  switch (name) {
    case "logits":
    case "embed":
    case "generate":
    case "chat":
    case "complete":
    case "reset":
      return true;
    case "load":
    case "tokenize":
    case "detokenize":
    case "template":
    case "file":
    case "dispose":
      return false;
  }
}
