// The session at its pace on simulated devices, in simulated time: throughput, Stop, and what runs in vain.
import { describe, expect, test } from "vitest";
import { GREEDY } from "../../src/runtime/sampling";
import { type Generation, Session } from "../../src/runtime/session";
import { SimulatedClock, SimulatedDevice, SimulatedRunner, type Speed } from "../support/simulation";

/** Tokens after which the pace has been found, and those whose speed is then measured. */
const LEARNING = 1600;
const MEASURED = 800;

interface World {
  clock: SimulatedClock;
  device: SimulatedDevice;
  runner: SimulatedRunner;
  session: Session;
}

async function world(speed: Partial<Speed>, { stepMs = 1, tokenMs = 0, overlaps = true, measured = true } = {}): Promise<World> {
  const clock = new SimulatedClock();
  const device = new SimulatedDevice(clock, { there: 0, back: 0, timer: 0, ...speed });
  const runner = Object.assign(new SimulatedRunner(device, overlaps), { stepMs, tokenMs });
  const session = new Session(runner, undefined, clock);
  if (measured) await clock.drive(session.measureLatency());
  return { clock, device, runner, session };
}

interface Asked {
  prompt?: number;
  maxTokens?: number;
  stop?: number;
  signal?: AbortSignal;
  onToken?: (token: number) => void;
}

function ask(
  { clock, session }: World,
  { prompt = 1, maxTokens, stop, signal = new AbortController().signal, onToken }: Asked,
): Promise<Generation> {
  const ids = Array.from({ length: prompt }, (_, i) => i);
  session.reset();
  return clock.drive(
    session.generate({
      ids,
      sampling: GREEDY,
      maxTokens,
      stopTokenIds: new Set(stop === undefined ? [] : [stop]),
      signal,
      onToken: (token) => {
        onToken?.(token);
        return false;
      },
    }),
  );
}

/**
 * The share of what the device could do, once the pace has been found; and how long a Stop right after a submit would have
 * had to wait for the device, then and before.
 */
async function trial(place: World, change?: (count: number) => void) {
  const { clock, device, runner } = place;
  const seen: number[] = [];
  let longest = 0;
  let learning = 0;
  runner.onSubmit = () => {
    if (seen.length < LEARNING) learning = Math.max(learning, device.backlog);
    else longest = Math.max(longest, device.backlog);
  };
  const onToken = () => {
    seen.push(clock.now());
    change?.(seen.length);
  };
  await ask(place, { maxTokens: LEARNING + MEASURED, onToken });
  const tokensPerMs = MEASURED / ((seen.at(-1) ?? 0) - (seen[LEARNING - 1] ?? 0));
  return { share: tokensPerMs * runner.stepMs, learning, longest };
}

const latencies = [0.2, 1, 5, 20, 50, 100, 150, 200];
const steps = [1, 2, 5, 10, 30, 50, 100, 300];
/** Firefox: what there is to see is seen every 100 ms. */
const timers = [
  ...latencies.flatMap((latency) => steps.map((stepMs) => ({ latency, stepMs, timer: 0 }))),
  ...[0.2, 1, 5, 20].flatMap((latency) => steps.map((stepMs) => ({ latency, stepMs, timer: 100 }))),
];

describe.each(["there", "back"] as const)("a device whose latency is on the way %s", (way) => {
  test.each(timers)(
    "of $latency ms, of $stepMs ms a step, seen every $timer ms, is kept busy, and Stop is quick",
    async ({ latency, stepMs, timer }) => {
      const { share, learning, longest } = await trial(await world({ [way]: latency, timer }, { stepMs }));
      expect(share).toBeGreaterThan(0.9);
      const unavoidable = latency + timer;
      // A larger window is tried now and then, and more boldly at first.
      expect(longest).toBeLessThan(100 + stepMs + unavoidable);
      expect(learning).toBeLessThan(150 + stepMs + unavoidable);
    },
  );
});

describe("a change of speed in the middle", () => {
  test.each([
    { before: 4, after: 10 },
    { before: 10, after: 4 },
    { before: 30, after: 90 },
    { before: 90, after: 30 },
  ])("from $before to $after ms a step is followed", async ({ before, after }) => {
    for (const timer of [0, 100]) {
      const place = await world({ back: 20, timer }, { stepMs: before });
      const { share, longest } = await trial(place, (count) => {
        if (count === 800) place.runner.stepMs = after;
      });
      expect(share).toBeGreaterThan(0.9);
      expect(longest).toBeLessThan(100 + Math.max(before, after) + 20 + timer);
    }
  });

  test("of the latency is followed", async () => {
    for (const [before, after] of [
      [2, 80],
      [80, 2],
    ] as const) {
      const place = await world({ back: before }, { stepMs: 10 });
      const { share, longest } = await trial(place, (count) => {
        if (count === 400) place.device.speed = { there: 0, back: after, timer: 0 };
      });
      expect(share).toBeGreaterThan(0.9);
      expect(longest).toBeLessThan(100 + 10 + Math.max(before, after));
    }
  });
});

describe("Stop", () => {
  test.each([
    { latency: 1, stepMs: 5 },
    { latency: 100, stepMs: 5 },
    { latency: 1, stepMs: 400 },
    { latency: 150, stepMs: 60 },
  ])("gives what there is at once, with $latency ms on the way and $stepMs ms a step", async ({ latency, stepMs }) => {
    const place = await world({ back: latency }, { stepMs });
    await ask(place, { maxTokens: 400 });
    const controller = new AbortController();
    let count = 0;
    let stoppedAt = Infinity;
    const onToken = () => {
      if (++count === 20)
        place.clock.at(place.clock.now() + 0.4 * stepMs, () => {
          stoppedAt = place.clock.now();
          controller.abort();
        });
    };
    const { finishReason, tokens } = await ask(place, { maxTokens: 400, signal: controller.signal, onToken });
    expect(finishReason).toBe("abort");
    expect(tokens.length).toBeGreaterThanOrEqual(20);
    expect(place.clock.now(), "nothing is waited for").toBe(stoppedAt);
    expect(place.device.backlog).toBeLessThan(Math.max(100, stepMs) + latency);
  });

  test("in a long prompt on a slow device takes effect within a part of a chunk", async () => {
    const place = await world({ back: 2 }, { tokenMs: 8 }); // a chunk of 256 takes 2 s
    await ask(place, { prompt: 3000, maxTokens: 1 });
    const controller = new AbortController();
    place.clock.at(place.clock.now() + 5000, () => controller.abort());
    const { prefilled } = place.runner;
    const { finishReason } = await ask(place, { prompt: 3000, signal: controller.signal });
    expect(finishReason).toBe("abort");
    expect(place.device.backlog).toBeLessThan(450);
    expect(place.session.residentIds).toHaveLength(place.runner.prefilled - prefilled);
    expect(Math.max(...place.runner.submits.slice(-10))).toBeLessThan(250);
  });
});

describe("a prompt", () => {
  test.each([
    { timer: 0, back: 1 },
    { timer: 100, back: 1 },
    { timer: 0, back: 60 },
  ])("keeps a device busy that is seen late: %j", async (speed) => {
    const place = await world(speed, { tokenMs: 0.1 });
    await ask(place, { prompt: 256 * 40, maxTokens: 1 });
    const { prefillMs } = await ask(place, { prompt: 256 * 40, maxTokens: 1 });
    const busyMs = 256 * 40 * 0.1;
    expect(prefillMs).toBeLessThan(busyMs / 0.9 + 2 * (speed.timer + speed.back));
  });

  test("of a device that nothing is known of is not handed over at once", async () => {
    const place = await world({ back: 1 }, { tokenMs: 1 });
    let longest = 0;
    place.runner.onSubmit = () => (longest = Math.max(longest, place.device.backlog));
    await ask(place, { prompt: 256 * 20, maxTokens: 1 });
    expect(longest).toBeLessThan(2 * 264 + 50);
  });

  test("of a device whose programs take long goes in parts", async () => {
    const place = await world({ back: 1 }, { tokenMs: 4, stepMs: 700 });
    await ask(place, { prompt: 256 * 8, maxTokens: 6 });
    place.runner.submits.length = 0;
    await ask(place, { prompt: 256 * 8, maxTokens: 6 });
    expect(Math.max(...place.runner.submits)).toBeLessThan(250);
    expect(place.session.residentIds).toHaveLength(256 * 8 + 5);
  });
});

describe("steps that nobody reads", () => {
  const chats = async (place: World) => {
    place.runner.steps = 0;
    let tokens = 0;
    for (let chat = 0; chat < 200; chat++) {
      const prompt = 4 + (chat % 13);
      // The stop token is a step too.
      tokens += (await ask(place, { prompt, stop: prompt + 3 + (chat % 17) })).tokens.length + 1;
    }
    return place.runner.steps / tokens;
  };

  test("are none on the CPU", async () => {
    expect(await chats(await world({}, { stepMs: 8, overlaps: false }))).toBeLessThanOrEqual(1.1);
  });

  test.each([
    { back: 1, stepMs: 8 },
    { back: 1, stepMs: 2 },
    { back: 30, stepMs: 8 },
  ])("are what hides the way back on a GPU: %j", async ({ back, stepMs }) => {
    const place = await world({ back }, { stepMs });
    await chats(place);
    // Answers are 12 tokens long on average.
    expect(await chats(place)).toBeLessThan(1 + ((back + 3 * 16 + stepMs) / stepMs + 1) / 12);
  });

  test("do not hold up the next request", async () => {
    const place = await world({ back: 2 }, { stepMs: 5 });
    await ask(place, { maxTokens: 300 });
    await ask(place, { stop: 40 });
    expect(place.device.backlog).toBeLessThan(50);
  });
});

test("readbacks are shared by steps that are short", async () => {
  const { runner, ...rest } = await world({ timer: 100, back: 1 }, { stepMs: 1 });
  await ask({ runner, ...rest }, { maxTokens: 1600 });
  runner.readbacks = 0;
  await ask({ runner, ...rest }, { maxTokens: 1600 });
  expect(runner.mostInFlight).toBeGreaterThan(100);
  expect(runner.readbacks / 1600).toBeLessThan(0.2);
});
