// The real supervisor, session and replay over devices that can be lost: only the device is a fake (support/toy-device.ts).
import { describe, expect, test, vi } from "vitest";
import type { Candidate } from "../../src/backend/negotiate";
import { ArtifactError, DeviceError, NetworkError } from "../../src/api/errors";
import { Supervisor, type SupervisorOptions, type Running } from "../../src/worker/supervisor";
import { allocate, Replay } from "../../src/runtime/replay";
import { GREEDY } from "../../src/runtime/sampling";
import { Session } from "../../src/runtime/session";
import { UNTUNED } from "../../src/runtime/tuning";
import { CONTEXT, PLAN, reference, ToyDevice } from "../support/toy-device";
import { inEightBits, variant } from "../support/variants";

const GPU: Candidate = { variant: variant("webgpu-f32"), obstacle: undefined };
const F16: Candidate = { variant: variant("webgpu-f16"), obstacle: "the device lacks f16" };
const CPU: Candidate = { variant: variant("wasm-simd", ["simd"], {}, "wasm"), obstacle: undefined };
const PROMPT = [5, 9, 2, 77, 31, 8];
const REFUSED = new DeviceError("no-adapter", { what: "The GPU refused a device", got: "OperationError" });

/** What each start of a variant does: the steps its device lasts, or the error it throws. */
type Script = Record<string, (number | Error)[]>;

async function world(candidates: Candidate[], script: Script, options: Partial<SupervisorOptions> = {}, capacities: number[] = []) {
  const started: string[] = [];
  const devices: ToyDevice[] = [];
  const events: string[] = [];
  let time = 0;
  const gentle: boolean[] = [];
  const start: SupervisorOptions["start"] = async (chosen, _signal, gently): Promise<Running> => {
    started.push(chosen.name);
    gentle.push(gently);
    const outcome = script[chosen.name]?.shift() ?? Infinity;
    if (typeof outcome !== "number") throw outcome;
    const backend = new ToyDevice();
    backend.lasts = outcome;
    devices.push(backend);
    const capacity = capacities[devices.length - 1] ?? CONTEXT;
    const runner = new Replay(backend, PLAN, await allocate(backend, PLAN, capacity), capacity);
    const adapter = { vendor: "", architecture: "", device: "", description: "", isFallback: false };
    return { variant: chosen, adapter, threads: 0, hints: [], notices: [], backend, runner, compileMs: 0, tuning: UNTUNED, tuneMs: 0 };
  };
  const supervisor = await Supervisor.start(
    {
      candidates,
      fixed: false,
      start,
      onRecovering: ({ kind }) => events.push(`recovering ${kind}`),
      onMoved: () => events.push("moved"),
      onLost: ({ kind }) => events.push(`lost ${kind}`),
      now: () => time,
      pauses: [0, 1, 1],
      ...options,
    },
    new AbortController().signal,
  );
  const session = new Session(supervisor.running.runner, (failed, error) => supervisor.replace(failed, error));
  const ask = async (count = 30, seed = 0) => {
    const seen: number[] = [];
    const { tokens } = await session.generate({
      ids: PROMPT,
      sampling: { ...GREEDY, temperature: seed === 0 ? 0 : 1, seed },
      maxTokens: count,
      stopTokenIds: new Set(),
      signal: new AbortController().signal,
      onToken: (token) => seen.push(token) < 0,
    });
    expect(seen).toEqual(tokens);
    return tokens;
  };
  return { supervisor, session, ask, started, gentle, devices, events, pass: (ms: number) => (time += ms) };
}

describe("at the start", () => {
  test("the first that starts runs, and each before it has its reason", async () => {
    const { supervisor, started, ask } = await world([F16, GPU, CPU], { "webgpu-f32": [REFUSED] });
    expect(started).toEqual(["webgpu-f32", "wasm-simd"]);
    expect(supervisor.running.variant.name).toBe("wasm-simd");
    expect(supervisor.skipped).toEqual([
      { variant: "webgpu-f16", reason: "the device lacks f16" },
      { variant: "webgpu-f32", reason: "The GPU refused a device (OperationError)" },
    ]);
    expect(await ask()).toEqual(reference(PROMPT, 30));
  });

  test.each([
    ["shader", "The kernels do not compile (1 errors)\n3:11: nonsense\n   code\n", "The kernels do not compile (1 errors) 3:11: nonsense"],
    ["out-of-memory", "The GPU has not enough memory for the model", "The GPU has not enough memory for the model"],
    ["device-lost", "The GPU device was lost", "The GPU device was lost"],
  ] as const)("%s leads to the next variant", async (kind, what, reason) => {
    const { supervisor } = await world([GPU, CPU], { "webgpu-f32": [new DeviceError(kind, { what })] });
    expect(supervisor.running.variant.name).toBe("wasm-simd");
    expect(supervisor.skipped).toEqual([{ variant: "webgpu-f32", reason }]);
  });

  test.each([new ArtifactError({ what: "damaged" }), new NetworkError({ what: "offline" })])(
    "$name is nobody's reason to try another",
    async (error) => {
      await expect(world([GPU, CPU], { "webgpu-f32": [error] })).rejects.toBe(error);
    },
  );

  test("no other variant of a GPU without memory is tried", async () => {
    const full = new DeviceError("out-of-memory", { what: "The GPU has not enough memory" });
    const other = { variant: variant("webgpu-f32-sg"), obstacle: undefined };
    const { supervisor, started } = await world([GPU, other, CPU], { "webgpu-f32": [full] });
    expect(started).toEqual(["webgpu-f32", "wasm-simd"]);
    expect(supervisor.skipped.map(({ reason }) => reason)).toEqual(["The GPU has not enough memory", "The GPU has not enough memory"]);
  });

  test("one that keeps keys and values in fewer bits is", async () => {
    const full = new DeviceError("out-of-memory", { what: "The GPU has not enough memory" });
    const other = { variant: variant("webgpu-f32-sg"), obstacle: undefined };
    const twin = { variant: inEightBits(GPU.variant), obstacle: undefined };
    const { supervisor, started } = await world([GPU, other, twin, CPU], { "webgpu-f32": [full] });
    expect(started).toEqual(["webgpu-f32", "webgpu-f32-q8"]);
    expect(supervisor.skipped.map(({ variant: name }) => name)).toEqual(["webgpu-f32", "webgpu-f32-sg"]);
  });

  test("a variant named by hand fails with its own error", async () => {
    await expect(world([GPU], { "webgpu-f32": [REFUSED] }, { fixed: true })).rejects.toBe(REFUSED);
  });

  test("a last resort is started when nothing else is, and is then no longer among what was passed over", async () => {
    const software: Candidate = { ...GPU, lastResort: "a software one" };
    const cpu = await world([F16, software, CPU], {});
    expect(cpu.started).toEqual(["wasm-simd"]);
    expect(cpu.supervisor.skipped).toEqual([
      { variant: "webgpu-f32", reason: "a software one" },
      { variant: "webgpu-f16", reason: "the device lacks f16" },
    ]);
    const full = new DeviceError("out-of-memory", { what: "The model needs more memory" });
    const gpu = await world([F16, software, CPU], { "wasm-simd": [full] });
    expect(gpu.started).toEqual(["wasm-simd", "webgpu-f32"]);
    expect(gpu.supervisor.skipped).toEqual([
      { variant: "webgpu-f16", reason: "the device lacks f16" },
      { variant: "wasm-simd", reason: "The model needs more memory" },
    ]);
  });

  test("one that was tried gives its error, several give every reason", async () => {
    await expect(world([F16, CPU], { "wasm-simd": [REFUSED] })).rejects.toBe(REFUSED);
    const full = new DeviceError("out-of-memory", { what: "The model needs more memory", got: "4 GiB", remedy: "Take less." });
    await expect(world([GPU, CPU], { "webgpu-f32": [REFUSED], "wasm-simd": [full] })).rejects.toMatchObject({
      kind: "out-of-memory",
      message:
        "No variant of the artifact could be started: got webgpu-f32: The GPU refused a device (OperationError); wasm-simd: The model needs more memory (4 GiB), expected one that starts. Take less.",
    });
  });
});

describe("a device that is lost", () => {
  test.each([0, 1, 7, 29])("after %i steps comes back, and the answer goes on", async (lasts) => {
    const { supervisor, ask, started, gentle, devices, events } = await world([GPU, CPU], { "webgpu-f32": [lasts] });
    expect(await ask(30, 5)).toEqual(reference(PROMPT, 30, 5));
    expect(started).toEqual(["webgpu-f32", "webgpu-f32"]);
    expect(gentle, "it may have been lost to a submit that took too long").toEqual([false, true]);
    expect(devices.map(({ disposed }) => disposed)).toEqual([true, false]);
    expect(events).toEqual(["recovering device-lost", "moved"]);
    expect(supervisor.skipped).toEqual([]);
    expect(supervisor.recoveries).toBe(1);
    expect(supervisor.counters.submits).toBe(devices.reduce((sum, { counters }) => sum + counters.submits, 0));
    expect(supervisor.counters.gpuBytes).toBe(1000);
  });

  test("twice within a minute gives way to the CPU, in the middle of the answer", async () => {
    const { supervisor, ask, started, events } = await world([F16, GPU, CPU], { "webgpu-f32": [9, 9] });
    expect(await ask(30, 5)).toEqual(reference(PROMPT, 30, 5));
    expect(started).toEqual(["webgpu-f32", "webgpu-f32", "wasm-simd"]);
    expect(events).toEqual(["recovering device-lost", "moved", "recovering device-lost", "moved"]);
    expect(supervisor.running.variant.name).toBe("wasm-simd");
    expect(supervisor.skipped[1]).toEqual({
      variant: "webgpu-f32",
      reason: "lost twice within a minute: The GPU device was lost (unknown): the driver was reset",
    });
    expect(await ask(10)).toEqual(reference(PROMPT, 10));
  });

  test("once in a while is taken again each time", async () => {
    const { supervisor, ask, started, devices, pass } = await world([GPU, CPU], {});
    for (const recoveries of [1, 2]) {
      devices.at(-1)?.lose();
      await vi.waitFor(() => expect(supervisor.recoveries).toBe(recoveries));
      expect(await ask(30)).toEqual(reference(PROMPT, 30));
      pass(60_001);
    }
    expect(started).toEqual(["webgpu-f32", "webgpu-f32", "webgpu-f32"]);
  });

  test("that needs a moment is asked for again, and given up after three times", async () => {
    const patient = await world([GPU, CPU], { "webgpu-f32": [9, REFUSED, REFUSED] });
    expect(await patient.ask()).toEqual(reference(PROMPT, 30));
    expect(patient.supervisor.running.variant.name).toBe("webgpu-f32");
    const { supervisor, ask, started } = await world([GPU, CPU], { "webgpu-f32": [9, REFUSED, REFUSED, REFUSED] });
    expect(await ask()).toEqual(reference(PROMPT, 30));
    expect(started.slice(1)).toEqual(["webgpu-f32", "webgpu-f32", "webgpu-f32", "wasm-simd"]);
    expect(supervisor.skipped[0]?.reason).toMatch(
      /the driver was reset; it could not be started again: The GPU refused a device \(OperationError\)/,
    );
  });

  test("while nothing is asked is replaced at once, and the next request finds the new one", async () => {
    const { ask, started, devices, events } = await world([GPU], {});
    await ask(10);
    devices[0]?.lose();
    await vi.waitFor(() => expect(events).toContain("moved"));
    expect(started).toEqual(["webgpu-f32", "webgpu-f32"]);
    expect(await ask(30)).toEqual(reference(PROMPT, 30));
    expect(await ask(30, 3)).toEqual(reference(PROMPT, 30, 3));
  });

  test.each([
    ["and has no variant of the CPU", [GPU], false, "webgpu-f32"],
    ["and was named by hand", [GPU, CPU], true, "webgpu-f32"],
    ["and is the CPU", [F16, CPU], false, "wasm-simd"],
  ])("twice within a minute %s is lost for good", async (_, candidates, fixed, name) => {
    const { supervisor, ask, events, started } = await world(candidates, { [name]: [9, 9] }, { fixed });
    await expect(ask()).rejects.toMatchObject({ kind: "device-lost" });
    expect(started).toEqual([name, name]);
    expect(events).toEqual(["recovering device-lost", "moved", "recovering device-lost", "lost device-lost"]);
    await expect(ask()).rejects.toMatchObject({ kind: "device-lost" });
    expect(supervisor.recoveries).toBe(1);
  });

  test("and cannot be replaced for another reason says so", async () => {
    const { ask, events } = await world([GPU], { "webgpu-f32": [9, new NetworkError({ what: "the download failed 3 times" })] });
    await expect(ask()).rejects.toThrow(/the driver was reset: got no way to go on: the download failed 3 times/);
    expect(events.at(-1)).toBe("lost device-lost");
  });

  test("is not replaced when it was disposed of meanwhile", async () => {
    const { supervisor, ask, devices, events } = await world([GPU], { "webgpu-f32": [9] }, { onRecovering: () => supervisor.dispose() });
    await expect(ask()).rejects.toThrow();
    expect(devices.every(({ disposed }) => disposed)).toBe(true);
    expect(events).toEqual([]);
  });

  test("and replaced by one with memory for fewer tokens ends the answer there, and refuses what is longer", async () => {
    const { session, ask } = await world([GPU], { "webgpu-f32": [20, Infinity] }, {}, [CONTEXT, 16]);
    const answer = await ask(40);
    expect(answer.length).toBeGreaterThanOrEqual(16 - PROMPT.length);
    expect(answer).toEqual(reference(PROMPT, answer.length));
    expect(answer.length).toBeLessThan(40);
    expect((await ask(40)).length).toBe(16 - PROMPT.length + 1);
    await expect(session.logits(new Array(17).fill(1) as number[])).rejects.toMatchObject({ kind: "context-overflow" });
  });

  test("is not looked for in an error of the receiver's", async () => {
    const { session, started } = await world([GPU], {});
    const onToken = () => {
      throw new TypeError("a bug");
    };
    const request = {
      ids: PROMPT,
      sampling: GREEDY,
      maxTokens: 5,
      stopTokenIds: new Set<number>(),
      signal: new AbortController().signal,
      onToken,
    };
    await expect(session.generate(request)).rejects.toThrow("a bug");
    expect(started).toEqual(["webgpu-f32"]);
  });
});
