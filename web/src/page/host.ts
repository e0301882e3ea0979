// Where the engine lives: how its worker is started and what an artifact's address is relative to. This is the page's;
// ../node/host.ts takes its place in the build for Node.

import { BROWSERS, tooOld } from "../api/browsers";
import { DeviceError } from "../api/errors";
import { foreignWorker, isForeign } from "../api/foreign";
import type { EngineOptions } from "../api/types";
import type { FromWorker, ToWorker } from "../protocol/messages";

export interface EngineWorker {
  post(message: ToWorker): void;
  terminate(): void;
  /** What is otherwise than was asked for, in plain words. */
  readonly notice?: string;
  /** Other pages may have it, and may have made it hang. */
  readonly shared?: boolean;
}

export interface WorkerEvents {
  onMessage: (message: FromWorker) => void;
  /** It could not be started (then without a word, in browsers) or failed. */
  onError: (message: string) => void;
  /** Starts it in place of this module. */
  start?: EngineOptions["worker"];
  /** One before it has failed. */
  again?: boolean;
}

/** Before anything is fetched or started. @throws DeviceError("old-browser") */
export function checkPlatform(): void {
  const what = tooOld();
  if (what !== undefined)
    throw new DeviceError("old-browser", {
      what,
      got: navigator.userAgent,
      expected: BROWSERS,
      remedy: "Update the browser or use another.",
    });
}

/**
 * The worker is a file beside this one, never inlined (a strict CSP forbids blob: workers). What is built holds the expression
 * as bundlers of other people's pages know it.
 */
function newWorker(): Worker {
  if (isForeign(import.meta.url)) return foreignWorker(import.meta.url, "worker.js", "wisp");
  return new Worker(new URL(/* @vite-ignore */ "./worker.js", import.meta.url), { type: "module", name: "wisp" });
}

export function startWorker({ start = newWorker, again = false, ...events }: WorkerEvents): EngineWorker {
  if (isServiceWorker(start)) return connectServiceWorker(start, events);
  if (start !== "shared") return connect(typeof start === "function" ? start() : start, events);
  const obstacle = again ? "the shared one failed" : sharedObstacle();
  if (obstacle === undefined) return { ...connect(newSharedWorker(), events), shared: true };
  return { ...connect(newWorker(), events), notice: `This tab has a worker and a model of its own: ${obstacle}.` };
}

const isServiceWorker = (start: WorkerEvents["start"]): start is ServiceWorker =>
  "ServiceWorker" in globalThis && start instanceof ServiceWorker;

/** Often enough that the browser does not end it meanwhile. */
const SIGN_MS = 20_000;

/** By a port of its own: a service worker is everybody's of the site. */
function connectServiceWorker(worker: ServiceWorker, { onMessage, onError }: WorkerEvents): EngineWorker {
  const { port1: port, port2 } = new MessageChannel();
  port.onmessage = ({ data }: MessageEvent<FromWorker>) => onMessage(data);
  port.onmessageerror = () => onError("a message of it could not be read");
  const sign = (transfer: Transferable[] = []) => worker.postMessage({ wisp: "engine" }, transfer);
  sign([port2]);
  const signs = setInterval(() => sign(), SIGN_MS);
  const post = (message: ToWorker) => port.postMessage(message);
  const release = holdLock((lock) => post({ type: "client", lock }));
  const terminate = () => {
    clearInterval(signs);
    post({ type: "bye" });
    port.close();
    release();
  };
  return { post, terminate, shared: true };
}

/** Why tabs cannot share a worker. */
function sharedObstacle(): string | undefined {
  if (!("SharedWorker" in globalThis)) return "this browser has no shared workers";
  return isForeign(import.meta.url) ? "the engine's files lie at another origin, where tabs cannot start one together" : undefined;
}

function newSharedWorker(): SharedWorker {
  return new SharedWorker(new URL(/* @vite-ignore */ "./worker.js", import.meta.url), { type: "module", name: "wisp" });
}

/** Whose ports are closed. */
const left = new WeakSet<SharedWorker>();

function connect(worker: Worker | SharedWorker, { onMessage, onError }: Pick<WorkerEvents, "onMessage" | "onError">): EngineWorker {
  const port = "port" in worker ? worker.port : worker;
  port.onmessage = ({ data }: MessageEvent<FromWorker>) => onMessage(data);
  port.onmessageerror = () => onError("a message of it could not be read");
  worker.onerror = ({ message }: Partial<ErrorEvent>) => onError(message ?? "");
  const post = (message: ToWorker) => port.postMessage(message);
  if (!("port" in worker)) return { post, terminate: () => worker.terminate() };
  if (left.has(worker)) queueMicrotask(() => onError("one SharedWorker serves one engine: give createEngine() a function that makes it"));
  const release = holdLock((lock) => post({ type: "client", lock }));
  const terminate = () => {
    left.add(worker);
    post({ type: "bye" });
    worker.port.close();
    release();
  };
  return { post, terminate };
}

/** A lock that others get when this page has ended, however it ended. @returns what lets go of it */
function holdLock(onHeld: (lock: string) => void): () => void {
  const lock = `wisp-page-${crypto.randomUUID()}`;
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  void (navigator as { locks?: LockManager }).locks?.request(lock, () => {
    onHeld(lock);
    return released;
  });
  return release;
}

/** Calls `onGone` when the worker that holds the lock has ended: browsers send no event when they end one. */
export function watchLock(lock: string, onGone: () => void): { stop: () => void } {
  const controller = new AbortController();
  // Where a page has none, a worker that died is found out by its silence.
  const locks = (navigator as { locks?: LockManager }).locks;
  locks?.request(lock, { signal: controller.signal }, onGone).catch(() => undefined);
  return { stop: () => controller.abort() };
}

/** The page's, or in a worker its script's, where that has one. */
function baseAddress(): string {
  const { document, location } = globalThis as { document?: Document; location: Location };
  return document?.baseURI ?? location.href.replace(/^blob:/, "");
}

/** Absolute, with the query, which may be a signature, and without the fragment. */
export function addressOf(artifact: string | URL): string {
  const { origin, pathname, search } = new URL(artifact, baseAddress());
  return origin + pathname + search;
}
