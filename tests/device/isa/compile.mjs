// Makes the pipelines of WGSL modules on Mesa's Radeon driver, which writes what each becomes to stderr.
// Usage: node compile.mjs MODULES.json, a list of { entry, code, bindings: ["read" | "read_write", ...] }.
// Between two lines `kernel ENTRY` and `end` stands what the driver says of one.
import { readFileSync, writeSync } from "node:fs";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
const STDERR = 2;
const say = (line) => writeSync(STDERR, `${line}\n`);
const gpu = create(["backend=vulkan", "adapter=RADV"]);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error("Dawn finds no Radeon adapter");
const requiredFeatures = ["subgroups"].filter((feature) => adapter.features.has(feature));
const device = await adapter.requestDevice({ requiredFeatures });
for (const { entry, code, bindings } of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  device.pushErrorScope("validation");
  const entries = bindings.map((access, binding) => ({
    binding,
    visibility: GPUShaderStage.COMPUTE,
    buffer: { type: access === "read" ? "read-only-storage" : "storage" },
  }));
  const layout = device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] });
  const module = device.createShaderModule({ code });
  say(`kernel ${entry}`);
  await device.createComputePipelineAsync({ layout, compute: { module, entryPoint: entry } });
  say("end");
  const error = await device.popErrorScope();
  if (error) throw new Error(`${entry}: ${error.message}`);
}
process.exit(0); // the device waits for work that nobody does
