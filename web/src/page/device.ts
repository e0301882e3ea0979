// What this browser and this device offer to run models on, seen from the page before anything is loaded. The one module of the
// page's that looks at the backends; it starts nothing on them.

import { cpuObstacle } from "../backend/negotiate";
import { wasmSupport } from "../backend/wasm/module";

export { wasmSupport } from "../backend/wasm/module";
export { nameOf, probe, type Probe, UNNAMED } from "../backend/webgpu/adapter";

/** Why models cannot run on the CPU here; undefined when they can. */
export function cpuMissing(): string | undefined {
  return cpuObstacle(wasmSupport());
}
