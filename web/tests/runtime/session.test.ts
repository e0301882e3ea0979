// The session on a runner without a GPU, whose next token depends on every KV row, so that a stale row shows.
import { describe, expect, test, vi } from "vitest";
import type { PlanRunner, SavedRows } from "../../src/runtime/replay";
import type { Constraint, Next } from "../../src/api/constraint";
import { systemClock } from "../../src/runtime/clock";
import { Draft } from "../../src/runtime/draft";
import { answerCounts, GREEDY, type Sampling } from "../../src/runtime/sampling";
import { Session } from "../../src/runtime/session";

const VOCAB = 101;

function next(rows: readonly number[]): number {
  return rows.reduce((h, id) => (h * 31 + id + 1) % 100_003, 7) % VOCAB;
}

function reference(ids: readonly number[], count: number): number[] {
  const out: number[] = [];
  while (out.length < count) out.push(next([...ids, ...out]));
  return out;
}

class FakeRunner implements PlanRunner {
  readonly vocabSize = VOCAB;
  readonly ringSize = 16;
  readonly prefillChunks = [16, 4];
  padding = true;
  overlaps = true;
  /** Milliseconds that a token of a prompt takes. */
  tokenMs = 0;
  readonly kv: number[] = [];
  readonly prefilled: [number, number, number][] = [];
  counts: Uint32Array | undefined;
  sampling: Sampling | undefined;
  failing = false;
  /** As the sampler does: counts what it draws. */
  countsDrawn = false;
  /** Hears the rows that a token is drawn after, before it is counted. */
  onDraw: (rows: number[]) => void = () => undefined;
  /** Decode steps until it fails. */
  lasts = Infinity;
  readonly masks = true;
  mask: Uint32Array | undefined;
  bias: Float32Array | undefined;
  readonly calls: string[] = [];
  private position = 0;
  private token = 0;

  /** Rows that there is memory for. */
  memory = Infinity;

  constructor(public capacity = 64) {}

  readonly rowBytes = 4;
  /** Rows that were set aside and not dropped since. */
  saved = 0;
  /** Called while rows are being set aside. */
  whileSaving = () => {};
  save(rows: number): Promise<SavedRows | undefined> {
    this.whileSaving();
    const copy = this.kv.slice(0, rows);
    this.saved += rows;
    return Promise.resolve({
      bytes: rows * this.rowBytes,
      restore: (count: number) => copy.slice(0, count).forEach((id, i) => (this.kv[i] = id)),
      drop: () => (this.saved -= rows),
    });
  }

  makeRoom(rows: number): void {
    if (Math.min(rows, this.capacity) > this.memory) this.capacity = this.memory;
  }
  writeSampling(sampling: Sampling): void {
    this.sampling = sampling;
  }
  writeCounts(counts: Uint32Array<ArrayBuffer>): void {
    this.counts = counts;
  }
  writeCount(token: number, count: number): void {
    if (this.counts !== undefined) this.counts[token] = count;
  }
  seek(position: number, token: number): void {
    this.position = position;
    this.token = token;
  }
  prefill(size: number, position: number, ids: readonly number[]): void {
    this.prefilled.push([size, position, ids.length]);
    ids.forEach((id, i) => (this.kv[position + i] = id));
  }
  async decode(steps: number, position: number): Promise<Uint32Array> {
    if (this.failing || (this.lasts -= steps) < 0) throw new Error("lost");
    expect(position).toBe(this.position);
    const out = new Uint32Array(steps);
    for (let i = 0; i < steps; i++) {
      expect(this.position).toBeLessThan(this.capacity);
      this.kv[this.position] = this.token;
      this.token = next(this.kv.slice(0, this.position + 1));
      this.position += 1;
      this.onDraw(this.kv.slice(0, this.position));
      if (this.countsDrawn && this.counts !== undefined) this.counts[this.token] = (this.counts[this.token] ?? 0) + 1;
      out[i] = this.token;
    }
    await new Promise((resolve) => setTimeout(resolve, 0));
    return out;
  }
  verifyRows = 8;
  /** Guessed tokens of each draft. */
  readonly verified: number[] = [];
  async verify(position: number, ids: readonly number[]): Promise<Uint32Array> {
    this.verified.push(ids.length - 1);
    expect(ids.length).toBeLessThanOrEqual(this.verifyRows);
    this.position = position;
    const out = new Uint32Array(ids.length);
    for (const [i, id] of ids.entries()) {
      this.token = id;
      out.set(await this.decode(1, position + i), i);
    }
    this.position = 1e9; // To be written anew.
    return out;
  }
  forward(): void {
    this.calls.push("forward");
    expect(this.position).toBeLessThan(this.capacity);
    this.kv[this.position] = this.token;
  }
  writeMask(words: Uint32Array<ArrayBuffer>): void {
    this.calls.push("mask");
    this.mask = words.slice();
  }
  writeBias(bias: Float32Array<ArrayBuffer>): void {
    this.bias = bias.slice();
  }
  /** Of the tokens that the mask has the nearest behind the free one, biases being steps that a token is nearer. */
  async sample(position: number): Promise<number> {
    this.calls.push("sample");
    if ((this.lasts -= 1) < 0) throw new Error("lost");
    expect(position).toBe(this.position);
    const free = next(this.kv.slice(0, this.position + 1));
    const score = (id: number) => (this.bias?.[id] ?? 0) - ((id + VOCAB - free) % VOCAB);
    const allowed = Array.from({ length: VOCAB }, (_, id) => id).filter((id) => ((this.mask?.[id >> 5] ?? 0) >>> (id & 31)) & 1);
    this.token = allowed.reduce((best, id) => (score(id) > score(best) ? id : best));
    this.position += 1;
    const { token } = this;
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.calls.push("token");
    return token;
  }
  readonly embeds = false;
  output(): Promise<Float32Array> {
    return Promise.resolve(new Float32Array([this.token]));
  }
  roundTrip(): Promise<void> {
    return Promise.resolve();
  }
  idle(): Promise<void> {
    const [, , tokens] = this.prefilled.at(-1) ?? [0, 0, 0];
    return new Promise((resolve) => (this.tokenMs === 0 ? resolve() : setTimeout(resolve, tokens * this.tokenMs)));
  }
}

function ask(session: Session, ids: number[], maxTokens: number | undefined, more: Partial<Parameters<Session["generate"]>[0]> = {}) {
  const base = { ids, maxTokens, sampling: GREEDY, stopTokenIds: new Set<number>(), signal: new AbortController().signal };
  return session.generate({ ...base, ...more });
}

/** The invariant: what the session calls resident is what the KV cache holds. */
function checkResident(session: Session, runner: FakeRunner): void {
  expect(runner.kv.slice(0, session.residentIds.length)).toEqual([...session.residentIds]);
}

const PROMPT = [5, 9, 2, 77, 31, 8];

describe("a session", () => {
  test.each([1, 2, 5, 6, 20, 40])("answers a prompt of %i tokens", async (length) => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    const ids = Array.from({ length }, (_, i) => (i * 37) % VOCAB);
    const { tokens, finishReason } = await ask(session, ids, 20);
    expect(tokens).toEqual(reference(ids, 20));
    expect(finishReason).toBe("length");
    checkResident(session, runner);
    expect(session.residentIds).toHaveLength(length + 19);
  });

  test("finds conversations again that others took the place of", async () => {
    const runner = new FakeRunner(1000);
    const session = new Session(runner);
    const talks = [0, 1, 2].map((n) => Array.from({ length: 100 + 20 * n }, (_, i) => (i * (37 + n) + n) % VOCAB));
    for (let round = 0; round < 3; round++) {
      for (const ids of talks) {
        const before = { ...session.counters };
        const { tokens, reusedTokens } = await ask(session, ids, 5);
        expect(tokens).toEqual(reference(ids, 5));
        checkResident(session, runner);
        expect(reusedTokens).toBe(round === 0 ? 0 : ids.length - 2);
        expect(session.counters.restoredTokens - before.restoredTokens).toBe(reusedTokens);
        ids.push(...tokens, (7 * ids.length) % VOCAB); // The last token's row is not there: it was sampled last.
      }
    }
    expect(runner.saved).toBeLessThanOrEqual(1000);
    session.reset();
    expect(runner.saved, "resetting forgets them all").toBe(0);
    expect((await ask(session, talks[0] ?? [], 1)).reusedTokens).toBe(0);
  });

  test("sets aside no more than the cache holds, what was used the longest time ago goes first", async () => {
    const runner = new FakeRunner(150);
    const session = new Session(runner);
    const talk = (n: number) => Array.from({ length: 70 }, (_, i) => (i * (37 + n) + n) % VOCAB);
    for (const n of [0, 1, 2, 3]) await ask(session, talk(n), 1); // Two of the three that were set aside fit.
    expect(runner.saved).toBe(140);
    expect((await ask(session, talk(1), 1)).reusedTokens).toBe(69);
    checkResident(session, runner);
    expect((await ask(session, talk(0), 1)).reusedTokens).toBe(0);
    expect(runner.saved).toBe(140);
  });

  test("leaves all as it was when it is stopped while rows are set aside", async () => {
    const runner = new FakeRunner(1000);
    const session = new Session(runner);
    const first = Array.from({ length: 100 }, (_, i) => (i * 37) % VOCAB);
    await ask(session, first, 5);
    const controller = new AbortController();
    runner.whileSaving = () => controller.abort();
    const { length } = runner.calls;
    const other = first.map((id) => (id + 1) % VOCAB);
    const { tokens, finishReason } = await ask(session, other, 5, { signal: controller.signal });
    expect([tokens, finishReason]).toEqual([[], "abort"]);
    expect(runner.calls.slice(length)).toEqual([]);
    expect(runner.saved).toBe(0);
    checkResident(session, runner);
    expect((await ask(session, [...first, 3], 5)).reusedTokens).toBe(100);
  });

  test("sets nothing aside for an answer that is asked for again", async () => {
    const runner = new FakeRunner(400);
    const session = new Session(runner);
    const ids = Array.from({ length: 200 }, (_, i) => (i * 37) % VOCAB);
    for (let i = 0; i < 3; i++) expect((await ask(session, ids, 45)).tokens).toEqual(reference(ids, 45));
    expect(runner.saved).toBe(0);
  });

  test("ends where there is no memory for more rows, and takes no longer prompt from then on", async () => {
    const runner = Object.assign(new FakeRunner(), { memory: 20 });
    const session = new Session(runner);
    const { tokens, finishReason } = await ask(session, PROMPT, 40);
    expect(tokens).toEqual(reference(PROMPT, 15)); // The last token needs no row.
    expect(finishReason).toBe("length");
    checkResident(session, runner);
    const longer = Array.from({ length: 21 }, (_, i) => i);
    await expect(ask(session, longer, 1)).rejects.toMatchObject({ kind: "context-overflow", got: "21 tokens", expected: "at most 20" });
    expect((await ask(session, longer.slice(1), 1)).tokens).toEqual(reference(longer.slice(1), 1));
  });

  test("takes chunks that end soon where padding costs nothing", async () => {
    const runner = Object.assign(new FakeRunner(), { padding: false, tokenMs: 5, prefillChunks: [64] });
    const session = new Session(runner);
    const ids = Array.from({ length: 60 }, (_, i) => (i * 37) % VOCAB);
    const controller = new AbortController();
    const stopped = ask(session, ids, 4, { signal: controller.signal });
    setTimeout(() => controller.abort(), 150);
    expect((await stopped).finishReason).toBe("abort");
    const lengths = runner.prefilled.map(([, , length]) => length);
    expect(lengths[0]).toBe(16);
    expect(Math.max(...lengths.slice(1))).toBeLessThanOrEqual(16);
    expect(session.residentIds.length).toBeLessThan(59);
    checkResident(session, runner);
    expect((await ask(session, ids, 4)).tokens).toEqual(reference(ids, 4));
  });

  test("reuses the longest common prefix and nothing beyond it", async () => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    const { tokens } = await ask(session, PROMPT, 10);
    const same = await ask(session, PROMPT, 10);
    expect(same.tokens).toEqual(tokens);
    expect(same.reusedTokens).toBe(PROMPT.length - 1);
    const branch = [...PROMPT.slice(0, 3), 1, 1, 1];
    const other = await ask(session, branch, 10);
    expect(other.reusedTokens).toBe(3);
    expect(other.tokens).toEqual(reference(branch, 10));
    checkResident(session, runner);
    session.reset();
    expect((await ask(session, branch, 1)).reusedTokens).toBe(0);
  });

  test("forgets what ran beyond a stop id", async () => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    await ask(session, PROMPT, 40); // teaches the pace, so that several steps are in flight
    const answer = reference(PROMPT, 40);
    const stop = answer[25] ?? 0;
    const expected = answer.slice(0, answer.indexOf(stop));
    const stopped = await ask(session, PROMPT, 50, { stopTokenIds: new Set([stop]) });
    expect(stopped.tokens).toEqual(expected);
    expect(stopped.finishReason).toBe("stop");
    checkResident(session, runner);
    const continued = [...PROMPT, ...expected, stop, 3];
    const then = await ask(session, continued, 10);
    expect(then.tokens).toEqual(reference(continued, 10));
    expect(then.reusedTokens).toBeGreaterThanOrEqual(PROMPT.length + expected.length);
  });

  test("ends when the receiver of tokens says so", async () => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    const seen: number[] = [];
    const { tokens, finishReason } = await ask(session, PROMPT, 50, { onToken: (token) => seen.push(token) === 12 });
    expect(tokens).toEqual(reference(PROMPT, 12));
    expect(seen).toEqual(tokens);
    expect(finishReason).toBe("stop");
    checkResident(session, runner);
  });

  test("keeps the rows of the conversation when a request is given up while it waits", async () => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    const { tokens } = await ask(session, PROMPT, 10);
    const before = [...session.residentIds];
    const other = await ask(session, [99, 98, 97], 10, { signal: AbortSignal.abort() });
    expect(other).toMatchObject({ tokens: [], finishReason: "abort", reusedTokens: 0 });
    expect(session.residentIds).toEqual(before);
    checkResident(session, runner);
    const continued = [...PROMPT, ...tokens, 3];
    const then = await ask(session, continued, 5);
    expect(then.reusedTokens).toBe(before.length);
    expect(then.tokens).toEqual(reference(continued, 5));
  });

  test("ends at an abort, before or in the middle", async () => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    const early = await ask(session, PROMPT, 50, { signal: AbortSignal.abort() });
    expect(early).toMatchObject({ tokens: [], finishReason: "abort" });
    const controller = new AbortController();
    let count = 0;
    const onToken = () => {
      if (++count === 5) controller.abort();
      return false;
    };
    const { tokens, finishReason } = await ask(session, PROMPT, 50, { signal: controller.signal, onToken });
    expect(finishReason).toBe("abort");
    expect(tokens).toEqual(reference(PROMPT, tokens.length));
    checkResident(session, runner);
  });

  test("stops at the end of the context", async () => {
    const runner = new FakeRunner(10);
    const session = new Session(runner);
    const { tokens, finishReason } = await ask(session, PROMPT, undefined);
    expect(tokens).toHaveLength(10 - PROMPT.length + 1);
    expect(finishReason).toBe("length");
    await expect(ask(session, Array<number>(11).fill(1), 1)).rejects.toMatchObject({ kind: "context-overflow" });
    await expect(ask(session, [], 1)).rejects.toMatchObject({ kind: "request" });
    await expect(ask(session, [VOCAB], 1)).rejects.toThrow(/token id: got 101, expected/);
  });

  test("gives logits from a fresh sequence", async () => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    await ask(session, PROMPT, 10);
    expect([...(await session.logits(PROMPT))]).toEqual([next(PROMPT)]);
    expect(session.residentIds).toEqual(PROMPT);
    checkResident(session, runner);
  });

  test.each([1, 3, PROMPT.length, 10, 1000])("counts the last %i tokens for the penalties", async (window) => {
    const runner = Object.assign(new FakeRunner(200), { countsDrawn: true });
    const session = new Session(runner);
    const prompt = [...PROMPT, PROMPT[0] ?? 0];
    let draws = 0;
    runner.onDraw = (rows) => {
      draws += 1;
      const from = Math.max(0, rows.length - window);
      const expected = new Uint32Array(VOCAB);
      rows.slice(from, prompt.length).forEach((id) => (expected[id] = 0x80000000));
      rows.slice(Math.max(from, prompt.length)).forEach((id) => (expected[id] = (expected[id] ?? 0) + 1));
      expect(runner.counts).toEqual(expected);
    };
    const { tokens } = await ask(session, prompt, 150, { sampling: { ...GREEDY, repetitionPenalty: 1.1 }, repetitionWindow: window });
    expect(tokens).toEqual(reference(prompt, 150));
    expect(new Set(tokens).size, "tokens that come twice are what is counted").toBeLessThan(150);
    expect(draws).toBe(150);
    checkResident(session, runner);
  });

  test("uploads counts only when a penalty reads them", async () => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    await ask(session, PROMPT, 2);
    expect(runner.counts).toBeUndefined();
    await ask(session, PROMPT, 2, { sampling: { ...GREEDY, repetitionPenalty: 1.2 } });
    expect(runner.counts?.[77]).toBe(0x80000000);
    expect(runner.counts?.[78]).toBe(0);
  });

  test.each([0, 1, 7, 19])("goes on where it was when the runner fails after %i steps", async (lasts) => {
    const first = new FakeRunner();
    first.lasts = lasts;
    const second = new FakeRunner();
    const seen: number[] = [];
    let delivered = -1;
    const replace = vi.fn((failed: PlanRunner) => {
      expect(failed).toBe(first);
      delivered = seen.length;
      return Promise.resolve(second);
    });
    const session = new Session(first, replace);
    const sampling = { ...GREEDY, frequencyPenalty: 0.5 };
    const onToken = (token: number) => seen.push(token) < 0;
    const { tokens, finishReason, promptTokens, decodedTokens } = await ask(session, PROMPT, 20, { sampling, onToken });
    expect(replace).toHaveBeenCalledTimes(1);
    expect(tokens).toEqual(reference(PROMPT, 20));
    expect(seen).toEqual(tokens);
    expect({ finishReason, promptTokens, decodedTokens }).toEqual({
      finishReason: "length",
      promptTokens: PROMPT.length,
      decodedTokens: 19,
    });
    expect(session.counters).toMatchObject({ requests: 1, tokens: 20 });
    const counted = [...(second.counts ?? [])].map((count) => count & 0x7fffffff).reduce((sum, count) => sum + count, 0);
    expect(counted, "what the first runner generated counts for the penalties").toBe(delivered);
    for (const id of PROMPT) expect((second.counts?.[id] ?? 0) >>> 31).toBe(1);
    checkResident(session, second);
    expect(session.residentIds).toHaveLength(PROMPT.length + 19);
    expect([...(await session.logits(PROMPT))]).toEqual([next(PROMPT)]);
  });

  test("gives what there is when it is aborted while a runner is being replaced", async () => {
    const first = new FakeRunner();
    first.lasts = 4;
    const controller = new AbortController();
    const session = new Session(first, () => {
      setTimeout(() => controller.abort(), 1);
      return new Promise(() => undefined);
    });
    const { tokens, finishReason } = await ask(session, PROMPT, 50, { signal: controller.signal });
    expect(finishReason).toBe("abort");
    expect(tokens.length).toBeGreaterThan(0);
    expect(tokens).toEqual(reference(PROMPT, tokens.length));
    expect(session.residentIds).toEqual([]);
  });

  test("trusts no row after the device failed", async () => {
    const runner = new FakeRunner();
    const session = new Session(runner);
    await ask(session, PROMPT, 5);
    runner.failing = true;
    await expect(ask(session, PROMPT, 5)).rejects.toThrow("lost");
    expect(session.residentIds).toEqual([]);
  });
});

describe("a session whose logits are watched", () => {
  const START = [5, 6, 7];

  test("gives the same tokens, and what it looked at", async () => {
    const session = new Session(new FakeRunner());
    const seen: number[][] = [];
    const watch = (logits: Float32Array, token: number, position: number, generated: readonly number[]) => {
      seen.push([logits[0] ?? -1, token, position, generated.length]);
      return token;
    };
    const { tokens } = await ask(session, START, 4, { watch });
    expect(tokens).toEqual(reference(START, 4));
    expect(seen).toEqual(tokens.map((token, i) => [token, token, 3 + i, i]));
    expect(session.residentIds).toEqual([...START, ...tokens.slice(0, 3)]);
  });

  test("goes on with the tokens that are put in the place of its own", async () => {
    const session = new Session(new FakeRunner());
    const expected: number[] = [];
    while (expected.length < 5) expected.push((next([...START, ...expected]) + 1) % VOCAB);
    const { tokens } = await ask(session, START, 5, { watch: (_logits, token) => (token + 1) % VOCAB });
    expect(tokens).toEqual(expected);
    const again = await ask(session, [...START, ...expected], 3);
    expect(again.tokens).toEqual(reference([...START, ...expected], 3));
    expect(again.reusedTokens).toBeGreaterThan(5);
  });

  test("can be stopped while it waits", async () => {
    const session = new Session(new FakeRunner());
    const controller = new AbortController();
    const watch = () => {
      controller.abort();
      return new Promise<number>(() => undefined);
    };
    const { finishReason, tokens } = await ask(session, START, 5, { watch, signal: controller.signal });
    expect([finishReason, tokens]).toEqual(["abort", []]);
    expect((await ask(session, START, 3)).tokens).toEqual(reference(START, 3));
  });

  test("leaves the next request alone when what it waited for comes late", async () => {
    const session = new Session(new FakeRunner());
    const controller = new AbortController();
    let late: (token: number) => void = () => undefined;
    const watch = () => {
      controller.abort();
      return new Promise<number>((resolve) => (late = resolve));
    };
    await ask(session, START, 5, { watch, signal: controller.signal });
    const following = ask(session, START, 5, { onToken: () => (late(99), false) });
    expect((await following).tokens).toEqual(reference(START, 5));
  });
});

/** Tokens 10 to 19; after every third of them 90, 91, 92, which are forced; ends with `most` tokens. */
class Bursts implements Constraint {
  readonly tokens: number[] = [];
  constructor(readonly most = Infinity) {}
  next(): Next {
    if (this.tokens.length >= this.most) return { kind: "ended" };
    const tokens = this.forced();
    if (tokens.length > 0) return { kind: "forced", tokens };
    const mask = new Uint32Array(Math.ceil(VOCAB / 32));
    for (let id = 10; id < 20; id++) mask[id >> 5] = (mask[id >> 5] ?? 0) | (1 << (id & 31));
    return { kind: "some", mask };
  }
  private forced(): number[] {
    const place = this.tokens.length % 6;
    return place < 3 ? [] : [90, 91, 92].slice(place - 3);
  }
  accept(token: number): void {
    const [forced] = this.forced();
    if (forced === undefined ? token < 10 || token > 19 : token !== forced) throw new Error(`${token} is not allowed`);
    this.tokens.push(token);
  }
}

/** What FakeRunner draws when only 10 to 19 are allowed, and Bursts forces the rest. */
function bursts(ids: readonly number[], count: number): number[] {
  const out: number[] = [];
  while (out.length < count) {
    const place = out.length % 6;
    const free = next([...ids, ...out]);
    out.push(place < 3 ? (free >= 10 && free < 20 ? free : 10) : 87 + place);
  }
  return out;
}

describe("a constrained answer", () => {
  test.each([true, false])("holds allowed and forced tokens (a device that overlaps: %s)", async (overlaps) => {
    const runner = Object.assign(new FakeRunner(), { overlaps, padding: overlaps });
    const session = new Session(runner);
    const { tokens, finishReason } = await ask(session, PROMPT, 20, { constraint: new Bursts() });
    expect(tokens).toEqual(bursts(PROMPT, 20));
    expect(finishReason).toBe("length");
    checkResident(session, runner);
    // Forced tokens are appended, never drawn.
    expect(runner.calls.filter((call) => call === "sample")).toHaveLength(tokens.filter((token) => token < 90).length);
    const again = await ask(session, [...PROMPT, ...tokens, 4], 8);
    expect(again.reusedTokens).toBeGreaterThanOrEqual(PROMPT.length + 19);
    expect(again.tokens).toEqual(reference([...PROMPT, ...tokens, 4], 8));
  });

  test("begins the next step before it waits for this one's token, where the device overlaps", async () => {
    const overlapping = new FakeRunner();
    const one = Object.assign(new FakeRunner(), { overlaps: false });
    for (const runner of [overlapping, one]) await ask(new Session(runner), PROMPT, 3, { constraint: new Bursts() });
    const ahead = ["mask", "sample", "forward", "token"];
    expect(overlapping.calls).toEqual(["forward", ...ahead, ...ahead, "mask", "sample", "token"]);
    expect(one.calls).toEqual([1, 2, 3].flatMap(() => ["forward", "mask", "sample", "token"]));
  });

  test("is whole when the constraint says so, and cut where the tokens or the context end", async () => {
    const stop = await ask(new Session(new FakeRunner()), PROMPT, undefined, { constraint: new Bursts(12) });
    expect([stop.tokens, stop.finishReason]).toEqual([bursts(PROMPT, 12), "stop"]);
    const cut = await ask(new Session(new FakeRunner()), PROMPT, 5, { constraint: new Bursts(12) });
    expect([cut.tokens, cut.finishReason]).toEqual([bursts(PROMPT, 5), "length"]);
    const full = await ask(new Session(new FakeRunner(16)), PROMPT, undefined, { constraint: new Bursts() });
    expect([full.tokens, full.finishReason]).toEqual([bursts(PROMPT, 11), "length"]);
    const said = await ask(new Session(new FakeRunner()), PROMPT, 30, { constraint: new Bursts(), stopTokenIds: new Set([91]) });
    expect([said.tokens, said.finishReason]).toEqual([bursts(PROMPT, 4), "stop"]);
  });

  test("goes on where it was on another device", async () => {
    const first = Object.assign(new FakeRunner(), { lasts: 5 });
    const second = new FakeRunner();
    const session = new Session(first, () => Promise.resolve(second));
    const { tokens } = await ask(session, PROMPT, 20, { constraint: new Bursts() });
    expect(tokens).toEqual(bursts(PROMPT, 20));
    checkResident(session, second);
  });

  test("is given up at once", async () => {
    const runner = Object.assign(new FakeRunner(), { sample: () => new Promise<number>(() => undefined) });
    const controller = new AbortController();
    const session = new Session(runner);
    const answer = ask(session, PROMPT, 20, { constraint: new Bursts(), signal: controller.signal });
    setTimeout(() => controller.abort(), 5);
    expect(await answer).toMatchObject({ tokens: [], finishReason: "abort" });
    checkResident(session, runner);
  });

  test("needs a plan with a mask", async () => {
    const runner = Object.assign(new FakeRunner(), { masks: false });
    await expect(ask(new Session(runner), PROMPT, 4, { constraint: new Bursts() })).rejects.toThrow(/compile the model again/i);
  });
});

describe("a draft", () => {
  const MOST = 120;
  /** An answer's reference, and texts that are like it. */
  const wanted = reference(PROMPT, MOST);
  /** Nothing takes any time: a verification costs what it usually does. */
  const still = { ...systemClock, now: () => 0 };
  const run = async (ids: number[], more: Partial<Parameters<Session["generate"]>[0]> = {}, runner = new FakeRunner(1000)) => {
    const session = new Session(runner, undefined, still);
    const draft = new Draft(ids);
    const answer = await ask(session, PROMPT, MOST, { draft, ...more });
    checkResident(session, runner);
    return { answer, draft, runner, session };
  };

  test("that is the answer takes a pass for eight tokens", async () => {
    const { answer, draft, session } = await run(wanted);
    expect(answer.tokens).toEqual(wanted);
    expect(session.counters.decodeSteps).toBe(MOST / 8);
    expect([draft.accepted, draft.rejected]).toEqual([MOST - MOST / 8, 0]);
  });

  test.each([
    ["replaced", (id: number, i: number) => [i % 10 === 5 ? (id + 1) % VOCAB : id], 0.4],
    ["left out", (id: number, i: number) => (i % 20 === 5 ? [] : [id]), 0.4],
    ["put in", (id: number, i: number) => (i % 20 === 5 ? [3, 4, 5, id] : [id]), 0.4],
    ["moved", (_: number, i: number) => [wanted[(i + 60) % MOST] ?? 0], 0.4],
  ])("with tokens %s is found again behind each difference", async (_, change, most) => {
    const { answer, session } = await run(wanted.flatMap(change));
    expect(answer.tokens).toEqual(wanted);
    expect(session.counters.decodeSteps / MOST).toBeLessThan(most);
  });

  test("of another text ends soon, and costs little", async () => {
    const { answer, draft, runner, session } = await run(wanted.map((_, i) => (i * 7 + 1) % VOCAB));
    expect(answer.tokens).toEqual(wanted);
    expect(runner.verified.length).toBeLessThan(10);
    expect(session.counters.decodeSteps).toBeLessThanOrEqual(MOST + 10);
    expect(draft.rejected).toBeGreaterThan(0);
  });

  test("goes no further than the answer may", async () => {
    for (const most of [1, 2, 7, 8, 9]) {
      const { answer, runner } = await run(wanted, { maxTokens: most });
      expect(answer.tokens).toEqual(wanted.slice(0, most));
      expect(runner.kv).toHaveLength(PROMPT.length - 1 + most);
    }
    const full = await run(wanted, { maxTokens: undefined }, new FakeRunner(20));
    expect(full.answer.tokens).toEqual(wanted.slice(0, 15));
    const stop = wanted[11] ?? 0;
    const stopped = await run(wanted, { stopTokenIds: new Set([stop]) });
    expect(stopped.answer.tokens).toEqual(wanted.slice(0, wanted.indexOf(stop)));
    expect(stopped.answer.finishReason).toBe("stop");
  });

  test("is counted right by the penalties", async () => {
    const runner = Object.assign(new FakeRunner(1000), { countsDrawn: true });
    const seen: (number[] | undefined)[] = [];
    runner.onDraw = () => seen.push([...(runner.counts ?? [])]);
    const sampling = { ...GREEDY, repetitionPenalty: 1.1 };
    const { answer } = await run(
      wanted.map((id, i) => (i % 10 === 5 ? (id + 1) % VOCAB : id)),
      { sampling },
      runner,
    );
    expect(answer.tokens).toEqual(wanted);
    // Whatever was drawn in vain before it, the last draw finds the tokens of the answer alone.
    expect(seen.at(-1)).toEqual([...answerCounts(PROMPT, wanted.slice(0, -1), VOCAB)]);
  });

  test("is left alone where tokens are looked at one by one, and by plans that cannot verify", async () => {
    const watched = await run(wanted, { watch: (_logits, token) => token });
    const windowed = await run(wanted, { sampling: { ...GREEDY, repetitionPenalty: 1.1 }, repetitionWindow: 16 });
    const old = await run(wanted, {}, Object.assign(new FakeRunner(1000), { verifyRows: 0 }));
    for (const { answer, draft, runner } of [watched, windowed, old]) {
      expect(answer.tokens).toEqual(wanted);
      expect([runner.verified, draft.accepted, draft.rejected]).toEqual([[], 0, 0]);
    }
  });

  test("goes on where a runner failed", async () => {
    const runners = [Object.assign(new FakeRunner(1000), { lasts: 30 }), new FakeRunner(1000)] as const;
    const session = new Session(runners[0], () => Promise.resolve(runners[1]), still);
    const { tokens } = await ask(session, PROMPT, MOST, { draft: new Draft(wanted) });
    expect(tokens).toEqual(wanted);
    expect(runners[1].verified.length).toBeGreaterThan(5);
  });

  test("is stopped at once", async () => {
    const controller = new AbortController();
    const { answer } = await run(wanted, { signal: controller.signal, onToken: () => (controller.abort(), false) });
    expect(answer.finishReason).toBe("abort");
    expect(answer.tokens).toEqual(wanted.slice(0, answer.tokens.length));
    expect(answer.tokens.length).toBeLessThan(20);
  });
});
