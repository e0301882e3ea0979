// The engine's worker in a browser, a page's own or a shared one; built as worker.js, which page/host.ts starts.

import type { FromWorker, ToWorker } from "../protocol/messages";
import { Models } from "./clients";
import { serve, type WorkerPort } from "./serve";

/** What is used of a worker's scope, or of a port to a shared one's: TypeScript's DOM and worker libraries exclude each other. */
interface Port {
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
}
interface SharedScope {
  onconnect: (event: { ports: readonly [Port] }) => void;
}

function portOf(port: Port): WorkerPort {
  return {
    post: (message, transfer) => port.postMessage(message, transfer),
    listen: (receive) => {
      port.onmessage = ({ data }) => receive(data);
    },
  };
}

if ("onconnect" in globalThis) {
  const models = new Models();
  (globalThis as unknown as SharedScope).onconnect = ({ ports: [port] }) => serve(portOf(port), models);
} else serve(portOf(globalThis as unknown as Port));
