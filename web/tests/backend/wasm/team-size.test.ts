// How many threads take part, where it is known how long a run takes with each number of them.
import { describe, expect, test } from "vitest";
import { TeamSize } from "../../../src/backend/wasm/team-size";

interface Run {
  ms: number;
  waited: number;
}

/** Runs `count` times; how often with each size. */
function run(size: TeamSize, count: number, take: (threads: number) => Run): Record<number, number> {
  const seen: Record<number, number> = {};
  for (let i = 0; i < count; i++) {
    const threads = size.size;
    seen[threads] = (seen[threads] ?? 0) + 1;
    const { ms, waited } = take(threads);
    size.observe(ms, waited);
  }
  return seen;
}

/** Every thread has a processor. */
const free = (threads: number): Run => ({ ms: 12 / threads + 1, waited: 0.5 });
/** The second has half of one: every dispatch waits for it. */
const contended = (threads: number): Run => (threads === 1 ? { ms: 13, waited: 0 } : { ms: 18, waited: 10 });

describe("the size of a team", () => {
  test("is all threads while these run", () => {
    expect(run(new TeamSize(2), 1000, free)).toEqual({ 2: 1000 });
    expect(run(new TeamSize(8), 1000, free)).toEqual({ 8: 1000 });
  });

  test("is one where two are slower, but for rare trials", () => {
    const seen = run(new TeamSize(2), 1000, contended);
    expect(seen[2]).toBeLessThan(80);
  });

  test("stays where fewer are no faster, though threads wait", () => {
    const seen = run(new TeamSize(2), 1000, (threads) => (threads === 1 ? { ms: 13, waited: 0 } : { ms: 12.9, waited: 6 }));
    expect(seen[1]).toBeLessThan(80);
  });

  test("follows what else runs on the machine", () => {
    const size = new TeamSize(2);
    run(size, 500, free);
    expect(run(size, 300, contended)[2]).toBeLessThan(80);
    run(size, 512, free); // At most so many runs until the larger team is tried again.
    expect(run(size, 300, free)).toEqual({ 2: 300 });
  });

  test("may be between", () => {
    const size = new TeamSize(8);
    run(size, 100, (threads) => (threads > 4 ? { ms: 10, waited: 8 } : { ms: 24 / threads, waited: 0.5 }));
    expect(run(size, 8, (threads) => ({ ms: 24 / threads, waited: 0.5 }))[4]).toBe(8);
  });

  test("of one thread is one", () => {
    expect(run(new TeamSize(1), 100, () => ({ ms: 1, waited: 0 }))).toEqual({ 1: 100 });
  });
});
