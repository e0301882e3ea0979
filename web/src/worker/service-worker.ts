// The engine in an app's own service worker, an extension's too: `import "wisp/service-worker"` in its script. Pages come with a port
// each (page/host.ts), and have the model in common that they load alike. Built as service-worker.js, whole: service workers
// import nothing once they run.

import { Models } from "./clients";
import { type Port, portOf } from "./port";
import { serve } from "./serve";

/** What pages send to a service worker, whoever else writes to it: at first with a port, then as long as they have an engine. */
export interface Sign {
  wisp: "engine";
}

interface Scope {
  addEventListener(
    type: "message",
    listener: (event: { data: unknown; ports: readonly Port[]; waitUntil: (work: Promise<void>) => void }) => void,
  ): void;
}

/** Browsers end a service worker that has had no event for half a minute, and an event may last for minutes; pages give signs. */
const STAY_MS = 120_000;

const models = new Models();
(globalThis as unknown as Scope).addEventListener("message", (event) => {
  const [port] = event.ports;
  if ((event.data as Partial<Sign> | null)?.wisp !== "engine") return;
  event.waitUntil(new Promise((resolve) => setTimeout(resolve, STAY_MS)));
  if (port !== undefined) serve(portOf(port), models);
});
