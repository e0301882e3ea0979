// Validates model.json and tensor-cache.json whole, before one weight byte is fetched. Twin of compiler/artifact/manifest.py; both
// are tested on tests/golden/bad_manifests. plan-schema checks are in plan.ts. Knows the format; fetches nothing.

import { SAMPLING, type SamplingName } from "../api/sampling";
import type { SourceValues } from "../api/types";
import { checkPath, fail, GIB, Node } from "./checks";
import type {
  FileEntry,
  GenerationDefaults,
  Manifest,
  Shard,
  Smoke,
  Tensor,
  TensorCache,
  TensorRecord,
  Variant,
  WeightDtype,
} from "./schema";
import { DTYPE_BYTES } from "./schema";
import { checkTree } from "./template-tree";

const MODEL = "model.json";
const CACHE = "tensor-cache.json";
const DTYPES: readonly WeightDtype[] = ["uint32", "float16", "float32"];

export const FORMAT_VERSION = 1;
const MOST_FILES = 4096;
const MOST_TENSORS = 100_000;
const MOST_FORMATS = 100;
const MOST_BYTES = 16 * GIB;
const MAX_SHARD_BYTES = 32 * 2 ** 20;
/** Keeps sums of sizes exact in a double. */
const MOST_DIMENSION = 2 ** 32;
const SMOKE_IDS = 16;
const SMOKE_LOGITS = 64;
const FLOAT_MAX = 3.4e38;
const MAX_TOLERANCE = 0.1;

/** @throws ArtifactError naming the key, what it holds and what it should */
export function parseManifest(json: unknown): Manifest {
  const root = new Node(MODEL, "", json);
  root.get("format").exactly("wisp");
  root.get("format_version").exactly(FORMAT_VERSION);
  const { vocabSize, hiddenSize } = parseArchitecture(root.get("architecture"));
  const embeds = root.get("embedding").value !== undefined;
  if (embeds) root.get("embedding").get("pooling").oneOf(["last", "mean"]);
  const embeddingSize = embeds ? hiddenSize : undefined;
  if (root.get("speech").value !== undefined)
    fail(MODEL, "speech", "a model that transcribes", "one that generates text or gives embeddings; `wisp transcribe` runs this one");
  const files = parseFiles(root.get("files"));
  const listed = (node: Node): string => {
    const path = node.filePath();
    if (!files.has(path)) fail(MODEL, `${node.path} names ${path}`, path, "a file that `files` lists");
    return path;
  };
  root.get("source").get("kind").string();
  checkOrigin(root);
  const bos = root.get("bos_token_id");
  const template = root.get("chat_template");
  const tree = root.get("chat_template_tree");
  if (tree.value !== undefined && template.value === null) tree.fail("nothing, where there is no chat_template");
  const context = root.get("context").int(1, 2 ** 24);
  const smoke = root.get("smoke");
  return {
    id: root.get("id").string(),
    vocabSize,
    parameters: root.get("parameters").int(),
    quantization: root.get("quantization").string(),
    schemes: parseSchemes(root.get("schemes")),
    sourceValues: parseSourceValues(root.get("source_values")),
    weightBytes: root.get("weight_bytes").int(0, MOST_BYTES),
    context,
    embeddingSize,
    bosTokenId: bos.value === null ? null : bos.int(0, vocabSize - 1),
    stopTokenIds: root
      .get("stop_token_ids")
      .list(1000)
      .map((id) => id.int(0, vocabSize - 1)),
    generation: parseGeneration(root.get("generation")),
    chatTemplate: template.value === null ? null : template.string(),
    chatTemplateTree:
      tree.value === undefined ? undefined : checkTree(tree.value, tree.path, (path, got, expected) => fail(MODEL, path, got, expected)),
    tokenizer: root.get("tokenizer").list(32).map(listed),
    weights: parseWeights(root.get("weights"), listed),
    smoke: smoke.value === undefined ? undefined : parseSmoke(smoke, { vocabSize, outputs: embeddingSize ?? vocabSize, context }),
    variants: parseVariants(root.get("variants"), listed),
    files,
  };
}

/** Matrices that are stored in another scheme than `quantization`, by name. */
function parseSchemes(node: Node): Map<string, string> {
  if (node.value === undefined) return new Map();
  return new Map(node.entries(MOST_TENSORS).map(([name, scheme]) => [name, scheme.string()]));
}

function parseSourceValues(node: Node): SourceValues | undefined {
  if (node.value === undefined) return undefined;
  const formats = node.get("formats").entries(MOST_FORMATS);
  return {
    formats: Object.fromEntries(formats.map(([name, count]) => [name, count.int(1)])),
    exact: node.get("exact").int(),
    rounded: node.get("rounded").int(),
    requantized: node.get("requantized").int(),
    squaredError: node.get("squared_error").number(0, FLOAT_MAX),
  };
}

/** What pages show of the weights' origin, where it is stated. */
function checkOrigin(root: Node): void {
  const [license, homepage] = [root.get("license"), root.get("homepage")];
  if (license.value !== undefined && license.value !== null) license.string();
  if (homepage.value === undefined || homepage.value === null) return;
  const address = homepage.string();
  if (address.length > 500 || !/^https?:\/\/[!-~]+$/.test(address)) homepage.fail("an address that begins with https:// or http://");
}

/** `null` is an artifact compiled with `--weights none`: a plan to look at, nothing to run. */
function parseWeights(node: Node, listed: (node: Node) => string): string {
  if (node.value === null) fail(MODEL, "weights: the artifact was compiled without weights", null, "compile it with its checkpoint");
  return listed(node);
}

function parseArchitecture(node: Node): { vocabSize: number; hiddenSize: number } {
  node.get("model_type").string();
  for (const key of ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"])
    node.get(key).int(1, MOST_DIMENSION);
  return { vocabSize: node.get("vocab_size").int(1, 2 ** 24), hiddenSize: node.get("hidden_size").int() };
}

function parseFiles(node: Node): Map<string, FileEntry> {
  const files = new Map<string, FileEntry>();
  let total = 0;
  for (const [path, entry] of node.entries(MOST_FILES)) {
    checkPath(MODEL, "files", path);
    const bytes = entry.get("bytes").int(0, Number.MAX_SAFE_INTEGER / MOST_FILES);
    const sha256 = entry.get("sha256");
    if (!/^[0-9a-f]{64}$/.test(sha256.string())) sha256.fail("64 lower-case hex digits");
    files.set(path, { bytes, sha256: sha256.string() });
    total += bytes;
  }
  if (total > MOST_BYTES) fail(MODEL, "total bytes of all files", total, `at most ${MOST_BYTES}`);
  return files;
}

function inRange(node: Node, name: SamplingName): number {
  const { request, least, most, ...kind } = SAMPLING[name];
  const found = node.get(request);
  return "integer" in kind ? found.int(least, most) : found.number(least, most);
}

function parseGeneration(node: Node): GenerationDefaults {
  return {
    temperature: inRange(node, "temperature"),
    topK: inRange(node, "topK"),
    topP: inRange(node, "topP"),
    minP: inRange(node, "minP"),
    repetitionPenalty: inRange(node, "repetitionPenalty"),
  };
}

function parseSmoke(node: Node, { vocabSize, outputs, context }: { vocabSize: number; outputs: number; context: number }): Smoke {
  const ids = node
    .get("ids")
    .list(Math.min(SMOKE_IDS, context))
    .map((id) => id.int(0, vocabSize - 1));
  if (ids.length === 0) node.get("ids").fail("at least one id");
  const scale = above(node.get("scale"), FLOAT_MAX);
  const seen = new Set<number>();
  const pair = (item: Node, most: number): [number, number] => {
    const [id, logit, ...more] = item.list(SMOKE_LOGITS);
    if (id === undefined || logit === undefined || more.length > 0) return item.fail("an id and its logit");
    if (seen.has(id.int(0, outputs - 1))) id.fail("an id that comes once");
    seen.add(id.int());
    return [id.int(), logit.number(-scale, most)];
  };
  let last = scale;
  const top = node
    .get("top")
    .list(SMOKE_LOGITS)
    .map((item) => {
      const found = pair(item, last);
      last = found[1];
      return found;
    });
  if (top.length === 0) node.get("top").fail("at least one logit");
  const others = node
    .get("others")
    .list(SMOKE_LOGITS)
    .map((item) => pair(item, last));
  return { ids, top, others, scale, tolerance: above(node.get("tolerance"), MAX_TOLERANCE) };
}

/** More than 0. */
function above(node: Node, most: number): number {
  const value = node.number(0, most);
  return value > 0 ? value : node.fail("more than 0");
}

function parseVariants(node: Node, listed: (node: Node) => string): Variant[] {
  const variants = node.list(64).map((item) => parseVariant(item, listed));
  if (variants.length === 0) node.fail("at least one variant");
  const names = new Set(variants.map((variant) => variant.name));
  if (names.size !== variants.length)
    fail(
      MODEL,
      "variants: names",
      variants.map((v) => v.name),
      "each name once",
    );
  return variants;
}

function parseVariant(node: Node, listed: (node: Node) => string): Variant {
  const limits = node
    .get("required_limits")
    .entries(64)
    .map(([name, value]) => [name, value.int()] as const);
  const prefill = node
    .get("prefill_dispatches")
    .entries(64)
    .map(([chunk, count]) => [chunk, count.int()] as const);
  const backend = node.get("backend").oneOf(["webgpu", "wasm"]);
  if (backend === "wasm") checkWasm(node);
  const relaxed = node.get("kernels_relaxed");
  const kv = node.get("kv_dtype");
  const kvDtype = kv.value === undefined ? "float32" : kv.oneOf(["float16", "float32", "q8"]);
  return {
    name: node.get("name").string(),
    backend,
    activationDtype: node.get("activation_dtype").string(),
    kvDtype,
    requiredFeatures: node
      .get("required_features")
      .list(64)
      .map((feature) => feature.string()),
    requiredLimits: Object.fromEntries(limits),
    plan: listed(node.get("plan")),
    kernels: listed(node.get("kernels")),
    kernelsRelaxed: backend === "wasm" && relaxed.value !== undefined ? listed(relaxed) : undefined,
    kvBytesPerToken: node.get("kv_bytes_per_token").int(),
    activationBytes: node.get("activation_bytes").int(),
    dispatchesPerToken: node.get("dispatches_per_token").int(),
    prefillDispatches: Object.fromEntries(prefill),
  };
}

/** What FORMAT.md's "Plans of the CPU" says of a variant. */
function checkWasm(node: Node): void {
  node.get("activation_dtype").exactly("float32");
  for (const feature of node.get("required_features").list(64)) feature.exactly("simd");
  node.get("required_limits").entries(0);
  for (const key of ["kernels", "kernels_relaxed"]) {
    const file = node.get(key);
    if (file.value !== undefined && !file.string().endsWith(".wasm")) file.fail("a .wasm file");
  }
}

interface ParsedRecord extends TensorRecord {
  /** Rows of the whole tensor; undefined when the record is the whole tensor. */
  rows: number | undefined;
}

/** @throws ArtifactError naming the shard or the tensor, what was got and what was expected */
export function parseTensorCache(json: unknown, manifest: Manifest): TensorCache {
  const root = new Node(CACHE, "", json);
  const shards: Shard[] = [];
  const parts = new Map<string, ParsedRecord[]>();
  let tensorCount = 0;
  for (const node of root.get("records").list(MOST_FILES)) {
    const records = node.get("records").list(MOST_TENSORS).map(parseRecord);
    tensorCount += records.length;
    if (tensorCount > MOST_TENSORS) fail(CACHE, "records: number of tensors", tensorCount, `at most ${MOST_TENSORS}`);
    const shard = parseShard(node, records, manifest);
    if (shards.some((other) => other.path === shard.path)) fail(CACHE, `${shard.path} is two shards`, 2, "1");
    shards.push(shard);
    for (const record of records) {
      const others = parts.get(record.name);
      if (others === undefined) parts.set(record.name, [record]);
      else others.push(record);
    }
  }
  const total = shards.reduce((sum, shard) => sum + shard.nbytes, 0);
  if (total !== manifest.weightBytes) fail(MODEL, "weight_bytes", manifest.weightBytes, `${total}, the sum of the shards' nbytes`);
  const tensors = new Map<string, Tensor>();
  for (const [name, records] of parts) tensors.set(name, joinParts(name, records));
  for (const name of manifest.schemes.keys())
    if (!tensors.has(`${name}.q_weight`) && !tensors.has(`${name}.weight`))
      fail(MODEL, `schemes: ${name}`, name, `a matrix that ${CACHE} lists`);
  return { shards, tensors };
}

function parseRecord(node: Node): ParsedRecord {
  node.get("format").exactly("raw");
  const name = node.get("name").string();
  const dtype = node.get("dtype").oneOf(DTYPES);
  const dimensions = node.get("shape").list(8);
  const shape = dimensions.map((n) => n.int(1, MOST_DIMENSION));
  const nbytes = node.get("nbytes").int(0, MOST_BYTES);
  const size = shape.reduce((product, n) => product * n, DTYPE_BYTES[dtype]);
  if (shape.length === 0 || size !== nbytes)
    fail(CACHE, `${name}: shape x dtype and nbytes`, nbytes, `${size}, from shape [${shape.join(", ")}] of ${dtype}`);
  const rows = node.get("rows");
  const rowOffset = node.get("rowOffset");
  const split = rows.value !== undefined || rowOffset.value !== undefined;
  return {
    name,
    shape,
    dtype,
    nbytes,
    byteOffset: node.get("byteOffset").int(0, MOST_BYTES),
    rowOffset: split ? rowOffset.int(0, MOST_DIMENSION) : 0,
    rows: split ? rows.int(1, MOST_DIMENSION) : undefined,
  };
}

/** Records lie in order from 0 to nbytes, without gap or overlap, in a file that model.json lists with that size. */
function parseShard(node: Node, records: TensorRecord[], manifest: Manifest): Shard {
  node.get("format").exactly("raw-shard");
  const path = node.get("dataPath").filePath();
  const nbytes = node.get("nbytes").int(1, MOST_BYTES);
  let end = 0;
  for (const { name, byteOffset, nbytes: size } of records) {
    if (byteOffset > end) fail(CACHE, `${path}: hole before ${name}: byteOffset`, byteOffset, String(end));
    if (byteOffset < end) fail(CACHE, `${path}: overlap at ${name}: byteOffset`, byteOffset, String(end));
    end += size;
  }
  if (end !== nbytes) fail(CACHE, `${path}: nbytes`, nbytes, `${end}, where its last record ends`);
  if (nbytes > MAX_SHARD_BYTES && records.length > 1)
    fail(CACHE, `${path}: nbytes of a shard of ${records.length} tensors`, nbytes, `at most ${MAX_SHARD_BYTES}`);
  const file = manifest.files.get(path);
  if (file === undefined) fail(CACHE, `${path} is not among the files of ${MODEL}`, path, "a listed file");
  if (file.bytes !== nbytes) fail(CACHE, `${path}: nbytes`, nbytes, `${file.bytes}, as ${MODEL} says`);
  return { path, nbytes, records };
}

/** One record is the whole tensor, or parts cover its rows exactly once, in any order. */
function joinParts(name: string, records: ParsedRecord[]): Tensor {
  const [first] = records;
  if (first === undefined) throw new Error("a tensor without records");
  if (first.rows === undefined && records.length === 1) return { shape: first.shape, dtype: first.dtype };
  const rows = first.rows;
  if (rows === undefined || records.some((part) => part.rows === undefined))
    fail(CACHE, `${name}: duplicate tensor: records`, records.length, "one, or parts with rowOffset and rows");
  const sorted = records.toSorted((a, b) => a.rowOffset - b.rowOffset);
  let covered = 0;
  for (const part of sorted) {
    const partRows = part.shape[0] ?? 0;
    if (part.rows !== rows) fail(CACHE, `${name}: rows of its parts`, part.rows, `${rows} in each`);
    if (part.dtype !== first.dtype) fail(CACHE, `${name}: dtype of its parts`, part.dtype, `${first.dtype} in each`);
    if (String(part.shape.slice(1)) !== String(first.shape.slice(1)))
      fail(CACHE, `${name}: shape of its parts`, part.shape, `[*, ${first.shape.slice(1).join(", ")}] in each`);
    if (part.rowOffset !== covered) fail(CACHE, `${name}: rows are missing or twice there: rowOffset`, part.rowOffset, String(covered));
    covered += partRows;
    if (covered < rows && partRows % 64 !== 0) fail(CACHE, `${name}: rows of a part before the last`, partRows, "a multiple of 64");
  }
  if (covered !== rows) fail(CACHE, `${name}: rows that its parts cover`, covered, String(rows));
  return { shape: [rows, ...first.shape.slice(1)], dtype: first.dtype };
}
