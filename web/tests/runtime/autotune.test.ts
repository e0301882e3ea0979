// The rules by which an alternative wins, with a clock that fakes advance.
import { describe, expect, test } from "vitest";
import { autotune, type Contender } from "../../src/runtime/autotune";
import type { Clock } from "../../src/runtime/clock";
import type { PlanRunner } from "../../src/runtime/replay";

const VOCAB = 50;
let clock = 0;
/** Answers come at multiples of this. */
let timer = 0;
const time: Clock = {
  now: () => clock,
  sleep: (milliseconds) => {
    clock += milliseconds;
    return Promise.resolve();
  },
};
const answered = () => {
  if (timer > 0) clock = Math.ceil(clock / timer + 1e-9) * timer;
  return Promise.resolve();
};

/** What runners of a plan share: KV rows, and the logits of the last step. */
class Device {
  rows: number[] = [];
  logits = new Float32Array(VOCAB);
}

/** What a runner has of a plan without a mask. */
const WITHOUT_MASK = {
  masks: false,
  forward: () => undefined,
  writeMask: () => undefined,
  writeBias: () => undefined,
  sample: () => Promise.reject(new Error("no mask")),
  verifyRows: 0,
  verify: () => Promise.reject(new Error("no drafts")),
};

interface Behaviour {
  decodeMs?: number;
  /** Of a token. */
  prefillMs?: number;
  error?: number;
  writesRows?: boolean;
}

function runner(
  device: Device,
  { decodeMs = 1, prefillMs = 0.1, error = 0, writesRows = true }: Behaviour = {},
  capacity = 300,
): PlanRunner & { calls: number } {
  let token = 0;
  return {
    calls: 0,
    vocabSize: VOCAB,
    capacity,
    ringSize: 16,
    prefillChunks: [64, 16],
    padding: true,
    overlaps: true,
    makeRoom: () => undefined,
    rowBytes: 4,
    save: () => Promise.resolve(undefined),
    ...WITHOUT_MASK,
    writeSampling: () => undefined,
    writeCounts: () => undefined,
    writeCount: () => undefined,
    seek: (_, id) => (token = id),
    prefill(_, position, ids) {
      this.calls += 1;
      clock += prefillMs * ids.length;
      if (writesRows) ids.forEach((id, i) => (device.rows[position + i] = id));
    },
    decode(steps, position) {
      this.calls += 1;
      clock += decodeMs * steps;
      if (writesRows) device.rows[position] = token;
      const sum = device.rows.slice(0, position + 1).reduce((total, id, i) => (total * 31 + id + i) % 1009, 0);
      device.logits = device.logits.map((__, i) => Math.sin(sum + i) + error);
      return answered().then(() => new Uint32Array(steps));
    },
    embeds: false,
    output: () => Promise.resolve(device.logits.slice()),
    idle: answered,
    roundTrip: answered,
  };
}

function contender(name: string, device: Device, behaviour: Behaviour, programs: readonly string[]): Contender {
  return { name, tolerance: 1e-3, programs: new Set(programs), runner: runner(device, behaviour) };
}

async function run(own: Behaviour, others: Record<string, [Behaviour, string[]]>, budgetMs = 1000, capacity = 300) {
  clock = 0;
  const device = new Device();
  const contenders = Object.entries(others).map(([name, [behaviour, programs]]) => contender(name, device, behaviour, programs));
  const verdict = await autotune(runner(device, own, capacity), contenders, {
    budgetMs,
    signal: new AbortController().signal,
    clock: time,
  });
  return { ...verdict, took: clock };
}

describe("an alternative", () => {
  test("wins each program by itself", async () => {
    const { choice, milliseconds, rejected } = await run(
      {},
      {
        a: [{ decodeMs: 0.5, prefillMs: 0.2 }, ["decode", "prefill_16", "prefill_64"]],
        b: [{ decodeMs: 2, prefillMs: 0.05 }, ["decode", "prefill_64"]],
      },
    );
    expect(choice).toEqual({ decode: "a", prefill_64: "b" });
    expect(rejected).toEqual([]);
    expect(Object.keys(milliseconds)).toEqual(["decode", "prefill_64", "prefill_16"]);
    expect(milliseconds["decode"]).toMatchObject({ own: 1, a: 0.5, b: 2 });
  });

  test("that is hardly faster does not win", async () => {
    expect((await run({}, { a: [{ decodeMs: 0.98 }, ["decode"]] })).choice).toEqual({});
  });

  test.each([{ error: 0.01 }, { error: NaN }, { writesRows: false }])("that computes something else loses: %j", async (fault) => {
    const { choice, rejected } = await run(
      {},
      {
        wrong: [{ decodeMs: 0.1, prefillMs: 0.01, ...fault }, ["decode", "prefill_16"]],
        right: [{ decodeMs: 0.9 }, ["decode"]],
      },
    );
    expect(choice).toEqual({ decode: "right" });
    expect(rejected).toMatchObject([{ alternative: "wrong" }]);
  });

  test("whose prefill writes no rows loses", async () => {
    const { choice, rejected } = await run({}, { wrong: [{ prefillMs: 0.01, writesRows: false }, ["prefill_64"]] });
    expect(choice).toEqual({});
    expect(rejected[0]?.reason).toMatch(/^prefill_64: its logits are off/);
  });

  test("is not taken for one program when it is wrong in another", async () => {
    const device = new Device();
    const right = runner(device, { decodeMs: 0.1 });
    const wrong = runner(device, { writesRows: false });
    const mixed: PlanRunner = { ...right, decode: right.decode.bind(right), prefill: wrong.prefill.bind(wrong) };
    clock = 0;
    const contenders = [{ name: "mixed", tolerance: 1e-3, programs: new Set(["decode", "prefill_16"]), runner: mixed }];
    const { choice } = await autotune(runner(device), contenders, { budgetMs: 1000, signal: new AbortController().signal, clock: time });
    expect(choice).toEqual({});
  });

  test("wins nothing from logits that say nothing", async () => {
    expect((await run({ error: NaN }, { a: [{ decodeMs: 0.1, error: NaN }, ["decode"]] })).choice).toEqual({});
  });
});

describe("the budget", () => {
  const three: [Behaviour, string[]] = [{ decodeMs: 0.8, prefillMs: 0.08 }, ["decode", "prefill_16", "prefill_64"]];
  test.each([100, 500, 2000])("of %i ms is hardly exceeded", async (budgetMs) => {
    const { took, choice } = await run({}, { a: three, b: three }, budgetMs);
    expect(took).toBeLessThan(1.3 * budgetMs);
    expect(choice).toMatchObject({ decode: "a" });
  });

  test("is kept on a device that is too slow to be measured", async () => {
    const { took, choice } = await run({ decodeMs: 200, prefillMs: 150 }, { a: [{ decodeMs: 100, prefillMs: 70 }, three[1]] }, 500);
    expect(choice).toEqual({});
    expect(took).toBeLessThan(1000);
  });

  test("that is too small for a chunk of full length concludes nothing from shorter ones", async () => {
    const { choice, took, unmeasured } = await run({ prefillMs: 1 }, { a: [{ prefillMs: 0.5 }, ["prefill_64"]] }, 300);
    expect(choice).toEqual({});
    expect(unmeasured).toEqual(["prefill_64"]);
    expect(took).toBeLessThan(400);
  });
});

describe("a device whose answers come every 100 ms", () => {
  const programs = ["decode", "prefill_16", "prefill_64"];
  const late = async (budgetMs: number, mine: Behaviour, other: Behaviour) => {
    timer = 100;
    try {
      return await run(mine, { a: [other, programs] }, budgetMs);
    } finally {
      timer = 0;
    }
  };

  test("is not judged by what the timer says", async () => {
    for (const [mine, other] of [
      [1, 0.9],
      [0.9, 1],
      [5, 2],
      [30, 20],
    ] as const) {
      const { choice, unmeasured, took } = await late(
        1500,
        { decodeMs: mine, prefillMs: mine / 10 },
        { decodeMs: other, prefillMs: other / 10 },
      );
      expect(choice).toEqual({});
      expect(unmeasured.length, "nothing is final").toBeGreaterThan(0);
      expect(took).toBeLessThan(2500);
    }
  });

  test("shows large differences when there is time", async () => {
    const { choice } = await late(60_000, { decodeMs: 30, prefillMs: 4 }, { decodeMs: 18, prefillMs: 9 });
    expect(choice).toEqual({ decode: "a" });
  });

  test("never shows a slower one to be faster", async () => {
    for (const decodeMs of [3, 11, 29, 47]) {
      const { choice } = await late(60_000, { decodeMs, prefillMs: 1 }, { decodeMs: 1.02 * decodeMs, prefillMs: 1.02 });
      expect(choice).toEqual({});
    }
  });
});

test("nothing is left open where answers are regular", async () => {
  expect((await run({}, { a: [{ decodeMs: 0.98, prefillMs: 0.05 }, ["decode", "prefill_64"]] })).unmeasured).toEqual([]);
});

test("a cache of a few positions leaves nothing to measure", async () => {
  expect((await run({}, { a: [{ decodeMs: 0.1 }, ["decode"]] }, 1000, 4)).milliseconds).toEqual({});
});

test("an abort ends it", async () => {
  const device = new Device();
  const contenders = [contender("a", device, {}, ["decode"])];
  const signal = AbortSignal.abort(new Error("enough"));
  await expect(autotune(runner(device), contenders, { budgetMs: 100, signal, clock: time })).rejects.toThrow("enough");
});
