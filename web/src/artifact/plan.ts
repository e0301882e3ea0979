// Validates a variant's plan.json against model.json and the tensor cache: every index in range, every size within the
// limits that the variant declares. Twin of compiler/artifact/manifest.py. Runs nothing.

import { fail, GIB, Node } from "./checks";
import { FORMAT_VERSION } from "./manifest";
import type { Access, Alternative, Dispatch, IoName, Kernel, Manifest, Plan, PlanBuffer, TensorCache, Variant } from "./schema";
import { IO_NAMES, rowBytes } from "./schema";

/** WebGPU's default limits, where a plan can exceed them. `required_limits` of a variant overrides. */
const DEFAULT_LIMITS = {
  maxStorageBufferBindingSize: 134_217_728,
  maxBufferSize: 268_435_456,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16_384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupSizeY: 256,
  maxComputeWorkgroupSizeZ: 64,
  maxComputeWorkgroupsPerDimension: 65_535,
};
type Limits = typeof DEFAULT_LIMITS;

const MOST_BUFFER_BYTES = 16 * GIB;
/** What stands in their place in plans of the CPU, where `grid` counts items along one axis. */
const WASM_LIMITS: Limits = {
  maxStorageBufferBindingSize: MOST_BUFFER_BYTES,
  maxBufferSize: MOST_BUFFER_BYTES,
  maxStorageBuffersPerShaderStage: 16,
  maxComputeWorkgroupStorageSize: 0,
  maxComputeInvocationsPerWorkgroup: 1,
  maxComputeWorkgroupSizeX: 1,
  maxComputeWorkgroupSizeY: 1,
  maxComputeWorkgroupSizeZ: 1,
  maxComputeWorkgroupsPerDimension: 2 ** 31 - 1,
};

/** Words 0..15 of the state buffer are the format's. */
const STATE_BYTES = 64;
const MOST_BUFFERS = 100_000;
const MOST_DISPATCHES = 100_000;
const MOST_KERNELS = 10_000;
const MOST_ALTERNATIVES = 8;
const MOST_TOLERANCE = 0.1;

/** @throws ArtifactError naming the buffer, kernel or dispatch, what was got and what was expected */
export function parsePlan(json: unknown, manifest: Manifest, variant: Variant, weights: TensorCache): Plan {
  const root = new Node(variant.plan, "", json);
  root.get("format").exactly("wisp-plan");
  root.get("format_version").exactly(FORMAT_VERSION);
  root.get("variant").exactly(variant.name);
  root.get("activation_dtype").exactly(variant.activationDtype);
  root.get("context").exactly(manifest.context);
  root.get("vocab_size").exactly(manifest.vocabSize);
  const limits: Limits = variant.backend === "wasm" ? WASM_LIMITS : { ...DEFAULT_LIMITS, ...variant.requiredLimits };
  const chunks = root.get("prefill_chunks");
  const prefillChunks = chunks.list(64).map((chunk) => chunk.int(1, manifest.context));
  if (new Set(prefillChunks).size !== prefillChunks.length) chunks.fail("each chunk size once");
  const { vocabSize, embeddingSize } = manifest;
  const plan: Plan = {
    variant: variant.name,
    context: manifest.context,
    vocabSize,
    output: embeddingSize === undefined ? { name: "logits", size: vocabSize } : { name: "embedding", size: embeddingSize },
    ringSize: root.get("ring_size").int(1, 2 ** 20),
    prefillChunks: prefillChunks.toSorted((a, b) => b - a),
    buffers: root
      .get("buffers")
      .list(MOST_BUFFERS)
      .map((node) => parseBuffer(node, limits)),
    kernels: root
      .get("kernels")
      .list(MOST_KERNELS)
      .map((node) => parseKernel(node, limits)),
    decode: [],
    prefill: new Map(),
    mask: undefined,
    verify: undefined,
    alternatives: [],
  };
  checkBuffers(variant.plan, plan, manifest, variant, root.get("programs").get("mask").value !== undefined);
  for (const buffer of plan.buffers) if (buffer.kind === "weight") checkWeight(variant.plan, buffer, weights);
  parsePrograms(root.get("programs"), plan, limits, variant);
  if (root.get("alternatives").value !== undefined) parseAlternatives(root.get("alternatives"), plan, limits, manifest, variant);
  return plan;
}

function parseBuffer(node: Node, limits: Limits): PlanBuffer {
  const kind = node.get("kind").oneOf(["weight", "constant", "kv", "state", "io", "scratch"]);
  const bytes = node.get("bytes").int(1, MOST_BUFFER_BYTES);
  const name = node.get("name").string();
  const most = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  if (bytes > most) fail(node.file, `buffer ${name}: bytes`, bytes, `at most ${most}, the limit of a binding`);
  switch (kind) {
    case "weight": {
      const [start, stop, ...rest] = node
        .get("rows")
        .list(2)
        .map((row) => row.int(0, 2 ** 32));
      if (start === undefined || stop === undefined || rest.length > 0) return node.get("rows").fail("[start, stop]");
      const shape = node
        .get("shape")
        .list(8)
        .map((n) => n.int(1, 2 ** 32));
      return { kind, name, bytes, dtype: node.get("dtype").oneOf(["uint32", "float16", "float32"]), shape, rows: [start, stop] };
    }
    case "constant":
      return { kind, name, bytes, offset: node.get("offset").int(0, 16 * GIB) };
    case "kv":
      return { kind, name, bytes, bytesPerPosition: node.get("bytes_per_position").int(1, GIB) };
    case "io":
      return { kind, name: node.get("name").oneOf(IO_NAMES), bytes };
    case "state":
    case "scratch":
      return { kind, name, bytes };
  }
}

function parseKernel(node: Node, limits: Limits): Kernel {
  const entry = node.get("entry").string();
  const [x, y, z] = dimensions(node.get("workgroup_size"), 2 ** 16);
  const { maxComputeInvocationsPerWorkgroup: most, maxComputeWorkgroupSizeX, maxComputeWorkgroupSizeY, maxComputeWorkgroupSizeZ } = limits;
  if (x * y * z > most || x > maxComputeWorkgroupSizeX || y > maxComputeWorkgroupSizeY || z > maxComputeWorkgroupSizeZ)
    node.get("workgroup_size").fail(`at most ${most} invocations`);
  node.get("workgroup_bytes").int(0, limits.maxComputeWorkgroupStorageSize);
  const bindings = node
    .get("bindings")
    .list(64)
    .map((access) => access.oneOf<Access>(["read", "read_write"]));
  if (bindings.length > limits.maxStorageBuffersPerShaderStage)
    fail(node.file, `kernel ${entry}: number of bindings`, bindings.length, `at most ${limits.maxStorageBuffersPerShaderStage}`);
  return { entry, bindings };
}

function dimensions(node: Node, most: number): [number, number, number] {
  const [x, y, z, ...rest] = node.list(3).map((n) => n.int(1, most));
  if (x === undefined || y === undefined || z === undefined || rest.length > 0) return node.fail("three numbers");
  return [x, y, z];
}

/** Sizes against the format and model.json; each name once; exactly one of each buffer that the CPU touches. */
function checkBuffers(file: string, plan: Plan, manifest: Manifest, variant: Variant, masks: boolean): void {
  const constants = manifest.files.get("constants.bin")?.bytes ?? 0;
  const names = new Set<string>();
  let kvBytes = 0;
  for (const buffer of plan.buffers) {
    const key = buffer.kind === "weight" ? `${buffer.name}[${buffer.rows[0]}]` : buffer.name;
    if (names.has(key)) fail(file, `buffer ${key}: the name is there twice`, 2, "1");
    names.add(key);
    if (buffer.kind === "kv") {
      kvBytes += buffer.bytesPerPosition;
      if (buffer.bytes !== buffer.bytesPerPosition * plan.context)
        fail(file, `buffer ${key}: bytes`, buffer.bytes, `bytes_per_position x context = ${buffer.bytesPerPosition * plan.context}`);
    }
    if (buffer.kind === "constant" && buffer.offset + buffer.bytes > constants)
      fail(file, `buffer ${key}: end in constants.bin`, buffer.offset + buffer.bytes, `at most its ${constants} bytes`);
  }
  if (kvBytes !== variant.kvBytesPerToken)
    fail(file, "sum of the kv buffers' bytes_per_position", kvBytes, `${variant.kvBytesPerToken}, the variant's kv_bytes_per_token`);
  const states = plan.buffers.filter((buffer) => buffer.kind === "state");
  if (states.length !== 1 || (states[0]?.bytes ?? 0) < STATE_BYTES)
    fail(file, "state buffers", states, `one, of at least ${STATE_BYTES} bytes`);
  const wanted = ioNames(plan, masks);
  const least: Record<IoName, number> = {
    input_ids: 4 * (plan.prefillChunks[0] ?? 0),
    token_ring: 4 * plan.ringSize,
    token_counts: 4 * plan.vocabSize,
    logits: 4 * plan.output.size,
    embedding: 4 * plan.output.size,
    logit_mask: 4 * Math.ceil(plan.vocabSize / 32),
    logit_bias: 4 * plan.vocabSize,
  };
  for (const name of wanted) {
    const buffer = plan.buffers.find((candidate) => candidate.kind === "io" && candidate.name === name);
    if (buffer === undefined && name === "input_ids" && plan.prefillChunks.length === 0) continue;
    if (buffer === undefined || buffer.bytes < least[name])
      fail(file, `io buffer ${name}: bytes`, buffer?.bytes, `at least ${least[name]}`);
  }
}

/** What a plan has to have. */
function ioNames({ output }: Plan, masks: boolean): IoName[] {
  if (output.name === "embedding") return ["input_ids", "embedding"];
  return IO_NAMES.filter((name) => name !== "embedding" && (masks || (name !== "logit_mask" && name !== "logit_bias")));
}

function checkWeight(file: string, buffer: Extract<PlanBuffer, { kind: "weight" }>, weights: TensorCache): void {
  const { name, shape, dtype, bytes } = buffer;
  const [start, stop] = buffer.rows;
  const tensor = weights.tensors.get(name);
  if (tensor === undefined) fail(file, `weight ${name}`, undefined, "a tensor of the tensor cache");
  if (dtype !== tensor.dtype) fail(file, `weight ${name}: dtype`, dtype, tensor.dtype);
  if (String(shape) !== String(tensor.shape)) fail(file, `weight ${name}: shape`, shape, `[${tensor.shape.join(", ")}]`);
  const size = rowBytes(shape, dtype);
  if (start >= stop || stop > (shape[0] ?? 0)) fail(file, `weight ${name}: rows`, [start, stop], `a range within [0, ${shape[0] ?? 0}]`);
  if (bytes !== (stop - start) * size) fail(file, `weight ${name}: bytes`, bytes, `${(stop - start) * size}, what its rows take`);
  if ((start * size) % 4 !== 0) fail(file, `weight ${name}: first byte of its rows`, start * size, "a multiple of 4");
}

function parsePrograms(node: Node, plan: Plan, limits: Limits, variant: Variant): void {
  const wanted = new Map(plan.prefillChunks.map((chunk) => [`prefill_${chunk}`, chunk]));
  plan.decode = parseProgram(node.get("decode"), plan, plan.kernels, limits, variant);
  const expected = variant.dispatchesPerToken;
  if (plan.decode.length !== expected)
    fail(node.file, "dispatches of decode", plan.decode.length, `${expected}, the variant's dispatches_per_token`);
  for (const [name, chunk] of wanted) {
    const program = parseProgram(node.get(name), plan, plan.kernels, limits, variant);
    const count = variant.prefillDispatches[String(chunk)];
    if (program.length !== count)
      fail(node.file, `dispatches of ${name}`, program.length, `${String(count)}, from the variant's prefill_dispatches`);
    plan.prefill.set(chunk, program);
  }
  for (const [name, program] of node.entries(100)) {
    if (name === "decode" || wanted.has(name)) continue;
    const rows = Number(/^verify_([1-9]\d{0,3})$/.exec(name)?.[1]);
    if (plan.verify === undefined && plan.output.name === "logits" && rows >= 2 && rows <= (plan.prefillChunks[0] ?? 0)) {
      plan.verify = { rows, program: parseProgram(program, plan, plan.kernels, limits, variant) };
      continue;
    }
    if (name !== "mask" || plan.output.name === "embedding")
      fail(node.file, "programs", name, "decode, mask and one verify_N of what generates, and prefill_N of prefill_chunks");
    const [mask, ...rest] = parseProgram(program, plan, plan.kernels, limits, variant);
    if (mask === undefined || rest.length > 0) program.fail("one dispatch");
    plan.mask = mask;
  }
}

/** Alternatives of a plan whose own programs, kernels and buffers are valid. */
function parseAlternatives(node: Node, plan: Plan, limits: Limits, manifest: Manifest, variant: Variant): void {
  const items = node.list(MOST_ALTERNATIVES);
  if (variant.backend === "wasm" && items.length > 0) node.fail("none in a plan of the CPU");
  const own = new Set(["decode", ...plan.prefillChunks.map((chunk) => `prefill_${chunk}`)]);
  for (const item of items) {
    const name = item.get("name").string();
    if (!/^[a-z][a-z0-9_]{0,31}$/.test(name) || plan.alternatives.some((other) => other.name === name))
      item.get("name").fail("small letters, digits and _, a name that no other alternative has");
    const kernelsFile = item.get("kernels_file").filePath();
    if (!manifest.files.has(kernelsFile)) item.get("kernels_file").fail("a name that model.json files lists");
    if (kernelsFile === variant.kernels || plan.alternatives.some((other) => other.kernelsFile === kernelsFile))
      item.get("kernels_file").fail("a module that nothing else uses");
    const languageFeatures = item
      .get("language_features")
      .list(MOST_ALTERNATIVES)
      .map((feature) => {
        const text = feature.string();
        return /^[a-z][a-z0-9_]{0,63}$/.test(text) ? text : feature.fail("names of WGSL language features");
      });
    const preferredOn = (item.get("preferred_on").value === undefined ? [] : item.get("preferred_on").list(MOST_ALTERNATIVES)).map(
      (vendor) => {
        const text = vendor.string();
        return /^[a-z][a-z0-9-]{0,31}$/.test(text) ? text : vendor.fail("names of GPU vendors");
      },
    );
    const tolerance = item.get("tolerance").number(0, MOST_TOLERANCE);
    if (tolerance === 0) item.get("tolerance").fail("more than 0");
    const kernels = item
      .get("kernels")
      .list(MOST_KERNELS)
      .map((kernel) => parseKernel(kernel, limits));
    const programs: Alternative["programs"] = new Map();
    for (const [program, list] of item.get("programs").entries(100)) {
      if (!own.has(program)) fail(node.file, `${item.path}.programs`, program, `names of the plan's programs (${[...own].join(", ")})`);
      programs.set(program, parseProgram(list, plan, [...plan.kernels, ...kernels], limits, variant));
    }
    if (programs.size === 0) item.get("programs").fail("at least one of the plan's programs");
    plan.alternatives.push({ name, kernelsFile, languageFeatures, preferredOn, tolerance, kernels, programs });
  }
}

function parseProgram(node: Node, plan: Plan, kernels: readonly Kernel[], limits: Limits, variant: Variant): Dispatch[] {
  const logits = plan.buffers.findIndex(({ kind, name }) => kind === "io" && name === "logits");
  const program = node.list(MOST_DISPATCHES).map((item): Dispatch => {
    const kernelIndex = item.get("kernel").int(0, kernels.length - 1);
    const kernel = kernels[kernelIndex];
    if (kernel === undefined) return item.get("kernel").fail("the index of a kernel");
    const bind = item.get("bind");
    const buffers = bind.list(64).map((index) => index.int(0, plan.buffers.length - 1));
    if (buffers.length !== kernel.bindings.length) bind.fail(`${kernel.bindings.length} buffers, one for each binding of ${kernel.entry}`);
    kernel.bindings.forEach((access, i) => {
      if (access === "read_write" && buffers.indexOf(buffers[i] ?? -1) !== buffers.lastIndexOf(buffers[i] ?? -1))
        fail(node.file, `${bind.path}: a written buffer is bound twice`, buffers, "different buffers");
      const kind = plan.buffers[buffers[i] ?? -1]?.kind;
      if (access === "read_write" && (kind === "weight" || kind === "constant"))
        fail(node.file, `${bind.path}: a ${kind} is written`, buffers[i], "weights and constants to be read only");
    });
    const grid = dimensions(item.get("grid"), limits.maxComputeWorkgroupsPerDimension);
    if (variant.backend === "wasm" && grid[1] * grid[2] !== 1) item.get("grid").fail("[items, 1, 1] in a plan of the CPU");
    return { kernel: kernelIndex, bind: buffers, grid };
  });
  const last = program.findLast(({ kernel, bind }) =>
    kernels[kernel]?.bindings.some((access, i) => access === "read_write" && bind[i] === logits),
  );
  if (last !== undefined) last.endsLogits = true;
  return program;
}
