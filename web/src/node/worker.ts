// worker/worker.ts in a thread of Node: gives it the few things of a browser's worker that it uses, then runs it. Built as
// wisp-node-worker.mjs, which host.ts starts.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parentPort, type Transferable } from "node:worker_threads";
import type { FromWorker, ToWorker } from "../protocol/messages";
import "../worker/worker";

if (parentPort === null) throw new Error("wisp-node-worker.mjs is for a worker thread");
const port = parentPort;
const scope = globalThis as unknown as {
  postMessage: (message: FromWorker, transfer?: Transferable[]) => void;
  onmessage: (event: { data: ToWorker }) => void;
  navigator?: object;
  isSecureContext?: boolean;
  fetch: typeof fetch;
};
scope.postMessage = (message, transfer) => port.postMessage(message, transfer);
scope.isSecureContext = true;
scope.navigator ??= {}; // Node 20 has none.

/** Node's fetch() reads no files. */
const fetchRemote = scope.fetch;
scope.fetch = async (input, init) => {
  const url = input instanceof Request ? input.url : String(input);
  if (!url.startsWith("file:")) return fetchRemote(input, init);
  try {
    return new Response(await readFile(fileURLToPath(url)));
  } catch (error) {
    return new Response(null, { status: 404, statusText: error instanceof Error ? error.message : String(error) });
  }
};

port.on("message", (data: ToWorker) => scope.onmessage({ data }));
