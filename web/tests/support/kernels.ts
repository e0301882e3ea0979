// A tiny module of kernels, as the compiler would write one, and real helper threads for Node.
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "vite";
import loadWabt from "wabt";
import type { Kernel } from "../../src/artifact/schema";

const MEMORY = '(import "env" "memory" (memory 1 65536))';
const GLOBALS = '(global (export "__heap_base") i32 (i32.const 1024)) (global (export "__stack_pointer") (mut i32) (i32.const 0))';
/** `body` for each item: $i is the item, $a the first buffer and $at the address of its word $i. */
const forItems = (name: string, buffers: string, body: string) => `
  (func (export "${name}") (param $a i32) ${buffers} (param $begin i32) (param $end i32) (local $i i32) (local $at i32)
    (local.set $i (local.get $begin))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $i) (local.get $end)))
      (local.set $at (i32.add (local.get $a) (i32.shl (local.get $i) (i32.const 2))))
      ${body}
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next))))`;

const KERNELS = [
  // a[i] += 1
  forItems("increment", "", "(i32.store (local.get $at) (i32.add (i32.load (local.get $at)) (i32.const 1)))"),
  // a[i] = 3 * a[i] + b[0]: the order of two of them shows
  forItems(
    "affine",
    "(param $b i32)",
    "(i32.store (local.get $at) (i32.add (i32.mul (i32.load (local.get $at)) (i32.const 3)) (i32.load (local.get $b))))",
  ),
  // a[0] = the sum of b[0 .. 1000): sees what every thread has written
  forItems(
    "sum",
    "(param $b i32)",
    `(i32.store (local.get $at) (i32.const 0))
     (local.set $at (i32.const 0))
     (block $end (loop $more
       (br_if $end (i32.ge_u (local.get $at) (i32.const 4000)))
       (i32.store (local.get $a) (i32.add (i32.load (local.get $a)) (i32.load (i32.add (local.get $b) (local.get $at)))))
       (local.set $at (i32.add (local.get $at) (i32.const 4)))
       (br $more)))`,
  ),
  // traps at the item a[0]
  forItems("trap", "", "(if (i32.eq (local.get $i) (i32.load (local.get $a))) (then unreachable))"),
  // takes about a[0] turns of an empty loop an item
  forItems(
    "slow",
    "",
    `(local.set $at (i32.load (local.get $a)))
     (loop $spin (local.set $at (i32.sub (local.get $at) (i32.const 1))) (br_if $spin (i32.gt_s (local.get $at) (i32.const 0))))`,
  ),
  '(func (export "nothing") (param i32 i32 i32))',
  // a[i] = the end of the stack of the thread that computes it, after b[0] turns of an empty loop
  forItems(
    "who",
    "(param $b i32)",
    `(i32.store (local.get $at) (global.get 1))
     (local.set $at (i32.load (local.get $b)))
     (loop $spin (local.set $at (i32.sub (local.get $at) (i32.const 1))) (br_if $spin (i32.gt_s (local.get $at) (i32.const 0))))`,
  ),
];

export const kernels: Kernel[] = ["increment", "affine", "sum", "trap", "slow", "nothing", "who"].map((entry) => ({
  entry,
  bindings: ["affine", "sum", "who"].includes(entry) ? ["read_write", "read"] : ["read_write"],
}));
export const [INCREMENT, AFFINE, SUM, TRAP, SLOW, NOTHING, WHO] = [0, 1, 2, 3, 4, 5, 6] as const;

export async function assemble(wat: string): Promise<Uint8Array<ArrayBuffer>> {
  const wabt = await loadWabt();
  const parsed = wabt.parseWat("kernels.wat", wat);
  return Uint8Array.from(parsed.toBinary({}).buffer);
}

/** @param parts replace the import of the memory and the globals */
export const kernelModule = (parts: { memory?: string; globals?: string; kernels?: string } = {}): Promise<Uint8Array<ArrayBuffer>> =>
  assemble(`(module ${parts.memory ?? MEMORY} ${parts.globals ?? GLOBALS} ${parts.kernels ?? KERNELS.join("")})`);

/** Builds thread.js as `npm run build` does, somewhere else. */
export async function buildThread(): Promise<URL> {
  const outDir = mkdtempSync(join(tmpdir(), "wisp-thread-"));
  await build({
    configFile: false,
    logLevel: "error",
    publicDir: false,
    build: {
      outDir,
      target: "es2023",
      minify: false,
      lib: { entry: { thread: resolve(import.meta.dirname, "../../src/backend/wasm/thread.ts") }, formats: ["es"] },
      rolldownOptions: { output: { entryFileNames: "[name].mjs" } },
    },
  });
  return pathToFileURL(join(outDir, "thread.mjs"));
}
