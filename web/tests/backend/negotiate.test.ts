import { afterEach, describe, expect, test, vi } from "vitest";
import type { Variant } from "../../src/artifact/schema";
import { type Probe, probe } from "../../src/backend/webgpu/adapter";
import { eligible, inspect, keeping, negotiate, twinOf } from "../../src/backend/negotiate";
import type { WasmSupport } from "../../src/backend/wasm/backend";
import { DeviceError } from "../../src/api/errors";
import { inEightBits, variant } from "../support/variants";

const GPU = [
  variant("webgpu-f16-sg", ["shader-f16", "subgroups"]),
  variant("webgpu-f16", ["shader-f16"]),
  variant("big", [], { maxStorageBufferBindingSize: 2 ** 30 }),
  variant("webgpu-f32", []),
];
const ALL = [...GPU, variant("wasm-simd", ["simd"], {}, "wasm")];
const WASM: WasmSupport = { wasm: true, simd: true, relaxedSimd: false, sharedMemory: false };
const INFO = { vendor: "v", architecture: "a", device: "d", description: "", isFallback: false };
const gpu = (features: string[]): Probe => ({
  adapter: {} as GPUAdapter,
  info: INFO,
  features: new Set(features),
  limits: { maxStorageBufferBindingSize: 2 ** 27 },
});
const none: Probe = {
  adapter: undefined,
  error: new DeviceError("no-webgpu", { what: "WebGPU is not available" }),
  reason: "this browser does not offer WebGPU",
};

/** What is tried, and the reasons of what stands before it. */
function outcome(variants: readonly Variant[], probe: Probe | undefined, wasm = WASM, wanted = "auto") {
  const candidates = negotiate(variants, { gpu: probe, wasm }, wanted);
  const first = candidates.findIndex(({ obstacle }) => obstacle === undefined);
  return {
    chosen: candidates[first]?.variant.name,
    passed: candidates.slice(0, first).map(({ variant: { name }, obstacle }) => [name, obstacle]),
  };
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
      new RegExp(
        `No variant .*: got webgpu-f16-sg, webgpu-f16, big, webgpu-f32: this browser does not offer WebGPU; wasm-simd: ${words}, expected WebGPU, or`,
      ),
    );
  });
  test("that finds nothing lists every reason", () => {
    expect(() => outcome(GPU.slice(0, 2), gpu([]))).toThrow(/webgpu-f16-sg: the device lacks .* and .*; webgpu-f16: the device lacks/);
  });
});

describe("a software GPU", () => {
  const software = (features: string[]) =>
    ({ ...gpu(features), info: { ...INFO, architecture: "swiftshader", isFallback: true } }) as Probe;
  const lastResorts = (variants: readonly Variant[], wasm: WasmSupport, wanted = "auto") =>
    negotiate(variants, { gpu: software(["subgroups"]), wasm }, wanted).filter(({ lastResort }) => lastResort !== undefined);

  test("waits for the CPU, which is faster by itself", () => {
    expect(lastResorts(ALL, WASM).map(({ variant: { name } }) => name)).toEqual(["webgpu-f32"]);
    expect(lastResorts(ALL, WASM)[0]?.lastResort).toBe(
      "the only GPU here is a software one (v · swiftshader · d), and the CPU is faster without it",
    );
  });
  test("does not wait where the CPU cannot, nor where it was named", () => {
    expect(lastResorts(ALL, { ...WASM, simd: false })).toEqual([]);
    expect(lastResorts(GPU, WASM)).toEqual([]);
    expect(lastResorts(ALL, WASM, "webgpu-f32")).toEqual([]);
  });
});

describe("looking at the device", () => {
  const adapter = (info: object | undefined, features: string[] = ["core-features-and-limits"], rest: object = {}) =>
    ({ info, features: new Set(features), limits: { maxBufferSize: 5 }, ...rest }) as unknown as GPUAdapter;
  async function probed(found: GPUAdapter | ((level: string) => GPUAdapter | null)) {
    const requestAdapter = vi.fn(({ featureLevel }: { featureLevel: string }) =>
      Promise.resolve(typeof found === "function" ? found(featureLevel) : found),
    );
    vi.stubGlobal("navigator", { gpu: { requestAdapter } });
    const result = await probe();
    if (result.adapter === undefined) throw result.error;
    return { ...result, asked: requestAdapter.mock.calls.map(([{ featureLevel }]) => featureLevel) };
  }

  test("asks for core WebGPU first, and for the compatibility mode where there is none", async () => {
    const core = await probed(adapter({ vendor: "acme" }));
    expect([core.asked, core.info.featureLevel]).toEqual([["core"], "core"]);
    const compatible = await probed((level) => (level === "core" ? null : adapter({}, [])));
    expect([compatible.asked, compatible.info.featureLevel]).toEqual([["core", "compatibility"], "compatibility"]);
    expect(outcome(ALL, compatible)).toMatchObject({ chosen: "webgpu-f32" });
  });
  test("takes a GPU in compatibility mode before a software adapter of core WebGPU, but no second software adapter", async () => {
    const software = adapter({ architecture: "swiftshader" });
    const gpu = await probed((level) => (level === "core" ? software : adapter({ vendor: "arm" }, [])));
    expect(gpu.info).toMatchObject({ vendor: "arm", featureLevel: "compatibility" });
    const both = await probed((level) => (level === "core" ? software : adapter({ isFallbackAdapter: true }, [])));
    expect(both.info).toMatchObject({ architecture: "swiftshader", featureLevel: "core" });
  });
  test("takes what the adapter says: one that has core features is a core one", async () => {
    const late = await probed((level) => (level === "core" ? null : adapter({})));
    expect(late.info.featureLevel).toBe("core");
  });
  test("lives with an adapter that says nothing of itself", async () => {
    const nothing = { vendor: "", architecture: "", device: "", description: "", isFallback: false, featureLevel: "core" };
    for (const info of [undefined, {}]) expect((await probed(adapter(info))).info).toEqual(nothing);
  });
  test.each([
    ["SwiftShader", { vendor: "google", architecture: "swiftshader" }],
    ["lavapipe", { description: "llvmpipe (LLVM 15.0.6, 256 bits)" }],
    ["WARP", { vendor: "microsoft", architecture: "warp" }],
    ["WARP by its name", { vendor: "microsoft", description: "Microsoft Basic Render Driver" }],
    ["one that says so alone, as in Firefox", { isFallbackAdapter: true }],
  ])("knows %s for software", async (_, info) => {
    expect((await probed(adapter(info))).info.isFallback).toBe(true);
  });
  test("knows software by what Chrome said until 136, and hardware for what it is", async () => {
    expect((await probed(adapter({}, [], { isFallbackAdapter: true }))).info.isFallback).toBe(true);
    expect((await probed(adapter({ vendor: "nvidia", architecture: "warped", isFallbackAdapter: false }))).info.isFallback).toBe(false);
  });
  test("asks for an adapter only when a variant would use it", async () => {
    const requestAdapter = vi.fn(() => Promise.resolve(null));
    vi.stubGlobal("navigator", { gpu: { requestAdapter } });
    expect(await inspect(eligible(ALL, "wasm-simd"))).toMatchObject({ gpu: undefined, wasm: { wasm: true } });
    expect(requestAdapter).not.toHaveBeenCalled();
    expect((await inspect(eligible(ALL, "auto"))).gpu).toMatchObject({
      adapter: undefined,
      reason: "WebGPU finds no GPU that it may use here",
    });
    expect(requestAdapter.mock.calls).toHaveLength(2);
  });
});

describe("keys and values", () => {
  const own = ALL.filter(({ name }) => name !== "big");
  const both = own.flatMap((one) => [one, inEightBits(one)]);

  test("are kept as a caller wants them, or it is said that they cannot be", () => {
    expect(keeping(both, "auto")).toEqual(both);
    expect(keeping(both, "f16")).toEqual(own);
    expect(keeping(both, "q8").map(({ name }) => name)).toEqual(own.map(({ name }) => `${name}-q8`));
    expect(() => keeping(own, "q8")).toThrow(/in 8 bits: got kv: "q8", expected "auto" or "f16"\. Compile it with --kv q8/);
    expect(() => keeping(own.map(inEightBits), "f16")).toThrow(/Compile it with --kv f16/);
  });

  test("in 8 bits are the only difference of two variants that are twins", () => {
    for (const one of own) {
      expect(twinOf(one, both)?.name).toBe(`${one.name}-q8`);
      expect(twinOf(inEightBits(one), both)).toBeUndefined();
    }
    expect(twinOf(variant("wasm-simd", ["simd"], {}, "wasm"), GPU.map(inEightBits))).toBeUndefined();
  });
});
