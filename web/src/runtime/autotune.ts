// Measures which of a plan's alternatives runs each program fastest on the device at hand, and whether it computes the same.
//
// Knows plan runners (replay.ts) that share buffers; not where their kernels come from, nor how a choice is remembered. Where it
// is told what programs differ in, kernels are timed one by one (kernel-race.ts), else whole programs, by the clock, as a session
// would run them. The KV cache and the state hold garbage afterwards.

import type { Choice } from "../artifact/choice";
import { type Race, raceKernels, type RaceVerdict, type RunPart } from "./kernel-race";
import { median } from "./median";
import type { PlanRunner } from "./replay";
import { type Clock, systemClock } from "./clock";
import { GREEDY } from "./sampling";

/** A runner whose `programs` are an alternative's; the others are the plan's own. */
export interface Contender {
  name: string;
  /** How far its logits may be from those of the plan's own programs, of the largest. */
  tolerance: number;
  programs: ReadonlySet<string>;
  runner: PlanRunner;
}

export interface Verdict {
  choice: Choice;
  /** Of a run, by program and contender; "own" is the plan's own program. */
  milliseconds: Record<string, Record<string, number>>;
  rejected: { alternative: string; reason: string }[];
  /** Programs of which nothing can be said: the device's answers come too late or too irregularly for the budget. */
  unmeasured: string[];
}

export const OWN = "own";
/** An alternative has to be this much faster: clocks and drivers are not exact, and the plan's own programs are known. */
const GAIN = 0.97;
const LEAST_ROUNDS = 2;
const MOST_ROUNDS = 7;
/** Runs that the comparison of outputs takes of each contender. */
const CHECK_RUNS = 2;
/** A sample takes about this long, and so many times what answers are irregular by, so that this does not hide what kernels cost. */
const SAMPLE_MS = 6;
const SAMPLE_JITTERS = 10;
const MOST_REPEATS = 128;
/** Answers that take longer than this may come on a timer: then it matters when one begins to wait. */
const LATE_MS = 8;
const TRIPS = 5;
/** Of a program's time: where it is known no better, nothing is concluded from differences below it, and nothing for good. */
const EXACT = 0.03;
const LEAST_POSITIONS = 8;
/** A step of `decode` takes at least this many times as long as a token of a chunk. */
const LEAST_PREFILL_GAIN = 0.3;
const FEW_TOKENS = 16;

interface Task {
  program: string;
  /** Tokens of a run, and those that the program takes at once where it is used. */
  length: number;
  fullLength: number;
  /** In one call of run(). */
  mostRuns: number;
  /** Runs it `times` times and waits for the end. */
  run(runner: PlanRunner, times: number): Promise<void>;
  /** The logits after a sequence that went through the program; those of one runner and another's are to be compared. */
  probe(runner: PlanRunner): Promise<Float32Array>;
}

/** A submit without work: how long it takes, and by how much that differs from one to the next. */
interface EmptyTrip {
  ms: number;
  jitterMs: number;
  /** So long that there may be a timer. */
  late: boolean;
}

/** Milliseconds a run, of a sample of `times` runs. */
type Timer = (run: RunPart, times: number) => Promise<number>;

const runOf =
  (task: Task, runner: PlanRunner): RunPart =>
  (times) =>
    task.run(runner, times);

/** A program that is to be measured, and by what means. */
interface Measured {
  task: Task;
  own: PlanRunner;
  right: readonly Contender[];
  /** Milliseconds that the plan's own takes, and that a run may take. */
  once: number;
  most: number;
  trip: EmptyTrip;
  timed: Timer;
  hasTime: () => boolean;
  /** Milliseconds until there is none. */
  left: number;
}

interface AutotuneOptions {
  budgetMs: number;
  signal: AbortSignal;
  /** What the contenders of these names differ in, in a program of `length` tokens at once; undefined: whole programs are timed. */
  lineUp?: (program: string, names: readonly string[], length: number) => Race;
  /** A runner of the programs of a choice. */
  runnerOf?: (choice: Choice) => PlanRunner;
  clock?: Clock;
}

/**
 * @param own runs the plan's own programs
 * @param budgetMs about what all of it may take; what cannot be measured within it runs as the plan's own
 * @throws what the device throws when it goes away
 */
export async function autotune(own: PlanRunner, contenders: readonly Contender[], options: AutotuneOptions): Promise<Verdict> {
  const { budgetMs, signal, clock = systemClock } = options;
  const now = () => clock.now();
  const choice: Record<string, string> = {};
  const verdict: Verdict = { choice, milliseconds: {}, rejected: [], unmeasured: [] };
  const [wrong, deadline] = [new Set<string>(), now() + budgetMs];
  if (own.capacity < LEAST_POSITIONS) return verdict;
  const trip = await emptyTrip(own, clock);
  const timed: Timer = async (run, times) => {
    signal.throwIfAborted();
    const started = now();
    await run(times);
    return Math.max(0, now() - started - trip.ms) / times;
  };
  own.writeSampling(GREEDY);
  // The most important first: each gets its share of what is left.
  const programs = ["decode", ...own.prefillChunks.toSorted((x, y) => y - x).map((size) => `prefill_${size}`)];
  const measured = programs.filter((program) => contenders.some((contender) => contender.programs.has(program)));
  let stepMs = 0;
  for (const [i, program] of measured.entries()) {
    const entrants = contenders.filter((contender) => contender.programs.has(program) && !wrong.has(contender.name));
    if (entrants.length === 0) continue;
    const end = now() + (deadline - now()) * share(programs, measured.slice(i));
    // A run may take this long, and a sample.
    const most = (end - now()) / ((entrants.length + 1) * (CHECK_RUNS + LEAST_ROUNDS) + 1) - trip.ms;
    const task = program === "decode" ? decodeTask(own) : await prefillTaskWithin(most, stepMs, program, own, timed);
    if (task === undefined) {
      if (trip.late) verdict.unmeasured.push(program); // It is not the program that leaves no time.
      continue;
    }
    if (program === "decode") await timed(runOf(task, own), 1); // A first run may compile.
    const once = await timed(runOf(task, own), 1);
    if (program === "decode") stepMs = once;
    if (once > most) {
      if (trip.late) verdict.unmeasured.push(program);
      continue;
    }
    const right = await check(task, own, entrants, verdict.rejected);
    for (const { name } of entrants.filter((entrant) => !right.includes(entrant))) {
      wrong.add(name); // What it computed right so far does not speak for it any more.
      for (const earlier of Object.keys(choice)) if (choice[earlier] === name) Reflect.deleteProperty(choice, earlier);
    }
    if (right.length === 0) continue;
    const found = await compared({ task, own, right, once, most, trip, timed, hasTime: () => now() < end, left: end - now() }, options);
    if (found === undefined || found.unsure) verdict.unmeasured.push(program); // Nothing is concluded from what could not be timed.
    if (found === undefined) continue;
    Object.assign(verdict.milliseconds, found.milliseconds);
    if (await together(task, own, right, found.choice, options, verdict.rejected)) Object.assign(choice, found.choice);
  }
  await own.idle();
  return verdict;
}

const RULES = { mostRepeats: MOST_REPEATS, rounds: { least: LEAST_ROUNDS, most: MOST_ROUNDS }, gain: GAIN, exact: EXACT };

/** Kernel by kernel, where there is time for that; else as a whole, of the length that is used. Undefined: there is time for neither. */
async function compared(measured: Measured, { lineUp }: AutotuneOptions): Promise<RaceVerdict | undefined> {
  const { task, right, trip, timed, hasTime, left } = measured;
  const { program, fullLength } = task;
  const race = lineUp?.(
    program,
    right.map(({ name }) => name),
    fullLength,
  );
  const sampleMs = Math.max(SAMPLE_MS, SAMPLE_JITTERS * trip.jitterMs);
  const rounds = LEAST_ROUNDS + CHECK_RUNS; // Before those that count a part is run, and its repeats are found.
  if (race !== undefined && race.run.size * rounds * (sampleMs + trip.ms) < left) {
    const found = await raceKernels(race, { ...RULES, sampleMs, jitterMs: trip.jitterMs, timed, hasTime });
    if (found === undefined) return undefined;
    const key = (entry: string) => (entry === "" ? program : `${program}/${entry}`);
    const keyed = <T>(record: Record<string, T>) => Object.fromEntries(Object.entries(record).map(([entry, value]) => [key(entry), value]));
    return { choice: keyed(found.choice), milliseconds: keyed(found.milliseconds), unsure: found.unsure };
  }
  return task.length < fullLength ? undefined : wholePrograms(measured);
}

async function wholePrograms({ task, own, right, once, most, trip, timed, hasTime }: Measured): Promise<RaceVerdict> {
  const { program } = task;
  const times = await repeats(task, own, { once, most, trip, timed });
  const racers = [{ name: OWN, runner: own }, ...right];
  const figures = await race(racers, (runner) => timed(runOf(task, runner), times), hasTime);
  const milliseconds = { [program]: Object.fromEntries(figures.map(({ name, ms }) => [name, ms])) };
  const best = winner(figures, trip, times);
  const choice = best === "unsure" || best === undefined ? {} : { [program]: best.name };
  return { choice, milliseconds, unsure: best === "unsure" };
}

/** Each computes the same as a whole: that kernels of several do so together is not taken for granted. */
async function together(
  task: Task,
  own: PlanRunner,
  right: readonly Contender[],
  choice: Choice,
  { runnerOf }: AutotuneOptions,
  rejected: Verdict["rejected"],
): Promise<boolean> {
  const { program } = task;
  if (runnerOf === undefined || Object.keys(choice).every((key) => key === program)) return true;
  const tolerance = Math.max(...right.map((entrant) => entrant.tolerance));
  const name = [...new Set(Object.values(choice))].join(" and ");
  return (await check(task, own, [{ name, tolerance, programs: new Set([program]), runner: runnerOf(choice) }], rejected)).length > 0;
}

/** Of the time that is left, for the first of the programs that are left: `programs` begins with the two most important ones. */
function share(programs: readonly string[], left: readonly string[]): number {
  const weights = left.map((program): number => (programs.indexOf(program) < 2 ? 2 : 1));
  return (weights[0] ?? 1) / weights.reduce((sum, weight) => sum + weight, 0);
}

/** Who is faster than the plan's own, the first; undefined: nobody. */
function winner(
  [mine, ...others]: readonly { name: string; ms: number }[],
  trip: EmptyTrip,
  times: number,
): { name: string } | "unsure" | undefined {
  const best = others.toSorted((a, b) => a.ms - b.ms)[0];
  if (mine === undefined || best === undefined) return undefined;
  // Of two samples, each as wrong as answers are irregular.
  const unsure = (2 * trip.jitterMs) / (times * Math.max(mine.ms, 0.001));
  if (best.ms < (GAIN - (unsure > EXACT ? unsure : 0)) * mine.ms) return best;
  return unsure > EXACT ? "unsure" : undefined;
}

/** Medians of what each takes, in milliseconds; in turns, so that a clock that rises or falls meanwhile favours nobody. */
async function race(
  racers: readonly { name: string; runner: PlanRunner }[],
  timed: (runner: PlanRunner) => Promise<number>,
  hasTime: () => boolean,
): Promise<{ name: string; ms: number }[]> {
  const samples = racers.map((): number[] => []);
  for (let round = 0; round < MOST_ROUNDS && (round < LEAST_ROUNDS || hasTime()); round++) {
    for (const [at, { runner }] of racers.entries()) samples[at]?.push(await timed(runner));
  }
  return racers.map(({ name }, at) => ({ name, ms: median(samples[at] ?? []) }));
}

async function emptyTrip(own: PlanRunner, clock: Clock): Promise<EmptyTrip> {
  await own.idle();
  await own.roundTrip();
  const trips: number[] = [];
  for (let i = 0; i < TRIPS; i++) {
    // A timer is found by beginning at other times of its period.
    const longest = Math.max(0, ...trips);
    if (longest > LATE_MS) await clock.sleep((longest * i) / TRIPS);
    const started = clock.now();
    await own.roundTrip();
    trips.push(clock.now() - started);
  }
  const sorted = trips.toSorted((a, b) => a - b);
  const [least = 0] = sorted;
  // One may be late because the computer was busy.
  const most = sorted.at(-2) ?? 0;
  return { ms: trips[0] ?? 0, jitterMs: most - least, late: most > LATE_MS }; // The first one began as samples do: at an answer.
}

/** How many runs make a sample that says something, as far as `most` milliseconds allow. */
async function repeats(
  task: Task,
  own: PlanRunner,
  { once, most, trip, timed }: { once: number; most: number; trip: EmptyTrip; timed: Timer },
): Promise<number> {
  const wanted = Math.min(most, Math.max(SAMPLE_MS, SAMPLE_JITTERS * trip.jitterMs));
  const limit = Math.min(MOST_REPEATS, task.mostRuns);
  let ms = once;
  let times = 1;
  while (ms * times < wanted / 2 && times < limit) {
    times = Math.min(limit, Math.ceil(times * Math.max(2, Math.min(8, wanted / Math.max(ms * times, 0.01)))));
    ms = await timed(runOf(task, own), times);
  }
  return Math.max(1, Math.min(limit, Math.ceil(wanted / Math.max(ms, 0.01))));
}

/** The program on as many tokens as `most` milliseconds allow; undefined where not even a few do. */
async function prefillTaskWithin(most: number, stepMs: number, program: string, own: PlanRunner, timed: Timer): Promise<Task | undefined> {
  const size = Number(program.slice("prefill_".length));
  const fitting = Math.min(size, own.capacity - 2);
  const few = Math.min(fitting, FEW_TOKENS);
  if (LEAST_PREFILL_GAIN * stepMs * few > most) return undefined;
  const small = prefillTask(program, size, few, own);
  if ((await timed(runOf(small, own), 1)) > 4 * most) return undefined;
  const once = await timed(runOf(small, own), 1);
  if (once > most) return undefined;
  return prefillTask(program, size, Math.min(fitting, Math.max(few, Math.floor((few * most) / Math.max(once, 0.01)))), own);
}

/** Ids that have nothing to do with each other; the same for everyone. */
function someIds(count: number, vocabSize: number, salt: number): number[] {
  return Array.from({ length: count }, (_, i) => ((i + salt) * 7919 + 13) % vocabSize);
}

function prefillTask(program: string, size: number, length: number, own: PlanRunner): Task {
  const ids = someIds(length, own.vocabSize, 1);
  return {
    program,
    length,
    fullLength: Math.min(size, own.capacity - 2),
    mostRuns: Infinity,
    run: async (runner, times) => {
      for (let i = 0; i < times; i++) runner.prefill(size, 0, ids);
      await runner.idle();
    },
    probe: async (runner) => {
      own.prefill(size, 0, someIds(length, own.vocabSize, 2)); // Rows that a program does not write must not be right.
      runner.prefill(size, 0, ids);
      own.seek(length, 3 % own.vocabSize);
      await own.decode(1, length);
      return own.output();
    },
  };
}

/** A step at position 1: it writes its row, rotated, and reads that and another one. */
function decodeTask(own: PlanRunner): Task {
  const [first = 0, token = 0, other = 0] = someIds(3, own.vocabSize, 1);
  const step = async (runner: PlanRunner, position: number, id: number) => {
    runner.seek(position, id);
    const [sampled] = await runner.decode(1, position);
    if (sampled === undefined || sampled >= own.vocabSize) throw new Wrong("it sampled no token");
  };
  return {
    program: "decode",
    length: 1,
    fullLength: 1,
    mostRuns: Math.min(own.capacity - 1, own.ringSize),
    run: async (runner, times) => {
      runner.seek(0, first);
      await runner.decode(times, 0);
    },
    probe: async (runner) => {
      await step(own, 0, first);
      await step(own, 1, other); // A row that a program does not write must not be right.
      await step(runner, 1, token);
      return runner.output();
    },
  };
}

class Wrong extends Error {}

/** The entrants whose logits are within their tolerance of the plan's own. */
async function check(task: Task, own: PlanRunner, entrants: readonly Contender[], rejected: Verdict["rejected"]): Promise<Contender[]> {
  const want = await task.probe(own).catch((error: unknown) => {
    if (error instanceof Wrong) return new Float32Array();
    throw error;
  });
  const largest = want.reduce((most, logit) => Math.max(most, Math.abs(logit)), 0);
  if (!(largest > 0 && Number.isFinite(largest))) {
    for (const { name } of entrants)
      rejected.push({ alternative: name, reason: `${task.program}: there are no logits to compare its own with` });
    return [];
  }
  const right: Contender[] = [];
  for (const entrant of entrants) {
    let reason: string | undefined;
    try {
      const got = await task.probe(entrant.runner);
      let furthest = 0;
      // `!(x <= y)`, not `x > y`: NaN is far.
      got.forEach((logit, i) => {
        const distance = Math.abs(logit - (want[i] ?? NaN)) / largest;
        if (!(distance <= furthest)) furthest = Number.isNaN(distance) ? Infinity : distance;
      });
      if (!(furthest <= entrant.tolerance))
        reason = `its logits are off by ${furthest.toPrecision(2)} of the largest, at most ${entrant.tolerance} is right`;
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      reason = error.message;
    }
    if (reason === undefined) right.push(entrant);
    else rejected.push({ alternative: entrant.name, reason: `${task.program}: ${reason}` });
  }
  return right;
}
