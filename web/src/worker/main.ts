// The engine's worker in a browser, a page's own or a shared one; built as worker.js, which page/host.ts starts.

import { Models } from "./clients";
import { type Port, portOf } from "./port";
import { serve } from "./serve";

interface SharedScope {
  onconnect: (event: { ports: readonly [Port] }) => void;
}

if ("onconnect" in globalThis) {
  const models = new Models();
  (globalThis as unknown as SharedScope).onconnect = ({ ports: [port] }) => serve(portOf(port), models);
} else serve(portOf(globalThis as unknown as Port));
