// The CPU backend with real helper threads (worker_threads running the built thread.js) and a small real module.
import { availableParallelism } from "node:os";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { BufferHandle, ProgramHandle } from "../../../src/backend/backend";
import { WasmBackend, type WasmOptions } from "../../../src/backend/wasm/backend";
import { type SpawnThread, spawnInNode, threadsFor, type ThreadPort } from "../../../src/backend/wasm/pool";
import { stackTop } from "../../../src/backend/wasm/memory";
import type { ToThread } from "../../../src/backend/wasm/thread";
import { AFFINE, buildThread, INCREMENT, kernelModule, kernels, NOTHING, SLOW, SUM, TRAP, WHO } from "../../support/kernels";

let spawn: SpawnThread;
let source: Uint8Array<ArrayBuffer>;
const open: WasmBackend[] = [];

beforeAll(async () => {
  const script = await buildThread();
  spawn = (events) => spawnInNode(script, events);
  source = await kernelModule();
}, 60_000);

afterEach(() => {
  for (const backend of open.splice(0)) backend.dispose();
});

/** A backend with two buffers: the first of `words` words, the second of 16. */
class Bench {
  constructor(
    readonly backend: WasmBackend,
    readonly a: BufferHandle,
    readonly b: BufferHandle,
  ) {}

  static async make(threads: number, words = 1000, options: WasmOptions = {}): Promise<Bench> {
    const backend = await WasmBackend.create({ threads, spawn, ...options });
    open.push(backend);
    const [a, b] = await backend.createBuffers([
      { bytes: 4 * words, label: "a" },
      { bytes: 64, label: "b" },
    ]);
    await backend.compile(source, kernels);
    if (a === undefined || b === undefined) throw new Error("no buffers");
    return new Bench(backend, a, b);
  }

  record(...dispatches: { kernel: number; items: number; buffers?: BufferHandle[] }[]): ProgramHandle {
    return this.backend.record(
      "program",
      dispatches.map(({ kernel, items, buffers }) => ({ kernel, buffers: buffers ?? [this.a], grid: [items, 1, 1] })),
    );
  }

  put(buffer: BufferHandle, ...words: number[]): void {
    this.backend.write(buffer, 0, new Uint8Array(Uint32Array.from(words).buffer));
  }

  async words(buffer: BufferHandle, count: number, offset = 0): Promise<number[]> {
    return [...new Uint32Array(await this.backend.read({ buffer, offset, bytes: 4 * count }))];
  }

  /** A slow item that takes about so long on this machine. */
  async calibrate(milliseconds: number): Promise<number> {
    const program = this.record({ kernel: SLOW, items: 1 });
    this.put(this.a, 20_000_000);
    for (let i = 0; i < 2; i++) await this.backend.submitAndRead(program, 1, []); // The first runs code that is not optimized.
    const start = performance.now();
    await this.backend.submitAndRead(program, 1, []);
    return Math.ceil((20_000_000 * milliseconds) / (performance.now() - start));
  }
}

/** Counts how often the event loop turns, until it is stopped. */
function countTurns(): { count: number; stop: () => number } {
  let immediate: NodeJS.Immediate;
  const counter = { count: 0, stop: () => (clearImmediate(immediate), counter.count) };
  const next = () => {
    immediate = setImmediate(() => {
      counter.count += 1;
      next();
    });
  };
  next();
  return counter;
}

/** Spawns real threads whose ports the test can reach; `deaf`: a thread that ends says nothing. */
function reachable(ports: ThreadPort[], deaf = false): SpawnThread {
  return async (events) => {
    const port = await spawn(deaf ? { ...events, onEnd: () => undefined } : events);
    ports.push(port);
    return port;
  };
}

describe.each([1, 2, 3, 4])("with %i threads", (threads) => {
  test("every item is computed exactly once", async () => {
    const bench = await Bench.make(threads, 5000);
    expect(bench.backend.threads).toBe(threads);
    const sizes = [1, 2, threads, threads * 4, threads * 4 + 1, 97, 4999, 5000];
    for (const items of sizes) await bench.backend.submitAndRead(bench.record({ kernel: INCREMENT, items }), 3, []);
    const words = await bench.words(bench.a, 5000);
    const expected = words.map((_, i) => 3 * sizes.filter((items) => i < items).length);
    expect(words).toEqual(expected);
  });

  test("dispatches run in order, each sees all of the one before", async () => {
    const bench = await Bench.make(threads);
    bench.put(bench.b, 1);
    const affine = { kernel: AFFINE, items: 1000, buffers: [bench.a, bench.b] };
    const sum = { kernel: SUM, items: 1, buffers: [bench.b, bench.a] };
    const program = bench.record(affine, sum, affine, sum);
    const expected = { a: 0, b: 1 };
    for (let i = 0; i < 40; i++) {
      expected.a = (Math.imul(expected.a, 3) + expected.b) >>> 0;
      expected.b = Math.imul(expected.a, 1000) >>> 0;
    }
    const bytes = await bench.backend.submitAndRead(program, 20, [
      { buffer: bench.b, offset: 0, bytes: 4 },
      { buffer: bench.a, offset: 3996, bytes: 4 },
    ]);
    expect([...new Uint32Array(bytes)]).toEqual([expected.b, expected.a]);
  });

  test("writes take effect between the programs around them", async () => {
    const bench = await Bench.make(threads);
    const program = bench.record({ kernel: INCREMENT, items: 3 });
    const data = new Uint8Array(Uint32Array.of(10, 20, 30).buffer);
    const read = () => bench.backend.submitAndRead(program, 2, [{ buffer: bench.a, offset: 0, bytes: 12 }]);
    const first = read();
    bench.backend.write(bench.a, 0, data);
    data.fill(255); // The caller's again.
    const second = read();
    bench.backend.write(bench.a, 4, Uint8Array.of(7, 0, 0, 0, 9));
    const third = bench.words(bench.a, 3);
    expect([...new Uint32Array(await first)]).toEqual([2, 2, 2]);
    expect([...new Uint32Array(await second)]).toEqual([12, 22, 32]);
    expect(await third).toEqual([12, 7, 9]);
    await bench.backend.idle();
  });

  test("a trap rejects what runs, names the kernel and stays", async () => {
    const bench = await Bench.make(threads);
    bench.put(bench.a, 999);
    const program = bench.record(
      { kernel: INCREMENT, items: 10, buffers: [bench.b] },
      { kernel: TRAP, items: 1000 },
      { kernel: NOTHING, items: 100 },
    );
    const running = bench.backend.submitAndRead(program, 3, []);
    const waiting = bench.backend.idle();
    await expect(running).rejects.toMatchObject({ name: "DeviceError", kind: "kernel" });
    await expect(waiting).rejects.toThrow(/The kernel trap failed \(program, dispatch 1, thread \d\): unreachable/);
    expect(() => bench.backend.submit(program, 1)).toThrow(/The kernel trap failed/);
  });

  test("memory grows with the rows in use: what is there stays, programs find it", async () => {
    const backend = await WasmBackend.create({ threads, spawn });
    open.push(backend);
    const rows = 20_000;
    const sizes = [{ bytes: 64 }, { bytes: 8 * rows, rowBytes: 8 }, { bytes: 4000 }, { bytes: 16 * rows, rowBytes: 16 }];
    const [fixed = 0, first = 0, scratch = 0, second = 0] = await backend.createBuffers(sizes.map((size) => ({ ...size, label: "" })));
    await backend.compile(source, kernels);
    const bench = new Bench(backend, first, second);
    const start = backend.counters.gpuBytes;
    const all = [fixed, first, scratch, second];
    const countUp = bench.record(...all.map((buffer) => ({ kernel: INCREMENT, items: 16, buffers: [buffer] })));
    all.forEach((buffer, i) => bench.put(buffer, 100 * i));
    backend.submit(countUp, 1);
    expect(backend.makeRoom(3000)).toBe(3000); // In a row with what runs before and after.
    backend.submit(countUp, 1);
    const later = bench.record({ kernel: INCREMENT, items: 3000, buffers: [second] });
    expect(backend.makeRoom(rows)).toBe(rows);
    backend.submit(later, 1);
    backend.submit(countUp, 1);
    const got = await Promise.all(all.map((buffer) => bench.words(buffer, 2)));
    expect(got).toEqual([
      [3, 3],
      [103, 3],
      [203, 3],
      [304, 4],
    ]);
    expect(start).toBeLessThan(2 * 2 ** 20);
    expect(backend.counters.gpuBytes - start).toBeGreaterThan(24 * rows * 0.9);
    bench.put(second, 7);
    expect(await bench.words(second, 1, 16 * rows - 4)).toEqual([0]);
    expect(await bench.words(second, 1)).toEqual([7]);
  });

  test("programs can be recorded after others have run", async () => {
    const bench = await Bench.make(threads);
    for (let i = 1; i <= 20; i++) {
      const program = bench.record({ kernel: INCREMENT, items: 1000 });
      bench.backend.submit(program, 1);
    }
    bench.backend.submit(bench.record(), 5);
    expect(new Set(await bench.words(bench.a, 1000))).toEqual(new Set([20]));
  });
});

describe("the engine's event loop", () => {
  test.each([1, 2])("turns between the dispatches of a long program on %i threads", async (threads) => {
    const bench = await Bench.make(threads);
    bench.put(bench.a, await bench.calibrate(20)); // So long that a busy machine cannot fit two into what lasts until a turn.
    const program = bench.record(...Array.from({ length: 10 }, () => ({ kernel: SLOW, items: 8 })));
    const turns = countTurns();
    await bench.backend.submitAndRead(program, 2, []);
    expect(turns.stop()).toBeGreaterThanOrEqual(5); // 20 dispatches of 16 ms or more, of which each is left for a turn
  });

  test("turns in the middle of a dispatch", async () => {
    const bench = await Bench.make(1);
    bench.put(bench.a, await bench.calibrate(60));
    const order: string[] = [];
    const running = bench.backend.submitAndRead(bench.record({ kernel: SLOW, items: 8 }), 1, []).then(() => order.push("computed"));
    setImmediate(() => setImmediate(() => order.push("turned")));
    await running;
    expect(order).toEqual(["turned", "computed"]);
  });

  test("lets an answer out before the next program begins", async () => {
    const bench = await Bench.make(2);
    const program = bench.record({ kernel: INCREMENT, items: 1 });
    const turns = countTurns();
    const at: number[] = [];
    const step = () => bench.backend.submitAndRead(program, 1, []).then(() => at.push(turns.count));
    await Promise.all([step(), step(), step()]);
    turns.stop();
    expect(bench.backend.overlaps, "steps ahead would hide nothing").toBe(false);
    expect(new Set(at).size).toBe(3); // so that a message to the page, posted with the first, leaves before the second
  });
});

describe("threads", () => {
  test("may take part by turns: every item is still computed once", async () => {
    class Turns {
      readonly seen: number[] = [];
      get size(): number {
        this.seen.push([4, 1, 2, 1, 1, 3][this.seen.length % 6] ?? 1);
        return this.seen.at(-1) ?? 1;
      }
      observe(): void {
        // Nothing is learnt.
      }
    }
    const size = new Turns();
    const bench = await Bench.make(4, 200, { size });
    const program = bench.record({ kernel: INCREMENT, items: 200 }, { kernel: NOTHING, items: 3 }, { kernel: INCREMENT, items: 100 });
    for (let i = 0; i < 300; i++) bench.backend.submit(program, 1 + (i % 3));
    const later = bench.record({ kernel: INCREMENT, items: 200 });
    await bench.backend.submitAndRead(later, 1, []);
    const words = await bench.words(bench.a, 200);
    expect(words).toEqual(words.map((_, i) => 600 * (i < 100 ? 2 : 1) + 1));
    expect(new Set(size.seen)).toEqual(new Set([1, 2, 3, 4]));
  });

  test("share thousands of tiny dispatches", async () => {
    const bench = await Bench.make(2);
    const program = bench.record(...Array.from({ length: 100 }, () => ({ kernel: INCREMENT, items: 8 })));
    for (let i = 0; i < 5; i++) await bench.backend.submitAndRead(program, 50, []);
    expect(bench.backend.counters.dispatches).toBe(100 * 250);
    expect(await bench.words(bench.a, 9)).toEqual([...Array.from({ length: 8 }, () => 100 * 250), 0]);
  });

  test("share the work, each with a stack of its own", async () => {
    const bench = await Bench.make(3);
    bench.put(bench.b, await bench.calibrate(1));
    await bench.backend.submitAndRead(bench.record({ kernel: WHO, items: 120, buffers: [bench.a, bench.b] }), 1, []);
    expect(new Set(await bench.words(bench.a, 120))).toEqual(new Set([stackTop(0), stackTop(1), stackTop(2)]));
  });

  test("take late notifications for what they are", async () => {
    let control: SharedArrayBuffer | undefined;
    const watched: SpawnThread = async (events) => {
      const port = await spawn(events);
      const post = (message: ToThread) => {
        if (message.type === "instantiate") control = message.control;
        port.post(message);
      };
      return { ...port, post };
    };
    const bench = await Bench.make(3, 1000, { spawn: watched, stallMs: 1000 });
    bench.put(bench.b, await bench.calibrate(15));
    bench.put(bench.a, 0);
    const steps = Array.from({ length: 12 }, () => [
      { kernel: SLOW, items: 1, buffers: [bench.b] },
      { kernel: INCREMENT, items: 1000 },
    ]);
    const program = bench.record(...steps.flat());
    if (control === undefined) throw new Error("no control words");
    const words = new Int32Array(control);
    let woken = 0;
    const timer = setInterval(() => words.forEach((_, i) => (woken += Atomics.notify(words, i))), 1);
    for (let i = 0; i < 3; i++) {
      await bench.backend.submitAndRead(program, 1, []);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    clearInterval(timer);
    expect(woken).toBeGreaterThan(0);
    expect(new Set(await bench.words(bench.a, 1000))).toEqual(new Set([36]));
  });

  test("that do not start are done without", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
    const missing: SpawnThread = (events) => spawnInNode(new URL("./no-such-file.mjs", import.meta.url), events);
    const blocked: SpawnThread = () => Promise.reject(new Error("blocked by the page's policy"));
    const silent: SpawnThread = () => Promise.resolve({ post: () => undefined, terminate: () => undefined });
    for (const helpers of [missing, blocked, silent]) {
      const { backend, a, ...bench } = await Bench.make(3, 10, { spawn: helpers, startMs: 500 });
      expect(bench).toBeDefined();
      expect(backend.threads).toBe(1);
      const program = backend.record("p", [{ kernel: INCREMENT, buffers: [a], grid: [10, 1, 1] }]);
      const bytes = await backend.submitAndRead(program, 1, [{ buffer: a, offset: 36, bytes: 4 }]);
      expect([...new Uint32Array(bytes)]).toEqual([1]);
    }
    expect(warn.mock.calls.map(String).join("\n")).toMatch(
      /one thread.*no-such-file[^]*blocked by the page's policy[^]*not ready after 500 ms/,
    );
    warn.mockRestore();
  });

  test.each(["before", "after"])(
    "are dismissed where the browser shares no memory of that size, found out %s the kernels are compiled",
    async (order) => {
      const { Memory } = WebAssembly;
      // As iOS does: a little shared memory is given, much is not.
      vi.spyOn(WebAssembly, "Memory").mockImplementation(function (descriptor: WebAssembly.MemoryDescriptor) {
        if (descriptor.shared === true && descriptor.initial > 1) throw new RangeError("Out of memory");
        return new Memory(descriptor);
      });
      const ends: string[] = [];
      const backend = await WasmBackend.create({
        threads: 3,
        spawn: async (events) => {
          const port = await spawn(events);
          return {
            ...port,
            terminate: () => {
              ends.push("ended");
              port.terminate();
            },
          };
        },
      });
      open.push(backend);
      expect(backend.threads).toBe(3);
      if (order === "after") await backend.compile(source, kernels);
      const [a] = await backend.createBuffers([{ bytes: 40, label: "a" }]);
      if (order === "before") await backend.compile(source, kernels);
      vi.restoreAllMocks();
      if (a === undefined) throw new Error("no buffer");
      expect(backend.threads).toBe(1);
      expect(ends).toEqual(["ended", "ended"]);
      expect(backend.hint).toMatch(/refuses to share \d+ MiB of memory/);
      const bytes = await backend.submitAndRead(backend.record("p", [{ kernel: INCREMENT, buffers: [a], grid: [10, 1, 1] }]), 2, [
        { buffer: a, offset: 36, bytes: 4 },
      ]);
      expect([...new Uint32Array(bytes)]).toEqual([2]);
    },
  );

  test.each([
    ["silently", true, /The helper threads are gone: they have done nothing for \d+ ms/],
    ["and says so", false, /The helper threads are gone: it ended with code 1/],
  ])("one that dies %s ends what runs", async (_, deaf, message) => {
    const ports: ThreadPort[] = [];
    const bench = await Bench.make(3, 1000, { spawn: reachable(ports, deaf), stallMs: 300 });
    const program = bench.record({ kernel: NOTHING, items: 100 });
    await bench.backend.submitAndRead(program, 1, []);
    ports[1]?.terminate();
    const running = Promise.all([bench.backend.submitAndRead(program, 1_000_000, []), bench.backend.idle()]);
    await expect(running).rejects.toMatchObject({ kind: "device-lost" });
    expect((await bench.backend.lost).message).toMatch(message);
    expect(() => bench.backend.submit(program, 1)).toThrow(message);
  });

  test("that are slow are not taken for dead", async () => {
    const bench = await Bench.make(2, 1000, { stallMs: 1000 });
    bench.put(bench.a, await bench.calibrate(20)); // An item is far from what counts as dead, all of them are beyond it.
    await bench.backend.submitAndRead(bench.record({ kernel: SLOW, items: 120 }), 1, []);
  });

  test("are as many as suit the processor", async () => {
    const backend = await WasmBackend.create({ spawn });
    open.push(backend);
    expect(backend.threads).toBe(threadsFor(availableParallelism()));
  });

  test("wake after a long rest", async () => {
    const bench = await Bench.make(3);
    const program = bench.record({ kernel: INCREMENT, items: 1000 });
    for (let i = 0; i < 5; i++) {
      await bench.backend.submitAndRead(program, 1, []);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(new Set(await bench.words(bench.a, 1000))).toEqual(new Set([5]));
  });
});

describe("dispose", () => {
  test("ends what runs and everything after", async () => {
    const bench = await Bench.make(2);
    const program = bench.record({ kernel: NOTHING, items: 100 });
    const running = bench.backend.submitAndRead(program, 10_000_000, []);
    await new Promise((resolve) => setTimeout(resolve, 50));
    bench.backend.dispose();
    bench.backend.dispose();
    await expect(running).rejects.toMatchObject({ kind: "disposed" });
    await expect(bench.backend.idle()).rejects.toMatchObject({ kind: "disposed" });
    expect(() => bench.backend.write(bench.a, 0, new Uint8Array(4))).toThrow(/disposed/);
    await expect(Promise.race([bench.backend.lost, Promise.resolve("not lost")])).resolves.toBe("not lost");
  });

  test("ends the helpers, asleep or not", async () => {
    const ended: Promise<void>[] = [];
    const watched: SpawnThread = (events) => {
      const { promise, end } = deferred();
      ended.push(promise);
      return spawn({
        ...events,
        onEnd: (reason) => {
          end();
          events.onEnd(reason);
        },
      });
    };
    const bench = await Bench.make(4, 10, { spawn: watched });
    await bench.backend.submitAndRead(bench.record({ kernel: NOTHING, items: 100 }), 1, []);
    await new Promise((resolve) => setTimeout(resolve, 20));
    bench.backend.dispose();
    expect(ended).toHaveLength(3);
    await Promise.all(ended);
  });
});

function deferred(): { promise: Promise<void>; end: () => void } {
  let end: () => void = () => undefined;
  const promise = new Promise<void>((resolve) => (end = resolve));
  return { promise, end };
}

test("counters say what was done", async () => {
  const bench = await Bench.make(2, 100_000);
  const program = bench.record({ kernel: INCREMENT, items: 10 }, { kernel: NOTHING, items: 1 });
  bench.put(bench.a, 1, 2, 3);
  bench.backend.submit(program, 3);
  await bench.backend.submitAndRead(program, 1, [{ buffer: bench.a, offset: 0, bytes: 8 }]);
  await bench.backend.idle();
  expect(bench.backend.counters).toEqual({
    dispatches: 8,
    submits: 2,
    readbacks: 1,
    bindGroupsCreated: 0,
    bytesUploaded: 12,
    bytesReadBack: 8,
    gpuBytes: 2 ** 20 + 2 * 65536 + 7 * 65536,
  });
});

test("what lies outside of a buffer is refused", async () => {
  const { backend, a, b } = await Bench.make(1, 10);
  expect(() => backend.write(a, 4, new Uint8Array(37))).toThrow(/bytes 4 to 44 of buffer 0, which has 40/);
  expect(() => backend.write(a, 2, new Uint8Array(4))).toThrow(/buffer 0/);
  await expect(backend.read({ buffer: b, offset: 64, bytes: 4 })).rejects.toThrow(/buffer 1/);
  expect(() => backend.write(7, 0, new Uint8Array(4))).toThrow(/buffer 7 does not exist/);
  expect(() => backend.submit(3, 1)).toThrow(/program 3 is not recorded/);
  expect(() => backend.record("p", [{ kernel: AFFINE, buffers: [a], grid: [1, 1, 1] }])).toThrow(
    /p: dispatch 0 binds 1 buffers to kernel 1/,
  );
  await expect(backend.createBuffers([])).rejects.toThrow(/one call/);
});
