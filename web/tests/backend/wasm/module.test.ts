// What a module must be, what a memory holds, what this engine can do: without running a kernel.
import { describe, expect, test, vi } from "vitest";
import { LIMIT_BYTES, memoryNeeded, WasmBackend, wasmSupport } from "../../../src/backend/wasm/backend";
import { layOut, makeMemory, RESERVE } from "../../../src/backend/wasm/memory";
import { compileModule, withSharedMemory } from "../../../src/backend/wasm/module";
import { isWebKit, threadsFor } from "../../../src/backend/wasm/pool";
import { DeviceError, RequestError } from "../../../src/api/errors";
import { assemble, kernelModule, kernels } from "../../support/kernels";

const alone = async (source: Uint8Array<ArrayBuffer>, wanted = kernels): Promise<void> => {
  const backend = await WasmBackend.create({ threads: 1 });
  await backend.createBuffers([{ bytes: 4, label: "a" }]);
  await backend.compile(source, wanted);
};

describe("support", () => {
  test("is what this Node has", () => {
    const [major = 0, minor = 0] = process.versions.v8.split(".").map(Number);
    const relaxedSimd = major > 11 || (major === 11 && minor >= 4); // Node 20 is just before.
    expect(wasmSupport()).toEqual({ wasm: true, simd: true, relaxedSimd, sharedMemory: true });
  });
  test("is none without WebAssembly, and the error says so", async () => {
    vi.stubGlobal("WebAssembly", undefined);
    try {
      expect(wasmSupport()).toEqual({ wasm: false, simd: false, relaxedSimd: false, sharedMemory: false });
      const error = await WasmBackend.create().catch((reason: unknown) => reason);
      expect(error).toMatchObject({ kind: "no-wasm", got: "no WebAssembly", expected: "WebAssembly with SIMD" });
      expect((error as DeviceError).remedy).toContain("browser");
    } finally {
      vi.unstubAllGlobals();
    }
  });
  test("of threads needs a page that is cross-origin isolated", async () => {
    vi.stubGlobal("crossOriginIsolated", false);
    try {
      expect(wasmSupport().sharedMemory).toBe(false);
      const backend = await WasmBackend.create({ threads: 4 });
      expect(backend.threads).toBe(1);
      backend.dispose();
    } finally {
      vi.unstubAllGlobals();
    }
  });
  test("counts physical cores, at most eight", () => {
    expect([1, 2, 3, 4, 6, 8, 12, 16, 64].map((logical) => threadsFor(logical))).toEqual([1, 2, 2, 3, 3, 4, 6, 8, 8]);
  });
  test("takes two where WebKit says four, which it says of any number below eight", () => {
    expect([1, 4, 8].map((logical) => threadsFor(logical, true))).toEqual([1, 2, 4]);
    const names = {
      safari: "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15",
      chromeOnIos:
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/148.0.7778.60 Mobile/15E148 Safari/604.1",
      chrome: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36",
      firefox: "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0",
    };
    expect(
      Object.entries(names)
        .filter(([, userAgent]) => isWebKit(userAgent))
        .map(([name]) => name),
    ).toEqual(["safari", "chromeOnIos"]);
  });
  test("of a number of threads that is none is refused", async () => {
    for (const threads of [0, 1.5, 65]) await expect(WasmBackend.create({ threads })).rejects.toThrow(RequestError);
  });
});

describe("a module", () => {
  test("gets shared memory by one bit of its import", async () => {
    const source = await kernelModule();
    const shared = withSharedMemory(source);
    const changed = [...shared].flatMap((byte, i) => (byte === source[i] ? [] : [[source[i], byte]]));
    expect(changed).toEqual([[1, 3]]);
    const memory = new WebAssembly.Memory({ initial: 20, maximum: 20, shared: true });
    expect(new WebAssembly.Instance(new WebAssembly.Module(shared), { env: { memory } })).toBeDefined();
    expect(() => new WebAssembly.Instance(new WebAssembly.Module(source), { env: { memory } })).toThrow(WebAssembly.LinkError);
  });
  test("that is none, or ends early, is refused", async () => {
    const source = await kernelModule();
    expect(() => withSharedMemory(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8))).toThrow(/not a WebAssembly module/);
    expect(() => withSharedMemory(source.subarray(0, 5))).toThrow(/ends in the middle/);
    await expect(compileModule(source.slice(0, 60), false)).rejects.toThrow(/The kernels do not compile: .*report it/);
  });
  test.each([
    ["nothing", '(memory 1) (export "memory" (memory 0))', /imports: got nothing, expected env.memory/],
    ["other limits", '(import "env" "memory" (memory 1))', /limits of env.memory: got flags 0, expected 1/],
    ["another memory", '(import "js" "memory" (memory 1 65536))', /first js.memory of kind 2/],
    ["a function too", '(import "env" "memory" (memory 1 65536)) (import "env" "abort" (func))', /got 2 things/],
    ["a function first", '(import "env" "abort" (func)) (import "env" "memory" (memory 1 65536))', /first env.abort of kind 0/],
  ])("that imports %s is refused", async (_, memory, message) => {
    const source = await assemble(`(module ${memory})`);
    expect(() => withSharedMemory(source)).toThrow(message);
    await expect(compileModule(source, true)).rejects.toMatchObject({ name: "DeviceError", kind: "shader" });
  });
  test("that imports a function is refused on one thread too", async () => {
    const source = await assemble('(module (import "env" "memory" (memory 1 65536)) (import "env" "abort" (func)))');
    await expect(compileModule(source, false)).rejects.toThrow(
      /imports: got memory env.memory, function env.abort, expected memory env.memory alone/,
    );
  });
  test("that lacks what it must export is refused", async () => {
    await expect(alone(await kernelModule({ globals: "", kernels: "" }))).rejects.toThrow(/lacks an export: expected a global __heap_base/);
    await expect(alone(await kernelModule({ kernels: "" }))).rejects.toThrow(/lacks an export: expected a function increment/);
    const wrong = [{ entry: "affine", bindings: ["read_write" as const] }];
    await expect(alone(await kernelModule(), wrong)).rejects.toThrow(
      /kernel affine: got 4 parameters, expected 1 addresses, begin and end/,
    );
  });
  test("with more data of its own than is set aside is refused", async () => {
    const globals = (base: number) =>
      `(global (export "__heap_base") i32 (i32.const ${base})) (global (export "__stack_pointer") (mut i32) (i32.const 0))`;
    await expect(alone(await kernelModule({ globals: globals(RESERVE + 16) }))).rejects.toThrow(
      /__heap_base\): got 1048592 bytes, expected at most 1048576/,
    );
    await expect(alone(await kernelModule({ globals: globals(RESERVE) }))).resolves.toBeUndefined();
  });
  test("is bytes, not WGSL", async () => {
    const backend = await WasmBackend.create({ threads: 1 });
    await expect(backend.compile("@compute fn f() {}", [])).rejects.toThrow("not WGSL");
  });
});

describe("memory", () => {
  test("holds the module's data, the stacks and the buffers, aligned", () => {
    const { buffers, total } = layOut([{ bytes: 3 }, { bytes: 100 }, { bytes: 64 }, { bytes: 4 }], 3);
    const first = RESERVE + 3 * 65536;
    expect(buffers).toEqual([
      { address: first, bytes: 4 },
      { address: first + 64, bytes: 100 },
      { address: first + 192, bytes: 64 },
      { address: first + 256, bytes: 4 },
    ]);
    expect(total).toBe(first + 65536);
  });
  test("has slack beyond the last buffer", () => {
    const fixed = RESERVE + 65536;
    expect(memoryNeeded([{ bytes: 65536 - 64 }], 1)).toBe(fixed + 65536);
    expect(memoryNeeded([{ bytes: 65536 - 60 }], 1)).toBe(fixed + 2 * 65536);
  });
  test("beyond what WebAssembly addresses is refused before anything is allocated", () => {
    const needed = memoryNeeded([{ bytes: LIMIT_BYTES }], 1);
    expect(needed).toBeGreaterThan(LIMIT_BYTES);
    expect(() => makeMemory(needed, needed, false)).toThrow(
      /more memory than WebAssembly has: got 4098 MiB, expected at most 4096 MiB. Give/,
    );
    expect(memoryNeeded([{ bytes: LIMIT_BYTES - 2 ** 22 }], 8)).toBeLessThan(LIMIT_BYTES);
  });
  test("that the browser does not give is an error with a remedy", () => {
    const Memory = vi.fn(function refuse() {
      throw new RangeError("could not allocate memory");
    });
    vi.stubGlobal("WebAssembly", { Memory });
    try {
      makeMemory(2 ** 26, 2 ** 26, true);
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ name: "DeviceError", kind: "out-of-memory", got: "could not allocate memory", expected: "64 MiB" });
      expect((error as DeviceError).remedy).toContain("Close other tabs");
    } finally {
      vi.unstubAllGlobals();
    }
  });
});
