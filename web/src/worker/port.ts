// A worker's scope, or one end of a channel to a worker that has several, as serve() takes it.

import type { FromWorker, ToWorker } from "../protocol/messages";
import type { WorkerPort } from "./serve";

/** What is used of a scope or a port: TypeScript's DOM and worker libraries exclude each other. */
export interface Port {
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
}

export function portOf(port: Port): WorkerPort {
  return {
    post: (message, transfer) => port.postMessage(message, transfer),
    listen: (receive) => {
      port.onmessage = ({ data }) => receive(data);
    },
  };
}
