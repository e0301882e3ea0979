// WebAssembly modules of kernels: what this engine can run, and whether a module is what compiler/artifact/FORMAT.md says.
// Runs nothing and allocates nothing but a probe.

import type { Kernel } from "../../artifact/schema";
import { DeviceError, type ErrorDetails } from "../../api/errors";
import { RESERVE, stackTop } from "./memory";

export interface WasmSupport {
  wasm: boolean;
  simd: boolean;
  relaxedSimd: boolean;
  /** Threads are possible here. */
  sharedMemory: boolean;
}

const HEADER = [0, 97, 115, 109, 1, 0, 0, 0];
/** `i8x16.popcnt(i8x16.splat(0))`: a late addition, so that engines with half of SIMD fail. */
const SIMD = [...HEADER, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
/** `i8x16.relaxed_swizzle(i8x16.splat(1), i8x16.splat(2))` */
const RELAXED_SIMD = [...HEADER, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11];

/** Never throws. */
export function wasmSupport(): WasmSupport {
  // Some hardened browsers take WebAssembly away; the types do not know that.
  if ((globalThis as { WebAssembly?: unknown }).WebAssembly === undefined)
    return { wasm: false, simd: false, relaxedSimd: false, sharedMemory: false };
  const valid = (bytes: readonly number[]) => WebAssembly.validate(Uint8Array.from(bytes));
  return { wasm: valid(HEADER), simd: valid(SIMD), relaxedSimd: valid(RELAXED_SIMD), sharedMemory: canShareMemory() };
}

/**
 * Browsers share memory only with pages that are cross-origin isolated; some have the types and still refuse. WebKitGTK makes
 * shared memories for isolated pages but hands none to a worker: there the global SharedArrayBuffer is missing.
 */
function canShareMemory(): boolean {
  const scope = globalThis as { SharedArrayBuffer?: unknown; crossOriginIsolated?: boolean };
  if (scope.SharedArrayBuffer === undefined || scope.crossOriginIsolated === false) return false;
  try {
    const { buffer } = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    return !(buffer instanceof ArrayBuffer);
  } catch {
    return false;
  }
}

function refused(details: ErrorDetails): DeviceError {
  return new DeviceError("shader", { remedy: "This is a defect of the artifact: compile the model again.", ...details });
}

/** Unsigned LEB128 and names of a module's binary format. */
class Reader {
  at = 0;
  constructor(private readonly bytes: Uint8Array) {}

  byte(): number {
    const value = this.bytes[this.at++];
    if (value === undefined) throw refused({ what: "The kernels' module ends in the middle" });
    return value;
  }

  number(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  name(): string {
    const length = this.number();
    this.at += length;
    return new TextDecoder().decode(this.bytes.subarray(this.at - length, this.at));
  }
}

const IMPORT_SECTION = 2;
const MEMORY = 2;
const HAS_MAXIMUM = 1;
const SHARED = 2;

/** A copy of the module whose imported memory is declared as shared: one bit of the import's limits. */
export function withSharedMemory(module: Uint8Array): Uint8Array<ArrayBuffer> {
  const reader = new Reader(module);
  if (HEADER.some((byte) => reader.byte() !== byte)) throw refused({ what: "The kernels' file is not a WebAssembly module of version 1" });
  while (reader.at < module.length) {
    const section = reader.byte();
    const end = reader.number() + reader.at;
    if (section === IMPORT_SECTION) {
      const copy = Uint8Array.from(module);
      copy[memoryFlags(reader)] = HAS_MAXIMUM | SHARED;
      return copy;
    }
    reader.at = end;
  }
  throw refused({ what: "The kernels' module imports", got: "nothing", expected: "env.memory" });
}

/** Where the flags of env.memory's limits stand; nothing else may be imported. */
function memoryFlags(reader: Reader): number {
  const count = reader.number();
  const name = `${reader.name()}.${reader.name()}`;
  const kind = reader.byte();
  if (count !== 1 || name !== "env.memory" || kind !== MEMORY)
    throw refused({
      what: "The kernels' module imports",
      got: `${count} things, first ${name} of kind ${kind}`,
      expected: "env.memory alone",
    });
  const { at } = reader;
  const flags = reader.byte();
  if (flags !== HAS_MAXIMUM)
    throw refused({ what: "The limits of env.memory", got: `flags ${flags}`, expected: `${HAS_MAXIMUM}: not shared, with a maximum` });
  return at;
}

/** @throws DeviceError("shader") */
export async function compileModule(source: Uint8Array<ArrayBuffer>, shared: boolean): Promise<WebAssembly.Module> {
  const bytes = shared ? withSharedMemory(source) : source;
  let module: WebAssembly.Module;
  try {
    module = await WebAssembly.compile(bytes);
  } catch (error) {
    throw refused({
      what: `The kernels do not compile: ${error instanceof Error ? error.message : String(error)}`,
      remedy: "This is a defect of the artifact or of the browser: report it with the browser's version.",
    });
  }
  const imports = WebAssembly.Module.imports(module).map((item) => `${item.kind} ${item.module}.${item.name}`);
  if (imports.join() !== "memory env.memory")
    throw refused({ what: "The kernels' module imports", got: imports.join(", "), expected: "memory env.memory alone" });
  return module;
}

export type KernelFunction = (...args: number[]) => void;

/**
 * One thread's instance of the module: a function a kernel, in their order.
 * @throws DeviceError("shader")
 */
export function instantiate(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  kernels: readonly Pick<Kernel, "entry" | "bindings">[],
  thread: number,
): KernelFunction[] {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const heapBase: unknown = exportedGlobal(exports, "__heap_base").value;
  if (typeof heapBase !== "number" || heapBase < 0 || heapBase > RESERVE)
    throw refused({ what: "The kernels' own data (__heap_base)", got: `${String(heapBase)} bytes`, expected: `at most ${RESERVE}` });
  exportedGlobal(exports, "__stack_pointer").value = stackTop(thread);
  return kernels.map(({ entry, bindings }) => {
    const found = exports[entry];
    if (typeof found !== "function") throw refused({ what: "The kernels' module lacks an export", expected: `a function ${entry}` });
    if (found.length !== bindings.length + 2)
      throw refused({
        what: `The kernel ${entry}`,
        got: `${found.length} parameters`,
        expected: `${bindings.length} addresses, begin and end`,
      });
    return found as KernelFunction;
  });
}

function exportedGlobal(exports: WebAssembly.Exports, name: string): WebAssembly.Global {
  const found = exports[name];
  if (!(found instanceof WebAssembly.Global)) throw refused({ what: "The kernels' module lacks an export", expected: `a global ${name}` });
  return found;
}
