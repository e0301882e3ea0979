// The engine's worker in a thread of Node: gives it the few things of a browser's worker that it uses, then runs it. Built as
// wisp-node-worker.mjs, which host.ts starts.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parentPort, type Transferable as NodeTransferable } from "node:worker_threads";
import { serve } from "../worker/serve";

if (parentPort === null) throw new Error("wisp-node-worker.mjs is for a worker thread");
const port = parentPort;
const scope = globalThis as unknown as {
  navigator?: object;
  isSecureContext?: boolean;
  fetch: typeof fetch;
};
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

serve({
  post: (message, transfer) => port.postMessage(message, transfer as readonly NodeTransferable[] | undefined),
  listen: (receive) => port.on("message", receive),
});
