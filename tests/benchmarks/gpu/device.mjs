// A WebGPU device from Dawn in Node, and what times it. Knows nothing of plans.
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);

/** Opens the adapter whose name contains $WISP_ADAPTER, or the first one; $WISP_DAWN are toggles to enable. */
export async function openDevice(features) {
  const flags = ["backend=vulkan", "disable-dawn-features=timestamp_quantization"];
  if (process.env.WISP_ADAPTER) flags.push(`adapter=${process.env.WISP_ADAPTER}`);
  if (process.env.WISP_DAWN) flags.push(`enable-dawn-features=${process.env.WISP_DAWN}`);
  const gpu = create(flags);
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new Error("Dawn finds no Vulkan adapter");
  const lacking = features.filter((feature) => !adapter.features.has(feature));
  if (lacking.length > 0) throw new Error(`the adapter lacks ${lacking.join(", ")}`);
  const timestamps = adapter.features.has("timestamp-query");
  const device = await adapter.requestDevice({
    requiredFeatures: [...features, ...(timestamps ? ["timestamp-query"] : [])],
    requiredLimits: { maxBufferSize: adapter.limits.maxBufferSize },
  });
  device.onuncapturederror = ({ error }) => {
    console.error(error.message.slice(0, 2000));
    process.exit(1);
  };
  const { vendor, architecture, device: name, description } = adapter.info;
  const about = { vendor, architecture, name, description, timestamps };
  return { gpu, adapter, device, about, timer: new Timer(device, timestamps) };
}

export const STORAGE = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;

/** Device seconds of dispatches, by timestamps around one pass; where there are none, by the clock. */
class Timer {
  constructor(device, timestamps) {
    this.device = device;
    this.set = timestamps ? device.createQuerySet({ type: "timestamp", count: 2 }) : undefined;
    this.resolved = device.createBuffer({ size: 16, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
  }

  /** `steps` are { pipeline, group, grid }, run `times` times over. */
  async seconds(steps, times = 1) {
    const encoder = this.device.createCommandEncoder();
    const pass = encoder.beginComputePass(
      this.set && {
        timestampWrites: { querySet: this.set, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 },
      },
    );
    encode(pass, steps, times);
    pass.end();
    if (this.set) encoder.resolveQuerySet(this.set, 0, 2, this.resolved, 0);
    const commands = encoder.finish();
    const started = performance.now();
    this.device.queue.submit([commands]);
    await this.device.queue.onSubmittedWorkDone();
    if (!this.set) return (performance.now() - started) / 1e3;
    const [from, to] = new BigUint64Array(await readBuffer(this.device, this.resolved, 16));
    return Number(to - from) / 1e9;
  }

  /** The median of `runs` after one that is not counted; `before` is called ahead of each. */
  async median(steps, runs, times = 1, before = () => {}) {
    const found = [];
    for (let run = 0; run <= runs; run++) {
      before();
      const seconds = await this.seconds(steps, times);
      if (run > 0) found.push(seconds / times);
    }
    return found.toSorted((a, b) => a - b)[found.length >> 1];
  }
}

export function encode(pass, steps, times = 1) {
  for (let n = 0; n < times; n++)
    for (const { pipeline, group, grid } of steps) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...grid);
    }
}

export async function readBuffer(device, buffer, bytes) {
  const staging = device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, bytes);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const content = staging.getMappedRange().slice(0);
  staging.destroy();
  return content;
}

/** What the caller reads, a line of JSON each. */
export const report = (figure) => console.log(JSON.stringify(figure));
