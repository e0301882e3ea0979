// Which of a plan's alternatives run on this device: as an earlier visit measured, or as is measured now.
//
// Remembers choices in the cache of the artifact's files, by what was compiled and what the device calls itself. How
// programs are compared is autotune.ts's business.

import type { AdapterInfo, Tuning } from "../api/types";
import type { FileCache } from "../artifact/file-cache";
import { type Choice, chosen, fits, lacking, ownProgram } from "../artifact/choice";
import type { Alternative, Dispatch, Manifest, Plan, Variant } from "../artifact/schema";
import type { Backend, BufferHandle } from "../backend/backend";
import { DeviceError } from "../api/errors";
import { autotune, type Contender } from "./autotune";
import type { Race, RunPart } from "./kernel-race";
import { lineUp } from "./lineup";
import { type PlanRunner, recorded, Replay } from "./replay";
import { STATE } from "./sampling";

/** Loads that may end without a verdict before the plan's own programs are kept for good. */
const MOST_TRIES = 3;

/** What was measured, in so many loads, and whether that is all that is to be known. */
interface Remembered {
  choice: Choice;
  tries: number;
  final: boolean;
}

/** The most, beside the compilation of the alternatives: fast GPUs need a third. Who asks for it gets it on slow ones too. */
const BUDGET_MS = 1500;
const FORCED_BUDGET_MS = 20_000;

export const UNTUNED: Tuning = { source: "own", programs: {}, milliseconds: {}, rejected: [] };

/** What is to be done about a plan's alternatives. */
export type Decision =
  | { kind: "own" }
  | { kind: "remembered"; choice: Choice }
  | {
      kind: "measure";
      alternatives: readonly Alternative[];
      missing: Tuning["rejected"];
      key: string;
      vendor: string;
      before: Remembered;
      budgetMs: number;
    };

export class TuningMemory {
  /** Of this session, cache or not. */
  private readonly remembered = new Map<string, Remembered>();

  constructor(
    private readonly cache: FileCache,
    private readonly base: string,
  ) {}

  key(manifest: Manifest, variant: Variant, plan: Plan, adapter: AdapterInfo): string {
    const files = [variant.plan, variant.kernels, ...plan.alternatives.map(({ kernelsFile }) => kernelsFile)];
    const version = files.map((path) => manifest.files.get(path)?.sha256.slice(0, 16) ?? "").join("-");
    const { vendor, architecture, device, description } = adapter;
    return `${this.base}tuning.json?${new URLSearchParams({ v: version, device: JSON.stringify([vendor, architecture, device, description]) }).toString()}`;
  }

  /** Undefined: nothing is remembered that fits the plan. */
  async get(key: string, plan: Plan): Promise<Remembered | undefined> {
    const known = this.remembered.get(key);
    if (known !== undefined) return { ...known, final: true }; // Once a session is enough.
    const bytes = await this.cache.get(key);
    return bytes === undefined ? undefined : parseRemembered(bytes, plan);
  }

  /** As if this load had not begun to measure. */
  async restore(key: string, before: Remembered): Promise<void> {
    await this.put(key, before);
    this.remembered.delete(key);
  }

  async put(key: string, remembered: Remembered): Promise<void> {
    this.remembered.set(key, remembered);
    await this.cache.put(key, new TextEncoder().encode(JSON.stringify(remembered)));
  }

  /** The cached file belongs to this session: it is not to be pruned. */
  keep(key: string, remembered: Remembered): void {
    this.remembered.set(key, remembered);
  }
}

function parseRemembered(bytes: Uint8Array, plan: Plan): Remembered | undefined {
  try {
    const { choice, tries, final } = JSON.parse(new TextDecoder().decode(bytes)) as Partial<Record<keyof Remembered, unknown>>;
    if (typeof choice !== "object" || choice === null || typeof tries !== "number" || typeof final !== "boolean") return undefined;
    return fits(plan, choice as Choice) ? { choice: choice as Choice, tries, final } : undefined;
  } catch {
    return undefined;
  }
}

/** @param wanted EngineOptions.autotune */
export async function decide(
  memory: TuningMemory,
  wanted: boolean | undefined,
  { manifest, variant, plan, adapter }: { manifest: Manifest; variant: Variant; plan: Plan; adapter: AdapterInfo },
): Promise<Decision> {
  if (plan.alternatives.length === 0 || wanted === false || (wanted !== true && adapter.isFallback)) return { kind: "own" };
  const key = memory.key(manifest, variant, plan, adapter);
  const remembered = await memory.get(key, plan);
  if (remembered !== undefined && (remembered.final || remembered.tries >= MOST_TRIES)) {
    memory.keep(key, remembered);
    return { kind: "remembered", choice: remembered.choice };
  }
  return {
    kind: "measure",
    alternatives: plan.alternatives.filter((alternative) => lacking(alternative).length === 0),
    missing: plan.alternatives
      .filter((alternative) => lacking(alternative).length > 0)
      .map((alternative) => ({ alternative: alternative.name, reason: `the browser's WGSL lacks ${lacking(alternative).join(" and ")}` })),
    key,
    vendor: adapter.vendor,
    before: remembered ?? { choice: {}, tries: 0, final: false },
    budgetMs: wanted === true ? FORCED_BUDGET_MS : BUDGET_MS,
  };
}

type MeasureDecision = Extract<Decision, { kind: "measure" }>;

interface MeasureWork {
  backend: Backend;
  plan: Plan;
  buffers: readonly BufferHandle[];
  capacity: number;
  /** Runs the plan's own programs, with all of the plan's kernels compiled in their order. */
  own: PlanRunner;
  /** The text of a kernels_file. */
  read: (file: string) => Promise<string>;
  signal: AbortSignal;
}

/** @returns the runner of the fastest programs; the KV cache and the state hold garbage */
export async function measure(
  memory: TuningMemory,
  decision: MeasureDecision,
  work: MeasureWork,
): Promise<{ runner: PlanRunner; tuning: Tuning }> {
  const { key, before } = decision;
  // A device or a tab that does not survive this twice is not asked again.
  await memory.put(key, { choice: before.choice, tries: before.tries + 1, final: before.tries > 0 });
  try {
    return await compare(memory, decision, work);
  } catch (error) {
    if (work.signal.aborted) await memory.restore(key, before);
    throw error;
  }
}

async function compare(
  memory: TuningMemory,
  { alternatives, missing, key, vendor, before, budgetMs }: MeasureDecision,
  { backend, plan, buffers, capacity, own, read, signal }: MeasureWork,
): Promise<{ runner: PlanRunner; tuning: Tuning }> {
  const rejected = [...missing];
  const firsts = new Map<string, number>();
  const contenders: Contender[] = [];
  const taken: Alternative[] = [];
  let first = plan.kernels.length;
  const runnerOf = (choice: Choice) => new Replay(backend, chosen(plan, choice, firsts), buffers, capacity);
  for (const alternative of alternatives) {
    try {
      await backend.compile(await read(alternative.kernelsFile), alternative.kernels);
    } catch (error) {
      if (!(error instanceof DeviceError) || error.kind !== "shader") throw error;
      rejected.push({ alternative: alternative.name, reason: error.what.split("\n", 2).join(" ") });
      continue;
    }
    const { name, tolerance, programs, kernels } = alternative;
    firsts.set(name, first);
    first += kernels.length;
    taken.push(alternative);
    contenders.push({ name, tolerance, programs: new Set(programs.keys()), runner: runnerOf(wholly(alternative)) });
  }
  const plans = new Map(taken.map((alternative) => [alternative.name, chosen(plan, wholly(alternative), firsts)]));
  const race = raceOf({ backend, plan, buffers, capacity }, plans);
  const verdict = await autotune(own, contenders, { budgetMs, signal, lineUp: race, runnerOf });
  const { milliseconds, unmeasured } = verdict;
  const wrong = new Set(verdict.rejected.map(({ alternative }) => alternative));
  const known = taken.filter(({ name }) => !wrong.has(name));
  const choice = { ...presumed(known, vendor, new Set([...Object.keys(milliseconds), ...Object.keys(verdict.choice)])), ...verdict.choice };
  await memory.put(key, { choice, tries: before.tries + 1, final: unmeasured.length === 0 });
  const tuning: Tuning = { source: "measured", programs: choice, milliseconds, rejected: [...rejected, ...verdict.rejected] };
  return { runner: Object.keys(choice).length === 0 ? own : runnerOf(choice), tuning };
}

/** Every program that an alternative has. */
function wholly({ name, programs }: Alternative): Choice {
  return Object.fromEntries([...programs.keys()].map((program) => [program, name]));
}

/** For programs of which nothing was measured: what is known of such GPUs. @param measured programs, or `program/entry` */
export function presumed(alternatives: readonly Alternative[], vendor: string, measured: ReadonlySet<string>): Choice {
  const timed = new Set([...measured].map((key) => key.split("/", 1)[0]));
  const choice: Record<string, string> = {};
  for (const { name, preferredOn, programs } of alternatives)
    if (preferredOn.includes(vendor)) for (const program of programs.keys()) if (!timed.has(program)) choice[program] ??= name;
  return choice;
}

/** Positions in use when decode's kernels are timed, where the cache has as many. */
const DECODE_POSITION = 512;

/** How kernels of a plan and of its alternatives are timed. @param plans with each alternative's programs, by their names */
function raceOf(
  { backend, plan, buffers, capacity }: Pick<MeasureWork, "backend" | "plan" | "buffers" | "capacity">,
  plans: ReadonlyMap<string, Plan>,
): (program: string, names: readonly string[], length: number) => Race {
  const state = buffers[plan.buffers.findIndex(({ kind }) => kind === "state")];
  if (state === undefined) throw new Error("a plan without a state buffer");
  return (program, names, length) => {
    const others = names.flatMap((name): [string, readonly Dispatch[]][] => {
      const its = plans.get(name);
      return its === undefined ? [] : [[name, ownProgram(its, program)]];
    });
    const decode = program === "decode";
    // Of a step all layers' dispatches, so that weights come from memory; of a chunk those of one layer.
    const line = lineUp(ownProgram(plan, program), new Map(others), decode ? Infinity : 1);
    const run = new Map(
      [...line.parts].map(([kernel, { dispatches }]): [number, RunPart] => {
        const handle = backend.record(`${program}, one kernel`, recorded(dispatches, buffers));
        const runPart: RunPart = (times) => {
          backend.submit(handle, times);
          return backend.idle();
        };
        return [kernel, runPart];
      }),
    );
    const position = decode ? Math.min(DECODE_POSITION, capacity - 2) : 0;
    const prepare = () => backend.write(state, 4 * STATE.position, new Uint8Array(Uint32Array.of(position, 0, length).buffer));
    return { ...line, run, prepare, entry: (kernel) => plan.kernels[kernel]?.entry ?? "" };
  };
}
