// How long a thread that waits for the others keeps a processor busy, counted in looks; the clock is a fake.
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Team } from "../../../src/backend/wasm/team";

let looks = 0;
let sleeps = 0;

beforeEach(() => {
  let clock = 0;
  vi.spyOn(performance, "now").mockImplementation(() => (clock += 0.002));
  const load = Atomics.load.bind(Atomics) as (words: Int32Array, index: number) => number;
  vi.spyOn(Atomics, "load").mockImplementation(((words: Int32Array, index: number) => {
    looks += 1;
    return load(words, index);
  }) as typeof Atomics.load);
  vi.spyOn(Atomics, "wait").mockImplementation(() => {
    sleeps += 1;
    return "timed-out";
  });
});
afterEach(() => {
  vi.restoreAllMocks();
});

/** Waits for a thread that never comes; the looks until it slept. */
function wait(team: Team, phase: number): number {
  looks = 0;
  sleeps = 0;
  expect(team.passed(phase, 0.01)).toBe(false);
  expect(sleeps).toBeGreaterThan(0);
  return looks;
}

test("a thread that waits in vain sleeps, and the next times sooner", () => {
  const team = Team.create(2);
  const phase = team.arrive();
  const first = wait(team, phase);
  wait(team, phase);
  const then = Array.from({ length: 50 }, () => wait(team, phase));
  expect(first).toBeLessThan(4000);
  expect(Math.max(...then)).toBeLessThan(first / 4);
});

test("it tries for longer again now and then, and goes on doing so once that was worth it", () => {
  const team = Team.create(2);
  const phase = team.arrive();
  const first = wait(team, phase);
  const all = Array.from({ length: 200 }, () => wait(team, phase));
  const long = all.filter((count) => count > first / 2).length;
  expect(long).toBeGreaterThan(1);
  expect(long).toBeLessThan(10);
});

test("a thread that finds the others there does not sleep", () => {
  const team = Team.create(1);
  sleeps = 0;
  for (let i = 0; i < 10; i++) expect(team.passed(team.arrive(), 1)).toBe(true);
  expect(sleeps).toBe(0);
});
