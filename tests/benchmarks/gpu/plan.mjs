// Times a compiled plan through Dawn, with random weights that are made on the GPU.
// Usage: node plan.mjs DIRECTORY VARIANT SECONDS [few] [own]; DIRECTORY was compiled with --weights none. Parts that do
// not fit into SECONDS are left out and named. `few`: one run each; `own`: without the alternatives.
import { existsSync, readFileSync } from "node:fs";

import { encode, openDevice, readBuffer, report, STORAGE } from "./device.mjs";

const [directory, variant, seconds, ...options] = process.argv.slice(2);
const few = options.includes("few");
const ends = performance.now() + 1e3 * Number(seconds);
const RUNS = few ? 1 : 9;
const CONTEXTS = [32, 512, 2040];
const AHEAD = 8; // steps of a submit
const WORDS = { position: 0, length: 2, temperature: 4 }; // of the state buffer
const SAMPLING = {
  greedy: { temperature: 0, topK: 0, topP: 1 },
  top_p: { temperature: 0.6, topK: 0, topP: 0.9 },
  top_k_top_p: { temperature: 0.6, topK: 40, topP: 0.9 },
};
// Integers of 4 bits from 0 to 14, scales that keep a row's product at the size of its operand, norms around 1.
const FILL = `
@group(0) @binding(0) var<storage, read_write> b: array<u32>;
@group(0) @binding(1) var<uniform> p: vec4<u32>; // words, kind, seed, scale
fn mix(value: u32) -> u32 {
  var x = value;
  x = (x ^ (x >> 16u)) * 0x7feb352du;
  x = (x ^ (x >> 15u)) * 0x846ca68bu;
  return x ^ (x >> 16u);
}
@compute @workgroup_size(256)
fn fill(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
  for (var i = id.x; i < p.x; i += n.x * 256u) {
    let h = mix(i ^ p.z);
    let spread = vec2<f32>(f32(h & 255u), f32((h >> 8u) & 255u)) / 512.0 + 0.75;
    switch p.y {
      case 0u: { b[i] = (h & 0x77777777u) + ((h >> 3u) & 0x11111111u) * 7u; }
      case 1u: { b[i] = pack2x16float(bitcast<f32>(p.w) * spread); }
      default: { b[i] = pack2x16float(spread); }
    }
  }
}`;

const plan = JSON.parse(readFileSync(`${directory}/${variant}/plan.json`));
const { gpu, device, timer } = await openDevice(variant.endsWith("sg") ? ["subgroups"] : []);
const buffers = plan.buffers.map(({ bytes }) =>
  device.createBuffer({ size: Math.max(16, Math.ceil(bytes / 4) * 4), usage: STORAGE }),
);
const at = (name) => plan.buffers.findIndex((buffer) => buffer.name === name);
const state = buffers[at("state")];
const left = [];

await fillBuffers();
const own = await compile(`${directory}/${variant}/kernels.wgsl`, plan.kernels);
const sets = { own: { kernels: own, programs: plan.programs } };
const others = options.includes("own") ? [] : (plan.alternatives ?? []);
for (const { name, kernels_file: file, kernels, programs, language_features: needs } of others) {
  if (needs?.some((feature) => !gpu.wgslLanguageFeatures.has(feature))) continue;
  sets[name] = { kernels: [...own, ...(await compile(`${directory}/${file}`, kernels))], programs };
}
const figures = { kind: "plan", variant, context: plan.context, dispatches: plan.programs.decode.length };
figures.decode = {};
figures.kernels = {};
let reference;
for (const name of Object.keys(sets)) if (sets[name].programs.decode) await measureDecode(name);
if (fits("sampling")) figures.sampling_seconds = await measureSampling();
figures.prefill_seconds = {};
for (const name of Object.keys(sets)) {
  for (const program of Object.keys(sets[name].programs).filter((key) => key.startsWith("prefill_"))) {
    if (fits(`${program} of ${name}`)) await measurePrefill(name, program);
  }
}
report({ ...figures, left_out: left });
device.destroy();
process.exit(0);

/** There is time for more; else `part` is left out. */
function fits(part) {
  if (performance.now() < ends) return true;
  left.push(part);
  return false;
}

async function fillBuffers() {
  const compute = { module: device.createShaderModule({ code: FILL }), entryPoint: "fill" };
  const pipeline = device.createComputePipeline({ layout: "auto", compute });
  const file = `${directory}/constants.bin`;
  const constants = existsSync(file) ? readFileSync(file) : undefined;
  plan.buffers.forEach(({ kind, name, dtype, shape, bytes, offset }, i) => {
    if (kind === "constant") device.queue.writeBuffer(buffers[i], 0, constants.subarray(offset, offset + bytes));
    if (kind !== "weight") return;
    const words = bytes / 4;
    const what = dtype === "uint32" ? 0 : shape.length > 1 ? 1 : 2;
    // A scale stands for 32 columns; q - 7 has a deviation of 4.3, and a layer adds two products to the stream.
    const scale = Float32Array.of((shape.at(-1) * 32) ** -0.5 / 4.3 / (name.includes("lm_head") ? 1 : 2));
    const parameters = Uint32Array.of(words, what, (i + 1) * 0x9e3779b1, new Uint32Array(scale.buffer)[0]);
    const uniform = device.createBuffer({ size: 16, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(uniform, 0, parameters);
    const entries = [buffers[i], uniform].map((buffer, binding) => ({ binding, resource: { buffer } }));
    const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    encode(pass, [{ pipeline, group, grid: [Math.min(4096, Math.ceil(words / 256))] }]);
    pass.end();
    device.queue.submit([encoder.finish()]);
  });
  await device.queue.onSubmittedWorkDone();
}

async function compile(file, kernels) {
  const module = device.createShaderModule({ code: readFileSync(file, "utf8") });
  return Promise.all(
    kernels.map(async ({ entry, bindings }) => {
      const entries = bindings.map((access, binding) => ({
        binding,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type: access === "read" ? "read-only-storage" : "storage" },
      }));
      const group = device.createBindGroupLayout({ entries });
      const layout = device.createPipelineLayout({ bindGroupLayouts: [group] });
      const pipeline = await device.createComputePipelineAsync({ layout, compute: { module, entryPoint: entry } });
      return { entry, pipeline, layout: group };
    }),
  );
}

function stepsOf(name, program) {
  const { kernels, programs } = sets[name];
  return programs[program].map(({ kernel, bind, grid }) => {
    const { entry, pipeline, layout } = kernels[kernel];
    const entries = bind.map((i, binding) => ({ binding, resource: { buffer: buffers[i] } }));
    return { entry, pipeline, group: device.createBindGroup({ layout, entries }), grid, bind };
  });
}

function seek(position, token, length = 0) {
  device.queue.writeBuffer(state, 4 * WORDS.position, Uint32Array.of(position, token, length, 1));
}

function sampleWith({ temperature, topK, topP }) {
  const words = Float32Array.of(temperature, 0, topP, 0, 1, 0, 0); // then min_p, and penalties that do nothing
  new Uint32Array(words.buffer)[1] = topK;
  device.queue.writeBuffer(state, 4 * WORDS.temperature, words);
}

async function measureDecode(name) {
  sampleWith(SAMPLING.greedy);
  const steps = stepsOf(name, "decode");
  const contexts = CONTEXTS.filter((context) => context + 4 * AHEAD < plan.context);
  const found = (figures.decode[name] = { device_seconds: {}, wall_seconds: {}, encoding_seconds: {} });
  for (const context of contexts) {
    if (!fits(`decode of ${name} at ${context}`)) return;
    found.device_seconds[context] = await timer.median(steps, RUNS, 1, () => seek(context, 5));
    seek(context, 5);
    const submits = few ? 1 : 4;
    const started = performance.now();
    for (let submit = 0; submit < submits; submit++) {
      const encoder = device.createCommandEncoder();
      for (let step = 0; step < AHEAD; step++) {
        const pass = encoder.beginComputePass();
        encode(pass, steps);
        pass.end();
      }
      device.queue.submit([encoder.finish()]);
    }
    found.encoding_seconds[context] = (performance.now() - started) / 1e3 / (submits * AHEAD);
    await device.queue.onSubmittedWorkDone();
    found.wall_seconds[context] = (performance.now() - started) / 1e3 / (submits * AHEAD);
  }
  seek(3, 5);
  await timer.seconds(steps);
  const logits = new Float32Array(await readBuffer(device, buffers[at("logits")], 4 * plan.vocab_size));
  reference ??= logits;
  const largest = reference.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  found.largest_logit = largest;
  found.logits_off_by = logits.reduce((most, v, i) => Math.max(most, Math.abs(v - reference[i])), 0) / largest;
  if (!(largest > 0 && Number.isFinite(found.logits_off_by))) throw new Error(`${name} computes no logits`);
  if (fits(`kernels of ${name}`)) await measureKernels(name, steps, contexts.at(-1));
}

/** Each kernel's dispatches of a step, one after another in one pass, so that weights come from memory. */
async function measureKernels(name, steps, context) {
  const kinds = new Map();
  for (const step of steps) {
    const kind = `${step.entry} ${step.grid.join("x")}`;
    kinds.set(kind, [...(kinds.get(kind) ?? []), step]);
  }
  figures.kernels[name] = [];
  for (const [kind, same] of kinds) {
    const bytes = same
      .flatMap(({ bind }) => bind)
      .reduce((sum, i) => sum + (plan.buffers[i].kind === "weight" ? plan.buffers[i].bytes : 0), 0);
    const times = few ? 1 : Math.max(1, Math.floor(64 / same.length));
    const spent = await timer.median(same, Math.min(RUNS, 5), times, () => seek(context, 5));
    figures.kernels[name].push({ kernel: kind, dispatches: same.length, seconds: spent, weight_bytes: bytes });
  }
}

async function measureSampling() {
  const steps = stepsOf("own", "decode").slice(-3);
  const found = {};
  for (const [name, sampling] of Object.entries(SAMPLING)) {
    sampleWith(sampling);
    found[name] = await timer.median(steps, RUNS, 1, () => seek(9, 5));
  }
  sampleWith(SAMPLING.greedy);
  return found;
}

async function measurePrefill(name, program) {
  const size = Number(program.split("_")[1]);
  const ids = Uint32Array.from({ length: size }, (_, i) => (i * 7919 + 13) % plan.vocab_size);
  device.queue.writeBuffer(buffers[at("input_ids")], 0, ids);
  const found = await timer.median(stepsOf(name, program), Math.min(RUNS, 5), 1, () => seek(0, 0, size));
  (figures.prefill_seconds[name] ??= {})[size] = found;
}
