// The parts of a load that need no device: what is reported, what there is room and memory for, what is held at once.
import { describe, expect, test, vi } from "vitest";
import type { LoadProgress } from "../../src/api/types";
import type { Plan, TensorCache } from "../../src/artifact/schema";
import { ArtifactStore } from "../../src/artifact/store";
import type { Fetcher } from "../../src/artifact/fetch";
import { LIMIT_BYTES } from "../../src/backend/wasm/backend";
import { DeviceError, RequestError } from "../../src/api/errors";
import { startWithin, withinWasm } from "../../src/worker/load/context";
import { ProgressMeter } from "../../src/worker/load/progress";
import { checkRoom, storageNotices } from "../../src/worker/load/room";
import { sideBySide, uploadWeights } from "../../src/worker/load/weights";
import { content, entryOf, MemoryCache } from "../support/network";
import { PLAN, ToyDevice } from "../support/toy-device";
import { inEightBits, variant } from "../support/variants";

describe("progress", () => {
  const meter = () => {
    const seen: LoadProgress[] = [];
    return { seen, it: new ProgressMeter((progress) => seen.push(progress)), last: () => seen.at(-1) };
  };
  const grows = (seen: LoadProgress[]) =>
    seen.every(
      (now, i) =>
        now.loadedBytes >= (seen[i - 1]?.loadedBytes ?? 0) &&
        (now.totalBytes === 0 || now.loadedBytes <= now.totalBytes) &&
        now.cachedBytes <= now.loadedBytes,
    );

  test("has no total before all parts are known, and ends at it", () => {
    const { it, seen, last } = meter();
    const [texts, weights] = [it.part(), it.part()];
    texts.expect(100);
    texts.add(100, true);
    expect(last()).toMatchObject({ loadedBytes: 100, totalBytes: 0, cachedBytes: 100 });
    weights.expect(900);
    weights.add(900, false);
    expect(last()).toMatchObject({ loadedBytes: 1000, totalBytes: 1000, cachedBytes: 100, waiting: null });
    expect(grows(seen)).toBe(true);
  });

  test("stands while bytes come again, and when a variant does not start", () => {
    const { it, seen, last } = meter();
    const texts = it.part();
    texts.expect(100);
    texts.add(100, false);
    const first = it.part();
    first.expect(1000);
    first.add(600, false);
    first.add(-600, false);
    expect(last()?.loadedBytes).toBe(700);
    first.add(600, false);
    first.drop();
    const second = it.part();
    it.enter("manifest");
    second.expect(800);
    second.add(800, true);
    expect(last()).toMatchObject({ loadedBytes: 900, totalBytes: 900, cachedBytes: 800 });
    expect(grows(seen)).toBe(true);
  });

  test("says why it stands until something comes", () => {
    const { it, last } = meter();
    const part = it.part();
    it.wait("HTTP status 503; trying again in 8 s");
    expect(last()?.waiting).toBe("HTTP status 503; trying again in 8 s");
    part.add(1, false);
    expect(last()?.waiting).toBeNull();
  });

  test("begins again when the load does", () => {
    const { it, last } = meter();
    const part = it.part();
    part.expect(10);
    part.add(10, false);
    it.restart();
    const other = it.part();
    other.expect(20);
    other.add(5, false);
    expect(last()).toMatchObject({ loadedBytes: 5, totalBytes: 20 });
  });
});

describe("room", () => {
  const entries = [1000, 2000].map((length) => entryOf(content(length)));
  const storage = (quota: number, usage: number, persisted = true) => ({
    estimate: () => Promise.resolve({ quota, usage }),
    persisted: () => Promise.resolve(persisted),
  });

  test("that does not suffice keeps nothing, and says how much it is", async () => {
    const store = new ArtifactStore(new MemoryCache(), "https://page.example/m/");
    await checkRoom(store, [{ bytes: 5e9, sha256: "a".repeat(64) }], storage(4e9, 1e9));
    expect(store.stores).toBe(false);
    expect(await storageNotices(store, storage(4e9, 1e9))).toEqual([
      "The model's files are not kept in this browser, so that the next visit downloads them again: the browser has room for 3,000 MB more of this site, they take 5,000 MB.",
    ]);
  });

  test("is needed only for what is not there yet", async () => {
    const cache = new MemoryCache();
    const store = new ArtifactStore(cache, "https://page.example/m/");
    await checkRoom(store, entries, storage(3500, 500));
    expect(store.stores).toBe(true);
    await store.putFile(entries[1] ?? { bytes: 0, sha256: "" }, content(2000));
    await checkRoom(store, entries, storage(3500, 2500));
    expect(store.stores).toBe(true);
    await checkRoom(store, entries, storage(3500, 2501));
    expect(store.stores).toBe(false);
  });

  test("that is not promised to last is said; where nobody can tell, nothing is", async () => {
    const store = new ArtifactStore(new MemoryCache(), "https://page.example/m/");
    expect(await storageNotices(store, storage(1, 0, false))).toEqual([expect.stringMatching(/may delete them.*has not granted/)]);
    expect(await storageNotices(store, storage(1, 0))).toEqual([]);
    await checkRoom(store, entries, {});
    expect([store.stores, await storageNotices(store, {})]).toEqual([true, []]);
  });
});

describe("context", () => {
  const full = () => new DeviceError("out-of-memory", { what: "full" });
  const device = (memory: number) => {
    const tried: number[] = [];
    const start = (capacity: number) => {
      tried.push(capacity);
      return capacity <= memory ? Promise.resolve({ capacity, notices: [] as string[] }) : Promise.reject(full());
    };
    return { tried, start, fits: (capacity: number) => Promise.resolve(capacity <= memory) };
  };

  test("is halved until it fits, and that is said", async () => {
    const { tried, start, fits } = device(20_000);
    const started = await startWithin({ tokens: 131_072, asked: false }, start, fits);
    expect(tried).toEqual([131_072, 65_536, 32_768, 16_384]);
    expect(started.capacity).toBe(16_384);
    expect(started.notices).toEqual(["There is memory for a context of 16,384 tokens here, not for the model's 131,072 tokens."]);
  });

  test("that fits is left alone", async () => {
    const { start, fits } = device(4096);
    expect(await startWithin({ tokens: 4096, asked: false }, start, fits)).toEqual({ capacity: 4096, notices: [] });
  });

  test("of less than 512 tokens is none", async () => {
    const { tried, start, fits } = device(511);
    await expect(startWithin({ tokens: 1500, asked: false }, start, fits)).rejects.toMatchObject({ kind: "out-of-memory" });
    expect(tried).toEqual([1500, 750, 512]);
    await expect(startWithin({ tokens: 300, asked: false }, device(200).start, fits)).rejects.toMatchObject({ kind: "out-of-memory" });
  });

  test("that was asked for is refused with what would fit, without another start", async () => {
    const { tried, start, fits } = device(5000);
    const error: unknown = await startWithin({ tokens: 16_384, asked: true }, start, fits).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(RequestError);
    expect(error).toMatchObject({ got: "16384", expected: "at most 4096" });
    expect(tried).toEqual([16_384]);
  });

  test("other failures are no question of it", async () => {
    const start = () => Promise.reject(new DeviceError("shader", { what: "no" }));
    await expect(startWithin({ tokens: 4096, asked: false }, start, () => Promise.resolve(true))).rejects.toMatchObject({ kind: "shader" });
  });

  test("on the CPU is what its memory holds", () => {
    const plan = (bytesPerPosition: number, scratch = 64): Plan => ({
      ...PLAN,
      buffers: [
        { kind: "kv", name: "kv.0", bytesPerPosition, bytes: bytesPerPosition * 4096 },
        { kind: "scratch", name: "s", bytes: scratch },
      ],
    });
    const wanted = { tokens: 4096, asked: false };
    expect(withinWasm(plan(1000), wanted)).toBe(4096);
    const lowered = withinWasm(plan(2 ** 20, 2 ** 30), wanted);
    expect(lowered).toBeGreaterThan(2000);
    expect((lowered + 16) * 2 ** 20 + 2 ** 30).toBeGreaterThan(LIMIT_BYTES - 16 * 2 ** 20);
    expect(() => withinWasm(plan(2 ** 20, 2 ** 30), { ...wanted, asked: true })).toThrow(
      new RegExp(`contextLength.*got 4096, expected at most ${lowered}`),
    );
    // Where keys and values in 8 bits can be tried they are, before there is less context or a refusal.
    const twin = inEightBits(variant("wasm-simd", ["simd"], {}, "wasm"));
    expect(withinWasm(plan(1000), wanted, twin)).toBe(4096);
    for (const asked of [false, true])
      expect(() => withinWasm(plan(2 ** 20, 2 ** 30), { ...wanted, asked }, twin)).toThrow(
        expect.objectContaining({ kind: "out-of-memory", got: "5.0 GiB" }),
      );
    expect(() => withinWasm(plan(1, 2 ** 32), wanted)).toThrow(/with a context of 512 tokens than WebAssembly offers: got 4\.0 GiB/);
  });
});

describe("weights", () => {
  test("are held as far as memory allows, the next begins when one is done", async () => {
    const items = [32, 32, 32, 1, 1, 100].map((bytes) => ({ entry: { bytes } }));
    let held = 0;
    const most: number[] = [];
    const ends: (() => void)[] = [];
    const all = sideBySide(items, 64, 3, async ({ entry }) => {
      held += entry.bytes;
      most.push(held);
      await new Promise<void>((resolve) => ends.push(resolve));
      held -= entry.bytes;
    });
    while (ends.length > 0) {
      ends.shift()?.();
      await new Promise(setImmediate);
    }
    await all;
    expect(most).toEqual([32, 64, 64, 33, 34, 100]);
  });

  test("that fail end with the first failure", async () => {
    const items = [1, 2, 3].map((bytes) => ({ entry: { bytes } }));
    await expect(
      sideBySide(items, 1, 1, ({ entry }) => (entry.bytes === 2 ? Promise.reject(new Error("two")) : Promise.resolve())),
    ).rejects.toThrow("two");
  });

  const SHARD = 32 * 2 ** 20;
  /** Eight shards of a row each, whose files are never there in one piece. */
  function model() {
    const shards = Array.from({ length: 8 }, (_, i) => ({
      path: `${i}.bin`,
      nbytes: SHARD,
      records: [{ name: `w${i}`, shape: [SHARD / 4], dtype: "uint32" as const, nbytes: SHARD, byteOffset: 0, rowOffset: 0 }],
    }));
    const buffers = shards.map(({ records }, i) => ({
      kind: "weight" as const,
      name: `w${i}`,
      bytes: SHARD,
      dtype: "uint32" as const,
      shape: records[0]?.shape ?? [],
      rows: [0, SHARD / 4] as [number, number],
    }));
    const files = new Map(shards.map(({ path }) => [path, { bytes: SHARD, sha256: "" }]));
    return { weights: { shards, tensors: new Map() } as TensorCache, plan: { ...PLAN, buffers } as Plan, manifest: { files } as never };
  }

  test("are uploaded while they are being stored, and not ahead of a device that does not take them", async () => {
    const { weights, plan, manifest } = model();
    const bytes = new Uint8Array(SHARD);
    const events: string[] = [];
    const idle: (() => void)[] = [];
    const stored: (() => void)[] = [];
    const backend = Object.assign(new ToyDevice(), {
      write: (buffer: number) => events.push(`upload ${buffer}`),
      idle: () => new Promise<void>((resolve) => idle.push(resolve)),
    });
    const fetch = vi.fn((path: string) => {
      events.push(`fetch ${path[0] ?? ""}`);
      return Promise.resolve({ bytes, written: new Promise<void>((resolve) => stored.push(resolve)) });
    });
    const done = uploadWeights(
      { fetch } as unknown as Fetcher,
      backend,
      manifest,
      plan,
      weights,
      plan.buffers.map((_, i) => i),
      new AbortController().signal,
    );
    const settle = () => new Promise(setImmediate);
    await settle();
    expect(events).toEqual(["fetch 0", "fetch 1", "upload 0", "upload 1"]); // Neither is stored.
    for (let i = 0; i < 4; i++) {
      stored.shift()?.();
      await settle();
    }
    expect(events.filter((event) => event.startsWith("upload"))).toHaveLength(4); // 128 MiB wait for the device.
    idle.shift()?.();
    await settle();
    expect(events.filter((event) => event.startsWith("upload"))).toHaveLength(5);
    for (let i = 0; i < 20; i++) {
      stored.shift()?.();
      idle.shift()?.();
      await settle();
    }
    await done;
    expect(events.filter((event) => event.startsWith("upload"))).toHaveLength(8);
  });
});
