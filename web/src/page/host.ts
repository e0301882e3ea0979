// Where the engine lives: how its worker is started and what an artifact's address is relative to. This is the page's;
// ../node/host.ts takes its place in the build for Node.

import { BROWSERS, tooOld } from "../api/browsers";
import { DeviceError } from "../api/errors";
import { foreignWorker, isForeign } from "../api/foreign";
import type { FromWorker, ToWorker } from "../protocol/messages";

export interface EngineWorker {
  post(message: ToWorker): void;
  terminate(): void;
}

export interface WorkerEvents {
  onMessage: (message: FromWorker) => void;
  /** It could not be started (then without a word, in browsers) or failed. */
  onError: (message: string) => void;
  /** Starts it in place of this module. */
  start?: (() => Worker) | undefined;
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

export function startWorker({ onMessage, onError, start = newWorker }: WorkerEvents): EngineWorker {
  const worker = start();
  worker.onmessage = ({ data }: MessageEvent<FromWorker>) => onMessage(data);
  worker.onerror = ({ message }) => onError(message);
  worker.onmessageerror = () => onError("a message of it could not be read");
  return { post: (message) => worker.postMessage(message), terminate: () => worker.terminate() };
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
