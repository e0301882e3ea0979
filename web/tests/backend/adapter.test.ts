import { describe, expect, test } from "vitest";
import type { Variant } from "../../src/artifact/schema";
import { negotiate, type Probe } from "../../src/backend/adapter";
import { DeviceError } from "../../src/errors";

function variant(name: string, requiredFeatures: string[], requiredLimits: Record<string, number> = {}, backend: "webgpu" | "wasm" = "webgpu"): Variant {
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
const VARIANTS = [
  variant("webgpu-f16-sg", ["shader-f16", "subgroups"]),
  variant("webgpu-f16", ["shader-f16"]),
  variant("big", [], { maxStorageBufferBindingSize: 2 ** 30 }),
  variant("webgpu-f32", []),
  variant("wasm-simd", [], {}, "wasm"),
];
const device = (features: string[]): Probe => ({
  adapter: {} as GPUAdapter,
  info: { vendor: "v", architecture: "a", device: "d", description: "", isFallback: false },
  features: new Set(features),
  limits: { maxStorageBufferBindingSize: 2 ** 27 },
});
const none: Probe = { adapter: undefined, error: new DeviceError("no-webgpu", { what: "WebGPU is not available" }) };

describe("negotiation", () => {
  test("takes the best that fits and says what it passed over", () => {
    expect(negotiate(VARIANTS, device(["shader-f16", "subgroups"]))).toMatchObject({ variant: { name: "webgpu-f16-sg" }, skipped: [] });
    const { variant: chosen, skipped } = negotiate(VARIANTS, device(["subgroups"]));
    expect(chosen.name).toBe("webgpu-f32");
    expect(skipped.map(({ variant: name }) => name)).toEqual(["webgpu-f16-sg", "webgpu-f16", "big"]);
    expect(skipped[0]?.reason).toBe("the device lacks 16-bit floats in shaders (shader-f16)");
    expect(skipped[2]?.reason).toContain("maxStorageBufferBindingSize up to 134217728, 1073741824 are needed");
  });
  test("takes the named one or says why not", () => {
    expect(negotiate(VARIANTS, device(["shader-f16"]), "webgpu-f16").variant.name).toBe("webgpu-f16");
    expect(() => negotiate(VARIANTS, device([]), "webgpu-f16")).toThrow(/webgpu-f16 cannot run here: the device lacks .*shader-f16/);
    expect(() => negotiate(VARIANTS, device([]), "webgl")).toThrow(/no such variant: got "webgl", expected "auto" or one of webgpu-f16-sg/);
  });
  test("without WebGPU passes on why", () => {
    expect(() => negotiate(VARIANTS, none)).toThrow("WebGPU is not available");
  });
  test("that finds nothing lists every reason", () => {
    expect(() => negotiate(VARIANTS.slice(0, 2), device([]))).toThrow(/webgpu-f16-sg: the device lacks .* and .*; webgpu-f16: the device lacks/);
  });
});
