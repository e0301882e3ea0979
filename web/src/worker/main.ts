// The engine's worker in a browser; built as worker.js, which page/host.ts starts.

import type { FromWorker, ToWorker } from "../protocol/messages";
import { serve } from "./serve";

/** The part of DedicatedWorkerGlobalScope that is used: TypeScript's DOM and worker libraries exclude each other. */
interface WorkerScope {
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
}
const scope = globalThis as unknown as WorkerScope;

serve({
  post: (message, transfer) => scope.postMessage(message, transfer),
  listen: (receive) => {
    scope.onmessage = ({ data }) => receive(data);
  },
});
