import { afterEach, describe, expect, test, vi } from "vitest";
import type { Variant } from "../../src/artifact/schema";
import type { Probe } from "../../src/backend/adapter";
import { eligible, inspect, negotiate } from "../../src/backend/negotiate";
import type { WasmSupport } from "../../src/backend/wasm";
import { DeviceError } from "../../src/errors";
import { variant } from "../support/variants";

const GPU = [
  variant("webgpu-f16-sg", ["shader-f16", "subgroups"]),
  variant("webgpu-f16", ["shader-f16"]),
  variant("big", [], { maxStorageBufferBindingSize: 2 ** 30 }),
  variant("webgpu-f32", []),
];
const ALL = [...GPU, variant("wasm-simd", ["simd"], {}, "wasm")];
const WASM: WasmSupport = { wasm: true, simd: true, relaxedSimd: false, sharedMemory: false };
const gpu = (features: string[]): Probe => ({
  adapter: {} as GPUAdapter,
  info: { vendor: "v", architecture: "a", device: "d", description: "", isFallback: false },
  features: new Set(features),
  limits: { maxStorageBufferBindingSize: 2 ** 27 },
});
const none: Probe = { adapter: undefined, error: new DeviceError("no-webgpu", { what: "WebGPU is not available" }), reason: "this browser does not offer WebGPU" };

/** What is tried, and the reasons of what stands before it. */
function outcome(variants: readonly Variant[], probe: Probe | undefined, wasm = WASM, wanted = "auto") {
  const candidates = negotiate(variants, { gpu: probe, wasm }, wanted);
  const first = candidates.findIndex(({ obstacle }) => obstacle === undefined);
  return { chosen: candidates[first]?.variant.name, passed: candidates.slice(0, first).map(({ variant: { name }, obstacle }) => [name, obstacle]) };
}

afterEach(() => vi.unstubAllGlobals());

describe("negotiation", () => {
  test("takes the best that fits and says what it passed over", () => {
    expect(outcome(ALL, gpu(["shader-f16", "subgroups"]))).toEqual({ chosen: "webgpu-f16-sg", passed: [] });
    expect(outcome(ALL, gpu(["subgroups"]))).toEqual({
      chosen: "webgpu-f32",
      passed: [
        ["webgpu-f16-sg", "the device lacks 16-bit floats in shaders (shader-f16)"],
        ["webgpu-f16", "the device lacks 16-bit floats in shaders (shader-f16)"],
        ["big", "the device allows maxStorageBufferBindingSize up to 134217728, 1073741824 are needed"],
      ],
    });
  });
  test("takes the CPU when no variant of the GPU fits, with the reason of each", () => {
    const { chosen, passed } = outcome(ALL, none);
    expect(chosen).toBe("wasm-simd");
    expect(passed).toEqual(GPU.map(({ name }) => [name, "this browser does not offer WebGPU"]));
    expect(outcome([...GPU.slice(0, 2), ...ALL.slice(-1)], gpu([])).chosen).toBe("wasm-simd");
  });
  test("takes the named one or says why not", () => {
    expect(outcome(ALL, gpu(["shader-f16"]), WASM, "webgpu-f16")).toEqual({ chosen: "webgpu-f16", passed: [] });
    expect(outcome(ALL, undefined, WASM, "wasm-simd")).toEqual({ chosen: "wasm-simd", passed: [] });
    expect(() => outcome(ALL, gpu([]), WASM, "webgpu-f16")).toThrow(/webgpu-f16 cannot run here: the device lacks .*shader-f16/);
    expect(() => outcome(ALL, gpu([]), { ...WASM, simd: false }, "wasm-simd")).toThrow(/wasm-simd cannot run here: .* no SIMD/);
    expect(() => outcome(ALL, gpu([]), WASM, "webgl")).toThrow(/no such variant: got "webgl", expected "auto" or one of webgpu-f16-sg/);
  });
  test("without WebGPU passes on why when the artifact has nothing else", () => {
    expect(() => outcome(GPU, none)).toThrow("WebGPU is not available");
  });
  test.each([
    [{ ...WASM, simd: false }, "this browser's WebAssembly has no SIMD"],
    [{ ...WASM, wasm: false, simd: false }, "this browser has no WebAssembly, or it is switched off"],
  ])("without either says both", (wasm, words) => {
    expect(() => outcome(ALL, none, wasm)).toThrow(
      new RegExp(`No variant .*: got webgpu-f16-sg, webgpu-f16, big, webgpu-f32: this browser does not offer WebGPU; wasm-simd: ${words}, expected WebGPU, or`),
    );
  });
  test("that finds nothing lists every reason", () => {
    expect(() => outcome(GPU.slice(0, 2), gpu([]))).toThrow(/webgpu-f16-sg: the device lacks .* and .*; webgpu-f16: the device lacks/);
  });
});

describe("looking at the device", () => {
  test("asks for an adapter only when a variant would use it", async () => {
    const requestAdapter = vi.fn(() => Promise.resolve(null));
    vi.stubGlobal("navigator", { gpu: { requestAdapter } });
    expect(await inspect(eligible(ALL, "wasm-simd"))).toMatchObject({ gpu: undefined, wasm: { wasm: true } });
    expect(requestAdapter).not.toHaveBeenCalled();
    expect((await inspect(eligible(ALL, "auto"))).gpu).toMatchObject({ adapter: undefined, reason: "WebGPU finds no GPU that it may use here" });
    expect(requestAdapter).toHaveBeenCalledTimes(1);
  });
});
