// In place of page/host.ts: the engine's worker runs in the test's own thread, and messages are copied as between threads.
import type { WorkerEvents } from "../../src/page/host";
import type { FromWorker, ToWorker } from "../../src/protocol/messages";
import { serve } from "../../src/worker/serve";

export const checkPlatform = () => undefined;
export const addressOf = String;
export const watchLock = () => ({ stop: () => undefined });

export function startWorker({ onMessage }: WorkerEvents) {
  let receive: ((message: ToWorker) => void) | undefined;
  const later = (run: () => void) => void Promise.resolve().then(run);
  serve({
    post: (message: FromWorker) => later(() => onMessage(structuredClone(message))),
    listen: (listener) => (receive = listener),
  });
  return { post: (message: ToWorker) => later(() => receive?.(structuredClone(message))), terminate: () => undefined };
}
