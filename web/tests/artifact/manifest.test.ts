// One test a rejection, from fixtures that the Python validator is tested on too.
import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { compose, type Composition, replaced } from "../../src/artifact/choice";
import { parseManifest, parseTensorCache } from "../../src/artifact/manifest";
import { parsePlan } from "../../src/artifact/plan";
import { ArtifactError } from "../../src/api/errors";
import { applyPatch, type Operation } from "../support/patch";

const FIXTURES = resolve(import.meta.dirname, "../../../tests/golden/bad_manifests");

interface Documents {
  model: unknown;
  tensor_cache: unknown;
  plan: unknown;
}
interface Fixture {
  description: string;
  target: keyof Documents;
  base: string;
  patch: Operation[];
  error: string;
}

const read = (name: string): unknown => JSON.parse(readFileSync(resolve(FIXTURES, name), "utf8"));

function validate(documents: Documents) {
  const manifest = parseManifest(documents.model);
  const weights = parseTensorCache(documents.tensor_cache, manifest);
  const [variant] = manifest.variants;
  if (variant === undefined) throw new Error("no variant");
  return { manifest, weights, plan: parsePlan(documents.plan, manifest, variant, weights) };
}

test("the base that the fixtures patch is valid", () => {
  const { manifest, weights, plan } = validate(read("base.json") as Documents);
  expect(manifest.files.size).toBe(9);
  expect(weights.tensors.get("model.embed_tokens.q_weight")).toEqual({ shape: [128, 4], dtype: "uint32" });
  expect(plan.prefillChunks).toEqual([16, 4]);
  expect(plan.decode).toHaveLength(3);
  expect(manifest.smoke).toEqual({
    ids: [16, 48, 80, 112],
    top: [
      [5, 4.5],
      [90, 4.5],
      [7, 3.25],
    ],
    others: [
      [8, -9],
      [24, 3],
    ],
    scale: 9,
    tolerance: 0.05,
  });
});

test("an artifact of an earlier compiler has no smoke test", () => {
  expect(validate(read("base_wasm.json") as Documents).manifest.smoke).toBeUndefined();
});

test("matrices may have schemes of their own, and values of the source", () => {
  const documents = read("base.json") as Documents & { model: Record<string, unknown> };
  const values = { formats: { Q4_K: 2, Q6_K: 1 }, exact: 0, rounded: 2, requantized: 1, squared_error: 1e-6 };
  documents.model = { ...documents.model, schemes: { "model.embed_tokens": "q8af16_g32" }, source_values: values };
  const { manifest } = validate(documents);
  expect([...manifest.schemes]).toEqual([["model.embed_tokens", "q8af16_g32"]]);
  expect(manifest.sourceValues).toEqual({ formats: values.formats, exact: 0, rounded: 2, requantized: 1, squaredError: 1e-6 });
  const { manifest: without } = validate(read("base.json") as Documents);
  expect([without.schemes.size, without.sourceValues]).toEqual([0, undefined]);
});

test("a plan may have alternatives", () => {
  const { plan } = validate(read("base_alternatives.json") as Documents);
  expect(plan.alternatives).toMatchObject([{ name: "wide", kernelsFile: "webgpu-f32/wide.wgsl", tolerance: 0.001 }]);
  expect([...(plan.alternatives[0]?.programs.keys() ?? [])]).toEqual(["decode", "prefill_4"]);
  expect(plan.kernels).toHaveLength(3);
});

test("a plan may verify drafts, of no more rows than there are ids for", () => {
  const documents = read("base.json") as Documents;
  expect(validate(documents).plan.verify).toBeUndefined();
  const { plan: own } = documents;
  const add = (name: string): Operation => ({
    op: "add",
    path: `/programs/${name}`,
    value: (own as { programs: { decode: unknown } }).programs.decode,
  });
  documents.plan = applyPatch(own, [add("verify_4")]);
  const { plan } = validate(documents);
  expect(plan.verify).toEqual({ rows: 4, program: plan.decode });
  expect(compose(plan, "own.wgsl", {}).plan.verify?.program).toEqual(plan.decode);
  documents.plan = applyPatch(own, [add("verify_4096")]);
  expect(() => validate(documents)).toThrow("verify_4096");
});

const MASK: Operation[] = [
  {
    op: "add",
    path: "/kernels/3",
    value: { entry: "mask", workgroup_size: [64, 1, 1], workgroup_bytes: 0, bindings: ["read", "read", "read_write"] },
  },
  { op: "add", path: "/buffers/11", value: { kind: "io", name: "logit_mask", bytes: 16 } },
  { op: "add", path: "/buffers/12", value: { kind: "io", name: "logit_bias", bytes: 512 } },
  { op: "add", path: "/programs/mask", value: [{ kernel: 3, bind: [11, 12, 9], grid: [2, 1, 1] }] },
];

test("a plan may have a mask, between the logits and the sampler", () => {
  const documents = read("base.json") as Documents;
  expect(validate(documents).plan.mask).toBeUndefined();
  documents.plan = applyPatch(documents.plan, MASK);
  const { plan } = validate(documents);
  expect(plan.mask).toEqual({ kernel: 3, bind: [11, 12, 9], grid: [2, 1, 1], endsLogits: true });
  expect(plan.decode.map(({ endsLogits }) => endsLogits === true)).toEqual([false, false, true]);
  const { plan: made } = compose(plan, "own.wgsl", {});
  expect(made.kernels[made.mask?.kernel ?? -1]?.entry).toBe("mask");
});

test("a choice of programs takes the kernels that they need, and no others", () => {
  const { plan } = validate(read("base_alternatives.json") as Documents);
  const entries = ({ modules }: Composition) => modules.map(({ file, kernels }) => [file, kernels.map(({ entry }) => entry)]);
  const named = ({ plan: made }: Composition) =>
    [made.decode, ...made.prefill.values()].map((program) => program.map(({ kernel }) => made.kernels[kernel]?.entry));
  const own = compose(plan, "own.wgsl", {});
  expect(entries(own)).toEqual([["own.wgsl", ["embed", "append", "sample"]]]);
  expect(named(own)).toEqual([
    ["embed", "append", "sample"],
    ["embed", "append"],
    ["embed", "append"],
  ]);
  const decode = compose(plan, "own.wgsl", { decode: "wide" });
  expect(entries(decode)).toEqual([
    ["own.wgsl", ["embed", "sample", "append"]],
    ["webgpu-f32/wide.wgsl", ["append_wide"]],
  ]);
  expect(named(decode)).toEqual([
    ["embed", "append_wide", "sample"],
    ["embed", "append"],
    ["embed", "append"],
  ]);
  const both = compose({ ...plan, prefill: new Map([...plan.prefill].filter(([size]) => size === 4)) }, "own.wgsl", {
    decode: "wide",
    prefill_4: "wide",
  });
  expect(entries(both)).toEqual([
    ["own.wgsl", ["embed", "sample"]],
    ["webgpu-f32/wide.wgsl", ["append_wide"]],
  ]);
  expect(named(both)).toEqual([
    ["embed", "append_wide", "sample"],
    ["embed", "append_wide"],
  ]);
  const [alternative] = plan.alternatives;
  if (alternative === undefined) throw new Error("no alternative");
  expect(replaced(plan, alternative, 7).decode.map(({ kernel }) => kernel)).toEqual([0, 7, 2]);
  expect(plan.decode.map(({ kernel }) => kernel)).toEqual([0, 1, 2]);
});

test("WebGPU's limits do not bind a plan of the CPU", () => {
  const documents = read("base_wasm.json") as Documents;
  documents.plan = applyPatch(documents.plan, [
    { op: "replace", path: "/buffers/10/bytes", value: 2 ** 30 },
    { op: "replace", path: "/kernels/1/bindings", value: Array(12).fill("read") },
    ...["decode", "prefill_16", "prefill_4"].map((name): Operation => {
      return { op: "replace", path: `/programs/${name}/1`, value: { kernel: 1, bind: Array(12).fill(0), grid: [2 ** 31 - 1, 1, 1] } };
    }),
  ]);
  const { manifest } = validate(documents);
  expect(manifest.variants[0]).toMatchObject({
    backend: "wasm",
    kernels: "wasm-simd/kernels.wasm",
    kernelsRelaxed: "wasm-simd/kernels-relaxed.wasm",
  });
  documents.model = applyPatch(documents.model, [{ op: "remove", path: "/variants/0/kernels_relaxed" }]);
  expect(validate(documents).manifest.variants[0]?.kernelsRelaxed).toBeUndefined();
});

test("a model that transcribes is refused with what runs it", () => {
  const documents = read("base_wasm.json") as Documents;
  const speech = { mel_bands: 80, positions: 1500, encoder_layers: 6, tokens: null };
  documents.model = applyPatch(documents.model, [{ op: "add", path: "/speech", value: speech }]);
  expect(() => validate(documents)).toThrow(/a model that transcribes.*`wisp transcribe` runs this one/);
});

describe("rejects", () => {
  const names = readdirSync(FIXTURES).filter((name) => name.endsWith(".json") && !name.startsWith("base"));
  expect(names.length).toBeGreaterThan(30);
  test.each(names)("%s", (name) => {
    const fixture = read(name) as Fixture;
    const documents = read(fixture.base) as Documents;
    documents[fixture.target] = applyPatch(documents[fixture.target], fixture.patch);
    let message = "accepted";
    try {
      validate(documents);
    } catch (error) {
      expect(error).toBeInstanceOf(ArtifactError);
      message = (error as ArtifactError).message;
    }
    expect(message).not.toBe("accepted");
    expect(message).toContain(fixture.error);
    expect(message).toMatch(/got .*, expected /);
  });
});
