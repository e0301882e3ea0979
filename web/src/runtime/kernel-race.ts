// Measures a program's alternatives kernel by kernel: in each place of the program the fastest may run.
//
// A kernel's dispatches are timed on their own, so that a slow device says something in little time, and a prefill chunk at
// its full length: one dispatch of a kernel, of one layer, stands for all of them. The buffers hold garbage afterwards.

import { median } from "./median";
import type { Lineup } from "./lineup";

/** Runs a part so many times and waits for the end. */
export type RunPart = (times: number) => Promise<void>;

/** What a program's candidates differ in, and how to run it. */
export interface Race extends Lineup {
  /** Puts the state to where the program is used. */
  prepare: () => void;
  run: ReadonlyMap<number, RunPart>;
  /** What `choice` calls an own kernel. */
  entry: (kernel: number) => string;
}

export interface RaceRules {
  /** Milliseconds a run, of so many in one sample; an empty submit is taken off. */
  timed: (run: RunPart, times: number) => Promise<number>;
  hasTime: () => boolean;
  /** A sample should take this long. */
  sampleMs: number;
  /** By what answers are irregular. */
  jitterMs: number;
  mostRepeats: number;
  rounds: { least: number; most: number };
  /** An entrant has to take less than this much of the time. */
  gain: number;
  /** Of a time: what is not known to this is not known. */
  exact: number;
}

export interface RaceVerdict {
  /** By own kernels' entries, or of the whole program under "". */
  choice: Record<string, string>;
  /** Of all its dispatches in the program, by own kernels' entries and whose kernel it is; "own" is the plan's. */
  milliseconds: Record<string, Record<string, number>>;
  /** Something was too close to call. */
  unsure: boolean;
}

interface Time {
  /** Of all dispatches of the program. */
  ms: number;
  /** Milliseconds by which that may be wrong. */
  error: number;
}

/** @returns undefined where there was no time to measure every part */
export async function raceKernels(race: Race, rules: RaceRules): Promise<RaceVerdict | undefined> {
  const times = await timeParts(race, rules);
  if (times === undefined) return undefined;
  const verdict: RaceVerdict = { choice: {}, milliseconds: {}, unsure: false };
  const none: Time = { ms: 0, error: 0 };
  const inPlace = new Set(race.sites.map(({ kernel }) => kernel));
  let best = none;
  for (const { kernel, others } of race.sites) {
    const mine = times.get(kernel) ?? none;
    const ranked = others
      .map(({ name, kernel: other }) => ({ name, time: times.get(other) ?? none }))
      .toSorted((a, b) => a.time.ms - b.time.ms);
    verdict.milliseconds[race.entry(kernel)] = {
      own: mine.ms,
      ...Object.fromEntries(ranked.map(({ name, time }) => [name, time.ms])),
    };
    const [first] = ranked;
    const winner = first === undefined ? "own" : compared(mine, first.time, rules);
    if (winner === "other" && first !== undefined) verdict.choice[race.entry(kernel)] = first.name;
    if (winner === "unsure") verdict.unsure = true;
    best = sum([best, winner === "other" && first !== undefined ? first.time : mine]);
  }
  // Kernels that no single one stands in for.
  for (const [kernel] of race.parts) if (race.owned.has(kernel) && !inPlace.has(kernel)) best = sum([best, times.get(kernel) ?? none]);
  if (race.wholes.length > 0) verdict.milliseconds[""] = { own: best.ms };
  const wholes = race.wholes.map(({ name, kernels }) => ({ name, time: sum(kernels.map((kernel) => times.get(kernel) ?? none)) }));
  for (const { name, time } of wholes) Object.assign(verdict.milliseconds[""] ?? {}, { [name]: time.ms });
  const [first] = wholes.toSorted((a, b) => a.time.ms - b.time.ms);
  if (first !== undefined) {
    const winner = compared(best, first.time, rules);
    if (winner === "other") verdict.choice = { "": first.name };
    if (winner === "unsure") verdict.unsure = true;
  }
  return verdict;
}

function sum(times: readonly Time[]): Time {
  return { ms: times.reduce((total, { ms }) => total + ms, 0), error: times.reduce((total, { error }) => total + error, 0) };
}

function compared(mine: Time, other: Time, { gain, exact }: RaceRules): "own" | "other" | "unsure" {
  const unsure = (mine.error + other.error) / Math.max(mine.ms, 1e-6);
  if (other.ms < (gain - (unsure > exact ? unsure : 0)) * mine.ms) return "other";
  return unsure > exact && other.ms < (1 + unsure) * mine.ms ? "unsure" : "own";
}

/** In turns, so that a clock that rises or falls meanwhile favours no one. */
async function timeParts(race: Race, rules: RaceRules): Promise<Map<number, Time> | undefined> {
  const { rounds, sampleMs, mostRepeats, timed, hasTime } = rules;
  const repeats = new Map<number, number>();
  race.prepare();
  for (const [kernel, run] of race.run) {
    if (!hasTime()) return undefined;
    await timed(run, 1); // A first run may compile.
    let ms = await timed(run, 1);
    let times = 1;
    while (ms * times < sampleMs / 2 && times < mostRepeats) {
      times = Math.min(mostRepeats, Math.ceil(times * Math.max(2, Math.min(8, sampleMs / Math.max(ms * times, 0.01)))));
      ms = await timed(run, times);
    }
    repeats.set(kernel, times);
  }
  const samples = new Map([...race.run.keys()].map((kernel): [number, number[]] => [kernel, []]));
  for (let round = 0; round < rounds.most && (round < rounds.least || hasTime()); round++) {
    for (const [kernel, run] of race.run) {
      if (round < rounds.least && !hasTime()) return undefined;
      samples.get(kernel)?.push(await timed(run, repeats.get(kernel) ?? 1));
    }
  }
  return new Map(
    [...race.parts].map(([kernel, { count, dispatches }]) => {
      const scale = count / Math.max(1, dispatches.length);
      const times = repeats.get(kernel) ?? 1;
      return [kernel, { ms: scale * median(samples.get(kernel) ?? []), error: (scale * rules.jitterMs) / times }];
    }),
  );
}
