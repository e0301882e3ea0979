// How programs become submits, on a device that only writes down what it is given.
import { beforeEach, describe, expect, test } from "vitest";
import type { ProgramHandle } from "../../../src/backend/backend";
import { WebGPUBackend } from "../../../src/backend/webgpu/backend";

/** Dispatches of each submit, as the numbers of their first workgroups; copies are "copy". */
let submits: (number | "copy")[][];

function fakeDevice(): GPUDevice {
  const encoder = () => {
    const done: (number | "copy")[] = [];
    const pass = {
      setPipeline: () => undefined,
      setBindGroup: () => undefined,
      dispatchWorkgroups: (x: number) => done.push(x),
      end: () => undefined,
    };
    return { beginComputePass: () => pass, copyBufferToBuffer: () => done.push("copy"), finish: () => done };
  };
  const buffer = () => ({
    mapAsync: () => Promise.resolve(),
    getMappedRange: () => new ArrayBuffer(4),
    unmap: () => undefined,
    destroy: () => undefined,
  });
  const device = {
    lost: new Promise(() => undefined),
    queue: { submit: (all: (number | "copy")[][]) => submits.push(...all), onSubmittedWorkDone: () => Promise.resolve() },
    pushErrorScope: () => undefined,
    popErrorScope: () => Promise.resolve(null),
    createBuffer: buffer,
    createShaderModule: () => ({ getCompilationInfo: () => Promise.resolve({ messages: [] }) }),
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createComputePipelineAsync: () => Promise.resolve({}),
    createBindGroup: () => ({}),
    createCommandEncoder: encoder,
  };
  return device as unknown as GPUDevice;
}

async function programOf(dispatches: number, mostDispatches?: number): Promise<{ backend: WebGPUBackend; program: ProgramHandle }> {
  const backend = new WebGPUBackend(fakeDevice(), mostDispatches);
  const [buffer = 0] = await backend.createBuffers([{ bytes: 4, label: "x" }]);
  await backend.compile("", [{ entry: "main", bindings: ["read_write"] }]);
  const recorded = Array.from({ length: dispatches }, (_, i) => ({ kernel: 0, buffers: [buffer], grid: [i + 1, 1, 1] as const }));
  return { backend, program: backend.record("program", recorded) };
}

const ALL = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const SLICE = [{ buffer: 0, offset: 0, bytes: 4 }];

beforeEach(() => {
  submits = [];
});

describe("a program", () => {
  test("and its readback are one submit", async () => {
    const { backend, program } = await programOf(10);
    backend.submit(program, 1);
    await backend.submitAndRead(program, 2, SLICE);
    expect(submits).toEqual([ALL, [...ALL, ...ALL, "copy"]]);
    expect(backend.counters).toMatchObject({ submits: 2, dispatches: 30, readbacks: 1 });
  });

  test.each([1, 2, 3, 4, 10, 13])("in %i parts is the same dispatches in the same order", async (of) => {
    const { backend, program } = await programOf(10);
    for (let index = 0; index < of; index++) backend.submit(program, 1, { index, of });
    expect(submits.flat()).toEqual(ALL);
    expect(submits).toHaveLength(of);
    submits = [];
    await backend.submitAndRead(program, 2, SLICE, of);
    expect(submits.flat()).toEqual([...ALL, ...ALL, "copy"]);
    expect(Math.max(...submits.map((submit) => submit.length))).toBeLessThanOrEqual(of === 1 ? 21 : Math.ceil(10 / of));
  });

  test("goes to a device that was lost before in small submits", async () => {
    const { backend, program } = await programOf(10, 4);
    backend.submit(program, 1);
    expect(submits).toEqual([
      [1, 2, 3, 4],
      [5, 6, 7, 8],
      [9, 10],
    ]);
    submits = [];
    await backend.submitAndRead(program, 3, SLICE);
    expect(submits.flat()).toEqual([...ALL, ...ALL, ...ALL, "copy"]);
    for (const submit of submits) expect(submit.filter((what) => what !== "copy").length).toBeLessThanOrEqual(4);
    expect(backend.counters.dispatches).toBe(40);
  });
});
