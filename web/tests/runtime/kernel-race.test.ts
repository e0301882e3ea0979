// Which of a program's kernels are taken from which alternative, by times that the test makes up.
import { describe, expect, test } from "vitest";
import { chosen, compose, fits } from "../../src/artifact/choice";
import type { Alternative, Dispatch, Plan } from "../../src/artifact/schema";
import { type RaceRules, raceKernels, type RaceVerdict } from "../../src/runtime/kernel-race";
import { lineUp } from "../../src/runtime/lineup";
import { presumed } from "../../src/runtime/tuning";

// Kernels 0 and 1 are the plan's own in two layers, 2 is everybody's; alternatives' follow.
const [QKV, DOWN, HEAD, NARROW_QKV, NARROW_DOWN, LANES_QKV, QUANTIZE, PACKED_QKV] = [0, 1, 2, 3, 4, 5, 6, 7];
const list = (...kernels: number[]): Dispatch[] => kernels.map((kernel, i) => ({ kernel, bind: [i], grid: [1, 1, 1] }));
const OWN = list(QKV, DOWN, QKV, DOWN, HEAD);
const NARROW = list(NARROW_QKV, NARROW_DOWN, NARROW_QKV, NARROW_DOWN, HEAD);
const LANES = list(LANES_QKV, DOWN, LANES_QKV, DOWN, HEAD);
const PACKED = list(QUANTIZE, PACKED_QKV, DOWN, QUANTIZE, PACKED_QKV, DOWN, HEAD);

async function race(
  ms: Record<number, number>,
  others: Record<string, Dispatch[]>,
  { most = Infinity, budget = Infinity, jitterMs = 0 } = {},
): Promise<RaceVerdict | undefined> {
  const line = lineUp(OWN, new Map(Object.entries(others)), most);
  let spent = 0;
  const run = new Map(
    [...line.parts].map(([kernel, { dispatches }]) => [
      kernel,
      (times: number) => {
        spent += (ms[kernel] ?? NaN) * dispatches.length * times;
        return Promise.resolve();
      },
    ]),
  );
  const rules: RaceRules = {
    timed: async (part, times) => {
      const before = spent;
      await part(times);
      return (spent - before) / times;
    },
    hasTime: () => spent < budget,
    sampleMs: 6,
    jitterMs,
    mostRepeats: 64,
    rounds: { least: 2, most: 3 },
    gain: 0.97,
    exact: 0.03,
  };
  return raceKernels({ ...line, run, prepare: () => undefined, entry: (kernel) => ["qkv", "down", "head"][kernel] ?? "" }, rules);
}

describe("a program whose alternatives bind the same buffers", () => {
  test("gets each of its kernels from the fastest", async () => {
    const found = await race({ [QKV]: 3, [DOWN]: 2, [NARROW_QKV]: 2, [NARROW_DOWN]: 5, [LANES_QKV]: 1 }, { narrow: NARROW, lanes: LANES });
    expect(found?.choice).toEqual({ qkv: "lanes" });
    expect(found?.milliseconds).toEqual({ qkv: { own: 6, lanes: 2, narrow: 4 }, down: { own: 4, narrow: 10 } });
    expect(found?.unsure).toBe(false);
  });

  test("takes one of each where each is the fastest somewhere", async () => {
    const times = { [QKV]: 3, [DOWN]: 2, [NARROW_QKV]: 2, [NARROW_DOWN]: 1, [LANES_QKV]: 1 };
    expect((await race(times, { narrow: NARROW, lanes: LANES }))?.choice).toEqual({ qkv: "lanes", down: "narrow" });
  });

  test("is timed by the dispatches of one layer where a chunk is long", async () => {
    const line = lineUp(OWN, new Map([["narrow", NARROW]]), 1);
    expect([...line.parts.values()].map(({ count, dispatches }) => [count, dispatches.length])).toEqual([
      [2, 1],
      [2, 1],
      [2, 1],
      [2, 1],
    ]);
    const found = await race({ [QKV]: 3, [DOWN]: 2, [NARROW_QKV]: 2, [NARROW_DOWN]: 5 }, { narrow: NARROW }, { most: 1 });
    expect(found?.milliseconds["qkv"]).toEqual({ own: 6, narrow: 4 });
  });
});

describe("an alternative of other dispatches", () => {
  const cheap = { [QKV]: 3, [NARROW_QKV]: 2, [NARROW_DOWN]: 5, [DOWN]: 2, [QUANTIZE]: 0.2 };
  test.each([
    [{ [PACKED_QKV]: 1 }, { "": "packed" }],
    [{ [PACKED_QKV]: 1.9 }, { qkv: "narrow" }],
  ])("is taken as a whole where it beats the best of all kernels: %j", async (more, choice) => {
    const found = await race({ ...cheap, ...more }, { narrow: NARROW, packed: PACKED });
    expect(found?.choice).toEqual(choice);
    expect(Object.keys(found?.milliseconds[""] ?? {})).toEqual(["own", "packed"]);
  });
});

test("what there was no time for says nothing", async () => {
  expect(await race({ [QKV]: 3, [LANES_QKV]: 1 }, { lanes: LANES }, { budget: 20 })).toBeUndefined();
});

test("a difference below the clock's own is not one", async () => {
  const found = await race({ [QKV]: 3, [LANES_QKV]: 2.5 }, { lanes: LANES }, { jitterMs: 5 });
  expect(found).toMatchObject({ choice: {}, unsure: true });
});

describe("a choice by kernels", () => {
  const kernel = (entry: string) => ({ entry, bindings: [] });
  const alternative = (name: string, entries: string[], decode: Dispatch[], preferredOn: string[] = []): Alternative => ({
    name,
    kernelsFile: `${name}.wgsl`,
    languageFeatures: [],
    preferredOn,
    tolerance: 1e-3,
    kernels: entries.map(kernel),
    programs: new Map([["decode", decode]]),
  });
  const alternatives = [
    alternative("narrow", ["qkv_narrow", "down_narrow"], NARROW),
    alternative("lanes", ["qkv_lanes"], list(3, DOWN, 3, DOWN, HEAD)),
    alternative("packed", ["quantize", "qkv_packed"], list(3, 4, DOWN, 3, 4, DOWN, HEAD), ["nvidia"]),
  ];
  const plan = { kernels: ["qkv", "down", "head"].map(kernel), decode: OWN, prefill: new Map(), alternatives } as Partial<Plan> as Plan;
  const choice = { "decode/qkv": "lanes", "decode/down": "narrow" };

  test("runs the kernels that it names, wherever they are numbered", () => {
    const firsts = new Map([
      ["narrow", 3],
      ["lanes", 5],
    ]);
    expect(chosen(plan, choice, firsts).decode.map((dispatch) => dispatch.kernel)).toEqual([5, 4, 5, 4, HEAD]);
    const { plan: composed, modules } = compose(plan, "own.wgsl", choice);
    expect(modules.map(({ file }) => file)).toEqual(["own.wgsl", "narrow.wgsl", "lanes.wgsl"]);
    expect(composed.decode.map((dispatch) => composed.kernels[dispatch.kernel]?.entry)).toEqual([
      "qkv_lanes",
      "down_narrow",
      "qkv_lanes",
      "down_narrow",
      "head",
    ]);
  });

  test.each([
    [choice, true],
    [{ decode: "packed" }, true],
    [{ "decode/qkv": "packed" }, false],
    [{ "decode/other": "lanes" }, false],
    [{ "decode/qkv/qkv": "lanes" }, false],
    [{ prefill_16: "lanes" }, false],
    [{ decode: 4 } as unknown as Record<string, string>, false],
  ])("is one of the plan or is not: %j %s", (of, expected) => {
    expect(fits(plan, of)).toBe(expected);
  });

  test("is what is known of a vendor's GPUs where nothing was measured", () => {
    expect(presumed(alternatives, "nvidia", new Set())).toEqual({ decode: "packed" });
    expect(presumed(alternatives, "nvidia", new Set(["decode/qkv"]))).toEqual({});
    expect(presumed(alternatives, "apple", new Set())).toEqual({});
    expect(presumed(alternatives, "", new Set())).toEqual({});
  });
});
