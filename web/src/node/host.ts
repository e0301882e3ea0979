// page/host.ts for Node: the engine's worker is a worker thread, and an artifact may also be a directory. Built into
// wisp-node.mjs in place of the page's.

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { RequestError } from "../api/errors";
import type { EngineWorker, WorkerEvents } from "../page/host";

/** package.json says which versions of Node there may be. */
export function checkPlatform(): void {
  return;
}

export function startWorker({ onMessage, onError, start }: WorkerEvents): EngineWorker {
  if (start !== undefined)
    throw new RequestError({ what: "worker", got: typeof start, expected: "nothing: in Node the engine starts its own" });
  // Not the options of this process: with --input-type, for one, a thread does not start.
  const thread = new Worker(new URL(/* @vite-ignore */ "./wisp-node-worker.mjs", import.meta.url), { execArgv: [] });
  thread.on("message", onMessage);
  thread.on("error", ({ message }) => onError(message));
  thread.on("messageerror", ({ message }) => onError(message));
  thread.on("exit", (code) => onError(`its thread ended with code ${code}`));
  return { post: (message) => thread.postMessage(message), terminate: () => void thread.terminate() };
}

/** Nothing to do: threads say when they end. */
export function watchLock(): { stop: () => void } {
  return { stop: () => undefined };
}

/** A URL, whose query may be a signature, or the path of a directory. */
export function addressOf(artifact: string | URL): string {
  const isPath = typeof artifact === "string" && !/^[a-z]+:\/\//i.test(artifact);
  const url = isPath ? pathToFileURL(resolve(artifact)) : new URL(artifact);
  url.hash = "";
  return url.href;
}
