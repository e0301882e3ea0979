// The helper threads of the CPU backend: started, spoken to, ended. Workers in a browser, worker_threads in Node. Knows
// messages, not what they make a thread do (thread.ts), and nothing of the orders in shared memory.

import { foreignWorker, isForeign } from "../../api/foreign";
import { checkNumber } from "../../api/options";
import type { FromThread, ToThread } from "./thread";

export interface ThreadEvents {
  onMessage: (message: FromThread) => void;
  /** It failed, or ended by itself. */
  onEnd: (reason: string) => void;
}

export interface ThreadPort {
  post(message: ToThread): void;
  terminate(): void;
}

export type SpawnThread = (events: ThreadEvents) => Promise<ThreadPort>;

/** How long helpers may take to start: they are one small file, but perhaps over a slow network. */
const START_MS = 10_000;
/** More is of no use: memory is shared by all, and it is what limits decoding. */
const MOST_BY_DEFAULT = 8;
/** Each has a stack in the memory that all share. */
export const MOST_THREADS = 64;

/** EngineOptions.threads. @throws RequestError */
export function checkThreads(threads: number | undefined): number | undefined {
  return threads === undefined ? undefined : checkNumber("threads", threads, { least: 1, most: MOST_THREADS, integer: true });
}

const inNode = (): boolean => {
  const scope = globalThis as { Worker?: unknown; process?: { versions?: { node?: string } } };
  return scope.Worker === undefined && scope.process?.versions?.node !== undefined;
};

/** Whether this place (a worker, in browsers) can start workers. */
export const canSpawn = (): boolean => inNode() || typeof Worker !== "undefined";

/**
 * Physical cores, at most eight. Only logical processors can be counted: two kernels that share a core share its SIMD
 * units and gain nothing, so half of them are taken. Of few more are: two are two cores more often than not, and of
 * four (two cores or four) three cost little if wrong and leave one to the page.
 * @param rounded the browser says 4 of anything from one to seven: two are there, nearly always, and more may not be
 */
export function threadsFor(logical: number, rounded = false): number {
  if (rounded && logical <= 4) return Math.min(2, logical);
  if (logical <= 2) return Math.max(1, logical);
  if (logical <= 4) return logical - 1;
  return Math.min(MOST_BY_DEFAULT, Math.ceil(logical / 2));
}

/** WebKit rounds the number of processors to 4 or 8, so that it tells less of the device. Chromium's name holds WebKit's. */
export const isWebKit = (userAgent: string): boolean => userAgent.includes("AppleWebKit/") && !/Chrom(e|ium)\//.test(userAgent);

export async function defaultThreads(): Promise<number> {
  if (!inNode()) return threadsFor(navigator.hardwareConcurrency, isWebKit(navigator.userAgent));
  const name = "node:os"; // By a name that bundlers do not follow.
  const { availableParallelism } = (await import(/* @vite-ignore */ name)) as typeof import("node:os");
  return threadsFor(availableParallelism());
}

/** As page/host.ts starts the worker. */
function newThread(): Worker {
  if (isForeign(import.meta.url)) return foreignWorker(import.meta.url, "thread.js", "wisp-thread");
  return new Worker(new URL(/* @vite-ignore */ "./thread.js", import.meta.url), { type: "module", name: "wisp-thread" });
}

function spawnInBrowser({ onMessage, onEnd }: ThreadEvents): ThreadPort {
  const worker = newThread();
  worker.onmessage = ({ data }: MessageEvent<FromThread>) => onMessage(data);
  worker.onerror = ({ message }) => onEnd(message === "" || typeof message !== "string" ? "thread.js could not be loaded" : message);
  return { post: (message) => worker.postMessage(message), terminate: () => worker.terminate() };
}

/** @param script wisp-node-thread.mjs as built, or another build of thread.ts */
export async function spawnInNode(script: URL, { onMessage, onEnd }: ThreadEvents): Promise<ThreadPort> {
  const name = "node:worker_threads";
  const threads = (await import(/* @vite-ignore */ name)) as typeof import("node:worker_threads");
  const worker = new threads.Worker(script);
  worker.on("message", onMessage);
  worker.on("error", ({ message }) => onEnd(message));
  worker.on("exit", (code) => onEnd(`it ended with code ${code}`));
  return { post: (message) => worker.postMessage(message), terminate: () => void worker.terminate() };
}

/** By a name that bundlers do not follow. */
const NODE_THREAD = "./wisp-node-thread.mjs";

export const spawnThread: SpawnThread = (events) =>
  inNode() ? spawnInNode(new URL(/* @vite-ignore */ NODE_THREAD, import.meta.url), events) : Promise.resolve(spawnInBrowser(events));

export class ThreadPool {
  /** Called once, when a thread has failed or ended by itself. */
  onLost: ((reason: string) => void) | undefined;
  private readonly ports: ThreadPort[] = [];
  /** What end() and the threads' next messages settle. */
  private waiting: { left: number; resolve: () => void; reject: (error: Error) => void } | undefined;
  private ended = false;

  private constructor() {}

  /** @throws when not all of them are ready in time; those that are have been ended then */
  static async start(count: number, spawn: SpawnThread, milliseconds = START_MS): Promise<ThreadPool> {
    const pool = new ThreadPool();
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      const ready = pool.replies(count);
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error(`they were not ready after ${milliseconds} ms`)), milliseconds);
      });
      const started = Promise.all(Array.from({ length: count }, () => pool.add(spawn)));
      await Promise.race([Promise.all([started, ready]), late]);
      return pool;
    } catch (error) {
      pool.dispose();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The same message to each, made for its index. */
  post(make: (index: number) => ToThread): void {
    this.ports.forEach((port, index) => port.post(make(index)));
  }

  /** Posts, and waits until each has answered. @throws what one of them reports */
  async ask(make: (index: number) => ToThread): Promise<void> {
    const answered = this.replies(this.ports.length);
    this.post(make);
    await answered;
  }

  dispose(): void {
    this.ended = true;
    for (const port of this.ports) port.terminate();
    this.waiting?.reject(new Error("the threads were ended"));
  }

  private async add(spawn: SpawnThread): Promise<void> {
    const port = await spawn({ onMessage: (message) => this.receive(message), onEnd: (reason) => this.end(reason) });
    this.ports.push(port);
    if (this.ended) port.terminate(); // It came too late.
  }

  private replies(count: number): Promise<void> {
    const promise = new Promise<void>((resolve, reject) => (this.waiting = { left: count, resolve, reject }));
    promise.catch(() => undefined);
    return promise;
  }

  private receive(message: FromThread): void {
    const { waiting } = this;
    if (waiting === undefined) return;
    if (message.type === "failed") waiting.reject(new Error(message.message));
    else if (--waiting.left === 0) waiting.resolve();
  }

  private end(reason: string): void {
    if (this.ended) return;
    this.ended = true;
    this.waiting?.reject(new Error(reason));
    this.onLost?.(reason);
  }
}
