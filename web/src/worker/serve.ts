// The worker's end of the protocol: one model, one queue. Knows messages and their order; what a model answers is model.ts's, how
// it comes to be load/'s. Calls that use the KV cache run one after another in the order of arrival, never interleaved.

import { deserializeError, serializeError } from "../api/errors";
import type { Call, CallName, Calls, ChatCall, FromWorker, ToWorker } from "../protocol/messages";
import { announced, onTextWork } from "../text/work";
import { load, type LoadedModel, type LoadEvents } from "./load/load";
import { type Asker, chat, complete, generate } from "./answer";
import { embed } from "./embed";
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

/** Answers what comes through `port`, for as long as the worker lives. Once in a worker: it hears all work on text there. */
export function serve(port: WorkerPort): void {
  const server = new Server(port);
  onTextWork((work) => port.post({ type: "text", work, id: server.textOf }));
  holdLock(port);
  port.listen((message) => server.receive(message));
}

/** Held until the worker ends, however it ends. */
function holdLock({ post }: WorkerPort): void {
  const { locks } = (globalThis.navigator as { locks?: LockManager } | undefined) ?? {};
  if (locks === undefined) return;
  const lock = `wisp-worker-${crypto.randomUUID()}`;
  void locks.request(lock, () => {
    post({ type: "started", lock });
    return new Promise(() => undefined);
  });
}

class Server {
  /** The call whose text is being worked on. */
  textOf: number | undefined;
  private model: LoadedModel | undefined;
  /** The end of the queue. */
  private queue: Promise<unknown> = Promise.resolve();
  /** Of every call that is running or waits; an abort reaches both. */
  private readonly aborts = new Map<number, AbortController>();
  private running: number | undefined;
  /** Of calls whose logits the page has. */
  private readonly processing = new Map<number, { resolve: (logits: Float32Array) => void; reject: (error: Error) => void }>();
  private readonly pageFetch: PageFetch;

  constructor(private readonly port: WorkerPort) {
    this.pageFetch = new PageFetch((message) => port.post(message));
  }

  receive(message: ToWorker): void {
    switch (message.type) {
      case "call":
        void this.answer(message);
        return;
      case "abort":
        this.aborts.get(message.id)?.abort();
        return;
      case "interrupt":
        if (this.running !== undefined) this.aborts.get(this.running)?.abort();
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
        this.port.post({ type: "pong" });
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
      this.port.post({ type: "result", id, value, stats: statsOf(this.model) }, value instanceof Float32Array ? [value.buffer] : []);
    } catch (error) {
      this.port.post({ type: "error", id, error: serializeError(error), stats: statsOf(this.model) });
    } finally {
      this.aborts.delete(id);
      this.processing.delete(id);
    }
  }

  private enqueue(call: Call, signal: AbortSignal): Promise<Result> {
    const result = this.queue.then(async () => {
      this.running = call.id;
      try {
        return await this.perform(call, signal);
      } finally {
        this.running = undefined;
      }
    });
    this.queue = result.catch(() => undefined);
    return result;
  }

  private async perform(call: Call, signal: AbortSignal): Promise<Result> {
    const { id } = call;
    switch (call.name) {
      case "load":
        this.model = await this.load(call.args, signal);
        return describe(this.model);
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
      case "reset":
        this.loaded().session.reset();
        return null;
      case "dispose":
        for (const controller of this.aborts.values()) controller.abort();
        this.model?.supervisor.dispose();
        return null;
    }
  }

  private asker(id: number, signal: AbortSignal): Asker {
    return {
      signal,
      onDelta: (delta) => this.port.post({ type: "delta", id, delta, stats: statsOf(this.model) }),
      process: (logits, ids) =>
        new Promise((resolve, reject) => {
          this.processing.set(id, { resolve, reject });
          this.port.post({ type: "logits", id, logits, ids }, [logits.buffer]);
        }),
    };
  }

  private load({ url, options }: Calls["load"]["args"], signal: AbortSignal): Promise<LoadedModel> {
    const { port } = this;
    const events: LoadEvents = {
      onKeeping: () => port.post({ type: "keeping" }),
      onRecovering: (error) => port.post({ type: "recovering", error: serializeError(error) }),
      onMoved: () => {
        if (this.model !== undefined) port.post({ type: "moved", info: describe(this.model) });
      },
      onLost: (error) => port.post({ type: "lost", error: serializeError(error) }),
    };
    const fetch = options.fetchesOnPage ? (address: string, init: RequestInit) => this.pageFetch.fetch(address, init) : undefined;
    return load(url, options, signal, (progress) => port.post({ type: "progress", progress }), events, fetch);
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

function isExclusive(name: CallName): boolean {
  switch (name) {
    case "load":
    case "logits":
    case "embed":
    case "generate":
    case "chat":
    case "complete":
    case "reset":
      return true;
    case "tokenize":
    case "detokenize":
    case "template":
    case "dispose":
      return false;
  }
}
