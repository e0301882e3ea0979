// An artifact that is valid and small, for what reads no weights: the documents of the validators' tests, and bytes for the rest.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { FetchFunction } from "../../src/artifact/transfer";
import { type Bytes, content, entryOf, text } from "./network";

const FIXTURES = resolve(import.meta.dirname, "../../../tests/golden/bad_manifests");

interface Model {
  variants: unknown[];
  files: Record<string, { bytes: number; sha256: string }>;
}
interface Documents {
  model: Model;
  tensor_cache: unknown;
  plan: unknown;
}

const read = (name: string): Documents => JSON.parse(readFileSync(resolve(FIXTURES, name), "utf8")) as Documents;

/** Its files, for a GPU and for the CPU. @param seed of what is the version's own: the weights' second half, not the first */
export function tinyArtifact(seed = 1): Map<string, Bytes> {
  const [gpu, cpu] = [read("base.json"), read("base_wasm.json")];
  const documents: Record<string, unknown> = {
    "tensor-cache.json": cpu.tensor_cache,
    "webgpu-f32/plan.json": gpu.plan,
    "wasm-simd/plan.json": cpu.plan,
  };
  const files = new Map<string, Bytes>();
  for (const [path, { bytes }] of Object.entries({ ...gpu.model.files, ...cpu.model.files })) {
    const own = path === "params_shard_1.bin" || path.includes("kernels");
    files.set(path, path in documents ? text(JSON.stringify(documents[path])) : content(bytes, path.length + (own ? 100 * seed : 0)));
  }
  const listed = Object.fromEntries([...files].map(([path, bytes]) => [path, entryOf(bytes)]));
  const model = { ...cpu.model, variants: [...gpu.model.variants, ...cpu.model.variants], files: listed };
  return files.set("model.json", text(JSON.stringify(model)));
}

/** A server of it, which writes down what it is asked for. */
export function serverOf(files: ReadonlyMap<string, Bytes>, base: string): { fetch: FetchFunction; asked: string[] } {
  const asked: string[] = [];
  const fetch: FetchFunction = (url) => {
    const path = new URL(url).pathname.slice(new URL(base).pathname.length);
    asked.push(path);
    const bytes = files.get(path);
    return Promise.resolve(bytes === undefined ? new Response("no", { status: 404 }) : new Response(bytes));
  };
  return { fetch, asked };
}
