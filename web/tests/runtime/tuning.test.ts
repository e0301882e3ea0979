// What one load learns of a plan's alternatives and the next one believes.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { FileCache } from "../../src/artifact/file-cache";
import type { Manifest, Plan } from "../../src/artifact/schema";
import { decide, type Decision, measure, TuningMemory } from "../../src/runtime/tuning";
import { allocate, Replay } from "../../src/runtime/replay";
import { CONTEXT, PLAN, ToyDevice } from "../support/toy-device";
import { variant } from "../support/variants";

const NAME = "other";
const plan: Plan = {
  ...PLAN,
  alternatives: [
    {
      name: NAME,
      kernelsFile: "other.wgsl",
      languageFeatures: [],
      preferredOn: [],
      tolerance: 1e-3,
      kernels: PLAN.kernels,
      programs: new Map([["decode", PLAN.decode]]),
    },
  ],
};
const adapter = { vendor: "a", architecture: "b", device: "c", description: "d", isFallback: false };
const place = { manifest: { files: new Map() } as Partial<Manifest> as Manifest, variant: variant("webgpu-f32"), plan, adapter };

class MapCache implements Pick<FileCache, "get" | "put"> {
  readonly files = new Map<string, Uint8Array>();
  get(key: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    return Promise.resolve(this.files.get(key) as Uint8Array<ArrayBuffer> | undefined);
  }
  put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    this.files.set(key, bytes);
    return Promise.resolve();
  }
}

/** A device whose answers come on a timer, of `timerMs`. */
class LateDevice extends ToyDevice {
  timerMs = 0;
  override async idle(): Promise<void> {
    await this.tick();
  }
  override async submitAndRead(...args: Parameters<ToyDevice["submitAndRead"]>): Promise<ArrayBuffer> {
    const bytes = await super.submitAndRead(...args);
    await this.tick();
    return bytes;
  }
  private tick(): Promise<void> {
    const left = this.timerMs === 0 ? 0 : this.timerMs - (performance.now() % this.timerMs);
    return new Promise((resolve) => setTimeout(resolve, left));
  }
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["performance", "setTimeout"] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** In simulated time. */
async function load(cache: MapCache, timerMs: number, signal?: AbortSignal): Promise<Decision["kind"]> {
  const state = { done: false };
  const kind = loadNow(cache, timerMs, signal).finally(() => (state.done = true));
  kind.catch(() => undefined);
  while (!state.done) await vi.advanceTimersByTimeAsync(1);
  return kind;
}

async function loadNow(cache: MapCache, timerMs: number, signal = new AbortController().signal): Promise<Decision["kind"]> {
  const memory = new TuningMemory(cache as unknown as FileCache, "https://example.org/");
  const decision = await decide(memory, undefined, place);
  if (decision.kind !== "measure") return decision.kind;
  const backend = Object.assign(new LateDevice(), { timerMs });
  const buffers = await allocate(backend, plan, CONTEXT);
  const own = new Replay(backend, plan, buffers, CONTEXT);
  const work = { backend, plan, buffers, capacity: CONTEXT, own, read: () => Promise.resolve(""), signal };
  await measure(memory, { ...decision, budgetMs: 300 }, work);
  expect((await decide(memory, undefined, place)).kind, "once a session is enough").toBe("remembered");
  return decision.kind;
}

describe("what was measured", () => {
  test("is asked again where answers came too late, but not for ever", async () => {
    const cache = new MapCache();
    const loads: string[] = [];
    for (let i = 0; i < 5; i++) loads.push(await load(cache, 100));
    expect(loads).toEqual(["measure", "measure", "measure", "remembered", "remembered"]);
  });

  test("is nothing where the load was cancelled; of a load that just ended, it is asked once more", async () => {
    const cache = new MapCache();
    const cancelled = new AbortController();
    cancelled.abort(new Error("cancelled"));
    for (let i = 0; i < 4; i++) await expect(load(cache, 0, cancelled.signal)).rejects.toThrow("cancelled");
    const never = () => new Promise<string>(() => undefined);
    for (const expected of ["measure", "measure", "remembered"]) {
      const memory = new TuningMemory(cache as unknown as FileCache, "https://example.org/");
      const decision = await decide(memory, undefined, place);
      expect(decision.kind).toBe(expected);
      if (decision.kind !== "measure") continue;
      const backend = new LateDevice();
      const buffers = await allocate(backend, plan, CONTEXT);
      const own = new Replay(backend, plan, buffers, CONTEXT);
      void measure(memory, decision, { backend, plan, buffers, capacity: CONTEXT, own, read: never, signal: new AbortController().signal });
      await vi.advanceTimersByTimeAsync(1);
    }
  });

  test("and cannot be read is measured again", async () => {
    const cache = new MapCache();
    await load(cache, 100);
    for (const key of cache.files.keys()) cache.files.set(key, new TextEncoder().encode('{"decode": "other"}'));
    expect(await load(cache, 100)).toBe("measure");
  });
});
