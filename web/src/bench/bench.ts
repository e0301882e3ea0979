// What `wisp bench` measures beside the engine: what the device can do at most, and each kernel's time by timestamps.
//
// Built as a module of its own (vite.bench.config.ts) that no page loads. Buffers, pipelines and submits are the engine's own
// (backend/webgpu/): what is timed is what it runs.

export { type DeviceFigures, type DeviceSources, measureDevice } from "./device";
export { measurePasses, type PassFigures } from "./passes";
export { measureKernels, measureSteps, type TimedProgram } from "./programs";
