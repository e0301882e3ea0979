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
    kvDtype: "float16",
    requiredFeatures,
    requiredLimits,
    plan: "",
    kernels: "",
    kernelsRelaxed: undefined,
    kvBytesPerToken: 16,
    activationBytes: 0,
    dispatchesPerToken: 0,
    prefillDispatches: {},
  };
}

/** What is the same with keys and values in 8 bits. */
export function inEightBits(other: Variant): Variant {
  return { ...other, name: `${other.name}-q8`, kvDtype: "q8", kvBytesPerToken: other.kvBytesPerToken / 2 };
}
