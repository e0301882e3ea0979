// Variants as a manifest holds them, for tests of what is chosen among them.
import type { BackendName, Variant } from "../../src/artifact/schema";

export function variant(
  name: string,
  requiredFeatures: string[] = [],
  requiredLimits: Record<string, number> = {},
  backend: BackendName = "webgpu",
): Variant {
  return {
    name,
    backend,
    activationDtype: "float32",
    requiredFeatures,
    requiredLimits,
    plan: "",
    kernels: "",
    kernelsRelaxed: undefined,
    kvBytesPerToken: 0,
    activationBytes: 0,
    dispatchesPerToken: 0,
    prefillDispatches: {},
  };
}
