// What a device makes of the artifact's smoke test, and what becomes of one that is wrong: the real supervisor, session and replay
// over a device that lies about its logits (support/toy-device.ts).
import { describe, expect, test } from "vitest";
import type { Smoke } from "../../src/artifact/schema";
import type { Candidate } from "../../src/backend/negotiate";
import { Supervisor, type Running } from "../../src/worker/supervisor";
import { allocate, Replay } from "../../src/runtime/replay";
import { Session } from "../../src/runtime/session";
import { difference, smokeTest } from "../../src/runtime/smoke";
import { UNTUNED } from "../../src/runtime/tuning";
import { CONTEXT, PLAN, referenceLogits, ToyDevice, VOCAB } from "../support/toy-device";
import { variant } from "../support/variants";

const IDS = [12, 37, 63, 88];
const WANT = referenceLogits(IDS);
const ranked = [...WANT.keys()].toSorted((a, b) => (WANT[b] ?? 0) - (WANT[a] ?? 0));
const pairs = (ids: readonly number[]) => ids.map((id): [number, number] => [id, WANT[id] ?? NaN]);
const SMOKE: Smoke = {
  ids: IDS,
  top: pairs(ranked.slice(0, 4)),
  others: pairs([ranked[20] ?? 0, ranked[60] ?? 0, ranked[100] ?? 0]),
  scale: 100,
  tolerance: 0.05,
};

type Lie = (logits: Float32Array) => void;
const LIES: [string, Lie, RegExp][] = [
  ["NaN", (logits) => logits.fill(NaN), /NaN for token 0/],
  ["one infinity", (logits) => logits.fill(Infinity, 50, 51), /Infinity for token 50/],
  ["zeros", (logits) => logits.fill(0), /0\.00 for token \d+ after a short prompt, where -\d+\.?\d* is right/],
  ["those of other ids", (logits) => logits.set(referenceLogits([1, 2, 3])), /where .* is right/],
  ["logits of the next token", (logits) => logits.set([...logits.slice(-30), ...logits.slice(0, -30)]), /where .* is right/],
  ["another token on top", (logits) => logits.fill(50, ranked[40], (ranked[40] ?? 0) + 1), /50\.0 for token \d+ .* at most 2\.00 is right/],
];

async function runnerOf(lie?: Lie, capacity = CONTEXT): Promise<{ device: ToyDevice; runner: Replay }> {
  const device = new ToyDevice();
  device.lie = lie;
  return { device, runner: new Replay(device, PLAN, await allocate(device, PLAN, CONTEXT), capacity) };
}

describe("a device that computes", () => {
  test("what the artifact says is taken, and the session on it is as new", async () => {
    const { device, runner } = await runnerOf();
    await smokeTest(runner, SMOKE);
    expect(device.counters.submits).toBeGreaterThan(1); // a chunk of the prompt, perhaps in parts, and a step
    const session = new Session(runner);
    expect([...(await session.logits([5, 9, 2]))]).toEqual([...referenceLogits([5, 9, 2])]);
    expect(session.counters).toMatchObject({ requests: 1, promptTokens: 3, decodeSteps: 1, tokens: 0 });
  });

  test("nearly the same is taken", async () => {
    const { runner } = await runnerOf((logits) => logits.set(logits.map((logit, id) => logit + (id % 2 === 0 ? 4.9 : -4.9))));
    await smokeTest(runner, SMOKE);
  });

  test.each(LIES)("%s is refused", async (_, lie, reason) => {
    const { runner } = await runnerOf(lie);
    await expect(smokeTest(runner, SMOKE)).rejects.toMatchObject({
      name: "DeviceError",
      kind: "wrong-results",
      got: expect.stringMatching(reason) as string,
    });
  });

  test("in too little memory for the prompt is not asked", async () => {
    const { device, runner } = await runnerOf((logits) => logits.fill(NaN), IDS.length - 1);
    await smokeTest(runner, SMOKE);
    expect(device.counters.submits).toBe(0);
  });
});

test("the tolerance is a part of the largest logit, and its end is still right", () => {
  const moved = (by: number) =>
    difference(
      WANT.map((logit, id) => (id === ranked[0] ? logit - by : logit)),
      SMOKE,
    );
  expect(moved(5)).toBeUndefined();
  expect(moved(5.01)).toMatch(/-5\.01 for token \d+ after a short prompt, where 0\.00 is right/);
  expect(difference(new Float32Array(VOCAB - 1), SMOKE)).toBeDefined();
});

describe("a variant that computes something else", () => {
  const GPU: Candidate = { variant: variant("webgpu-f16"), obstacle: undefined };
  const CPU: Candidate = { variant: variant("wasm-simd", ["simd"], {}, "wasm"), obstacle: undefined };
  /** The lies of each variant's devices, one start after another; then none. */
  async function world(lies: Record<string, (Lie | undefined)[]>, fixed = false) {
    const devices: ToyDevice[] = [];
    const start = async (chosen: Candidate["variant"]): Promise<Running> => {
      const { device, runner } = await runnerOf(lies[chosen.name]?.shift());
      devices.push(device);
      await smokeTest(runner, SMOKE).catch((error: unknown) => {
        device.dispose();
        throw error;
      });
      const adapter = { vendor: "", architecture: "", device: "", description: "", isFallback: false };
      return {
        variant: chosen,
        adapter,
        threads: 0,
        hints: [],
        notices: [],
        backend: device,
        runner,
        compileMs: 0,
        tuning: UNTUNED,
        tuneMs: 0,
      };
    };
    const supervisor = await Supervisor.start({ candidates: [GPU, CPU], fixed, start, pauses: [0] }, new AbortController().signal);
    return { supervisor, devices };
  }

  test("gives way to the next one, with the reason", async () => {
    const { supervisor, devices } = await world({ "webgpu-f16": [(logits) => logits.fill(NaN)] });
    expect(supervisor.running.variant.name).toBe("wasm-simd");
    expect(supervisor.skipped).toEqual([
      { variant: "webgpu-f16", reason: "The device computes other logits than the artifact says (NaN for token 0 after a short prompt)" },
    ]);
    expect(devices.map(({ disposed }) => disposed)).toEqual([true, false]);
  });

  test("and was asked for by name is an error", async () => {
    await expect(world({ "webgpu-f16": [(logits) => logits.fill(0)] }, true)).rejects.toMatchObject({ kind: "wrong-results" });
  });

  test("after it was lost is not taken again", async () => {
    const { supervisor, devices } = await world({ "webgpu-f16": [undefined, (logits) => logits.fill(NaN)] });
    expect(supervisor.running.variant.name).toBe("webgpu-f16");
    const session = new Session(supervisor.running.runner, (failed, error) => supervisor.replace(failed, error));
    devices[0]?.lose();
    expect([...(await session.logits(IDS))]).toEqual([...WANT]);
    expect(supervisor.running.variant.name).toBe("wasm-simd");
    expect(supervisor.skipped[0]?.reason).toMatch(/the driver was reset; it could not be started again: The device computes other logits/);
  });
});
