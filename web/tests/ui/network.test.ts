// The inspector's picture of a plan, and the sources of its kernels.
import wabtOf from "wabt";
import { describe, expect, it } from "vitest";
import { watOf, wgslOf } from "../../src/ui/state/kernel-source";
import { limitsOf, place } from "../../src/ui/state/limits";
import { type ModelFile, networkOf, type PlanBuffer, type PlanFile, programNames, routes } from "../../src/ui/state/network";

const weight = (name: string, shape: number[], bytes: number, dtype = "uint32"): PlanBuffer => ({
  kind: "weight",
  name,
  shape,
  bytes,
  dtype,
});
const scratch = (n: number): PlanBuffer => ({ kind: "scratch", name: `scratch.${n}`, bytes: 1024 });
const [R, W] = ["read", "read_write"] as const;

const BUFFERS: PlanBuffer[] = [
  weight("model.embed_tokens.q_weight", [100, 8], 3200),
  weight("model.embed_tokens.q_scale", [100, 2], 400, "float16"),
  scratch(0),
  weight("model.layers.0.input_layernorm.weight", [64], 128, "float16"),
  weight("model.layers.0.self_attn.qkv_proj.q_weight", [96, 8], 3072),
  weight("model.layers.0.self_attn.qkv_proj.q_scale", [96, 2], 384, "float16"),
  { kind: "kv", name: "kv.0", bytes: 4096 },
  scratch(1),
  weight("model.layers.0.self_attn.o_proj.q_weight", [64, 16], 4096),
  scratch(2),
  weight("model.norm.weight", [64], 128, "float16"),
  { kind: "io", name: "logits", bytes: 400 },
  { kind: "state", name: "state", bytes: 256 },
];
const kernel = (entry: string, bindings: ("read" | "read_write")[]) => ({
  entry,
  workgroup_size: [64, 1, 1] as const,
  workgroup_bytes: 512,
  bindings,
});
const PLAN: PlanFile = {
  variant: "webgpu-f32",
  context: 16,
  buffers: BUFFERS,
  kernels: [
    kernel("embed_0", [R, R, W]),
    kernel("qkv_1", [R, R, R, R, W, W]),
    kernel("attention_2", [R, R, W]),
    kernel("project_3", [R, R, R, W]),
    kernel("lm_head_4", [R, R, R, R, W]),
    kernel("draw_5", [R, W]),
  ],
  programs: {
    decode: [
      { kernel: 0, bind: [0, 1, 2], grid: [1, 1, 1] },
      { kernel: 1, bind: [3, 4, 5, 2, 6, 7], grid: [24, 1, 1] },
      { kernel: 2, bind: [7, 6, 9], grid: [2, 8, 1] },
      { kernel: 3, bind: [8, 9, 2, 7], grid: [16, 1, 1] },
      { kernel: 4, bind: [10, 0, 1, 7, 11], grid: [82, 1, 1] },
      { kernel: 5, bind: [11, 12], grid: [1, 1, 1] },
    ],
    prefill_16: [],
    mask: [],
  },
  alternatives: [
    {
      name: "narrow",
      kernels_file: "webgpu-f32/narrow.wgsl",
      kernels: [kernel("project_3_narrow", [R, R, R, W])],
      programs: { decode: [{ kernel: 6, bind: [8, 9, 2, 7], grid: [4, 1, 1] }] },
    },
  ],
};
const MODEL: ModelFile = {
  quantization: "q4f16_1",
  schemes: { "model.layers.0.self_attn.o_proj": "q8f16_1" },
  architecture: { num_attention_heads: 4, num_key_value_heads: 2 },
  variants: [],
};

describe("a plan's network", () => {
  const { blocks, flows } = networkOf(MODEL, PLAN, "decode");

  it("stands in blocks: what comes before the layers, each layer, what comes behind", () => {
    expect(blocks.map(({ layer, steps }) => [layer, ...steps.map(({ title }) => title)])).toEqual([
      [undefined, "embed"],
      [0, "qkv", "attention", "project"],
      [undefined, "lm_head", "draw"],
    ]);
    expect(blocks[1]?.steps.map(({ kind }) => kind)).toEqual(["matrix", "attention", "matrix"]);
    expect(blocks[1]?.bytes).toBe(128 + 3072 + 384 + 4096);
  });

  it("names matrices with the shape of their values, their own scheme and all of their bytes", () => {
    expect(blocks[1]?.steps[0]?.matrices).toEqual([
      { name: "model.layers.0.self_attn.qkv_proj", shape: [96, 64], scheme: "q4f16_1", bytes: 3456 },
      { name: "model.layers.0.input_layernorm", shape: [64], scheme: "float16", bytes: 128 },
    ]);
    expect(blocks[1]?.steps[2]?.matrices).toMatchObject([{ shape: [64, 64], scheme: "q8f16_1" }]);
  });

  it("knows what flows where, from the last who wrote it", () => {
    expect(flows.map(({ from, to, through }) => [from, to, through.name])).toEqual([
      [0, 1, "scratch.0"],
      [1, 2, "scratch.1"],
      [1, 2, "kv.0"],
      [2, 3, "scratch.2"],
      [0, 3, "scratch.0"],
      [3, 4, "scratch.1"],
      [4, 5, "logits"],
    ]);
    const { straight, detours } = routes(blocks[1]?.steps ?? [], flows);
    expect(straight.map(({ from, to }) => [from, to])).toEqual([
      [0, 1],
      [1, 2],
      [2, 3],
      [3, 4],
    ]);
    expect(detours.map(({ from, to, lane }) => [from, to, lane])).toEqual([[0, 3, 0]]);
  });

  it("gives detours that meet lanes of their own", () => {
    const steps = blocks.flatMap((block) => block.steps);
    const through = scratch(9);
    const far = [
      { from: 0, to: 5, through },
      { from: 1, to: 3, through },
      { from: 3, to: 5, through },
    ];
    expect(routes(steps, far).detours.map(({ from, to, lane }) => [from, to, lane])).toEqual([
      [1, 3, 0],
      [3, 5, 0],
      [0, 5, 1],
    ]);
  });

  it("shows the alternative that runs, with the file that its kernels are in", () => {
    const [block] = networkOf(MODEL, PLAN, "decode", "narrow").blocks;
    expect(block?.steps[0]).toMatchObject({ title: "project", grid: [4, 1, 1], kernel: { file: "webgpu-f32/narrow.wgsl" } });
    expect(networkOf(MODEL, PLAN, "decode", "wide")).toEqual({ blocks, flows });
  });

  it("offers the programs that take tokens", () => expect(programNames(PLAN)).toEqual(["decode", "prefill_16"]));

  it("needs of the limits what its largest parts take", () => {
    const limits = limitsOf(PLAN, { maxBufferSize: 1000 });
    expect(limits.map(({ name, need, has }) => [name, need, has])).toEqual([
      ["maxBufferSize", 4096, 1000],
      ["maxStorageBufferBindingSize", 4096, undefined],
      ["maxStorageBuffersPerShaderStage", 6, undefined],
      ["maxComputeWorkgroupStorageSize", 512, undefined],
      ["maxComputeInvocationsPerWorkgroup", 64, undefined],
      ["maxComputeWorkgroupsPerDimension", 82, undefined],
    ]);
    expect([place(1, 1024), place(32, 1024), place(2048, 1024), place(0, 1)]).toEqual([0, 0.5, 1, 0]);
  });
});

it("a kernel's WGSL is the entry point and what it uses, and nothing else", () => {
  const source = `enable subgroups;
fn helper(x: f32) -> f32 { // with { a brace
  return deeper(x);
}
fn deeper(x: f32) -> f32 { return x * SCALE; }
const SCALE = 2.0;
fn unused() {}
@group(0) @binding(0) var<storage, read> a_in : array<vec4<f32>>;
@group(0) @binding(0) var<storage, read> b_in : array<f32>;
var<workgroup> a_shared : array<f32, 64>;
@compute @workgroup_size(64, 1, 1)
fn a(@builtin(local_invocation_id) id : vec3<u32>) { a_shared[id.x] = helper(a_in[0].x); }
@compute @workgroup_size(64, 1, 1)
fn b() { b_in[0]; }
`;
  const found = wgslOf(source, "a");
  for (const part of ["fn helper", "fn deeper", "const SCALE", "a_in", "a_shared", "@compute @workgroup_size(64, 1, 1)\nfn a("])
    expect(found).toContain(part);
  for (const part of ["unused", "b_in", "fn b("]) expect(found).not.toContain(part);
  expect(wgslOf(source, "c")).toBe("");
});

it("a kernel's WebAssembly is read as text, SIMD too", async () => {
  const wabt = await wabtOf();
  const text = `(module (memory (import "env" "memory") 1)
    (func (export "first") (param i32 i32 i32) (v128.store (local.get 0) (f32x4.add (v128.load (local.get 0)) (v128.load (local.get 0)))))
    (func (export "second") (param i32) (drop (i32.const 7))))`;
  const { buffer } = wabt.parseWat("two.wat", text).toBinary({});
  const found = await watOf(Uint8Array.from(buffer));
  expect([...found.keys()]).toEqual(["first", "second"]);
  expect(found.get("first")).toContain("f32x4.add");
  expect(found.get("first")).not.toContain("i32.const 7");
  expect(found.get("second")).toContain("i32.const 7");
});
