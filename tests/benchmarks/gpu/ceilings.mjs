// What a GPU can do at most: bytes read and copied, what a dispatch costs, multiply-adds. Usage: node ceilings.mjs TINY
import { openDevice, report, STORAGE } from "./device.mjs";

const tiny = process.argv[2] === "tiny";
const BYTES = tiny ? 1 << 22 : 1 << 27; // of a buffer: a binding's most
const BUFFERS = tiny ? 1 : 8;
const TURNS = tiny ? 64 : 4096;
const RUNS = tiny ? 1 : 9;
const DISPATCHES = 197; // of a step of Phi-3-mini
const THREADS = 256;
const WORKGROUPS = tiny ? 16 : 4096;

const READ = `
@group(0) @binding(0) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(${THREADS}) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var sum = vec4<u32>();
  for (var i = 0u; i < ${BYTES / 16 / WORKGROUPS / THREADS}u; i++) { sum += a[i * ${WORKGROUPS * THREADS}u + id.x]; }
  if (dot(sum, vec4<u32>(1u)) == 0x5eed5eedu) { out[0] = sum.x; } // never: a sum that nobody needs is not made
}`;
const COPY = `
@group(0) @binding(0) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<u32>>;
@compute @workgroup_size(${THREADS}) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  for (var i = 0u; i < ${BYTES / 16 / WORKGROUPS / THREADS}u; i++) {
    out[i * ${WORKGROUPS * THREADS}u + id.x] = a[i * ${WORKGROUPS * THREADS}u + id.x];
  }
}`;
const EMPTY = `
@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) { out[i] += 1u; }`;
/** Eight chains, so that latency does not count. */
const multiplyAdds = (type, zero, step, enable = "") => `${enable}
@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(${THREADS}) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var x: array<${type}, 8>;
  for (var j = 0; j < 8; j++) { x[j] = ${zero}; }
  for (var i = 0; i < ${TURNS}; i++) {
    ${Array.from({ length: 8 }, (_, j) => `x[${j}] = ${step(`x[${j}]`)};`).join("\n    ")}
  }
  var sum = x[0] + x[1] + x[2] + x[3] + x[4] + x[5] + x[6] + x[7];
  if (u32(sum${type.startsWith("vec") ? ".x" : ""}) == 0x5eedu) { out[0] = 1u; }
}`;

const f16 = await supports("shader-f16");
const { gpu, device, about, timer } = await openDevice(f16 ? ["shader-f16"] : []);
const buffers = Array.from({ length: BUFFERS + 1 }, () => device.createBuffer({ size: BYTES, usage: STORAGE }));
const figures = { kind: "ceilings", adapter: about };

async function supports(feature) {
  const opened = await openDevice([]);
  const found = opened.adapter.features.has(feature);
  opened.device.destroy();
  return found;
}

function kernel(code, groups, grid) {
  const compute = { module: device.createShaderModule({ code }), entryPoint: "main" };
  const pipeline = device.createComputePipeline({ layout: "auto", compute });
  return groups.map((bound) => ({
    pipeline,
    group: device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: bound.map((buffer, binding) => ({ binding, resource: { buffer } })),
    }),
    grid: [grid],
  }));
}

const out = buffers.at(-1);
const sources = buffers.slice(0, BUFFERS);
const read = await timer.median(kernel(READ, sources.map((a) => [a, out]), WORKGROUPS), RUNS);
figures.read_bytes_per_second = (BYTES * BUFFERS) / read;
const copied = await timer.median(kernel(COPY, sources.map((a) => [a, out]), WORKGROUPS), RUNS);
figures.copy_bytes_per_second = (2 * BYTES * BUFFERS) / copied;
const empty = await timer.median(kernel(EMPTY, [[out]], 1), RUNS, DISPATCHES);
figures.dispatch_seconds = empty;
const rates = {
  f32: ["vec4<f32>", "vec4<f32>(f32(id.x & 3u) + f32(j))", (x) => `fma(${x}, vec4<f32>(0.5), vec4<f32>(0.25))`, 4],
  ...(f16 && {
    f16: ["vec4<f16>", "vec4<f16>(f16(id.x & 3u) + f16(j))", (x) => `fma(${x}, vec4<f16>(0.5), vec4<f16>(0.25))`, 4],
  }),
  dot4: ["i32", "i32(id.x) + j", (x) => `${x} + dot4I8Packed(u32(${x}), 0x01020304u)`, 4],
};
for (const [name, [type, zero, step, width]] of Object.entries(rates)) {
  const code = multiplyAdds(type, zero, step, name === "f16" ? "enable f16;" : "");
  const seconds = await timer.median(kernel(code, [[out]], WORKGROUPS), RUNS);
  figures[`${name}_multiply_adds_per_second`] = (WORKGROUPS * THREADS * TURNS * 8 * width) / seconds;
}
report(figures);
device.destroy();
process.exit(gpu ? 0 : 1); // Dawn lives as long as the object that made it
