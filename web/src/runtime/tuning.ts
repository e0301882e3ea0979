// Which of a plan's alternatives run on this device: as an earlier visit measured, or as is measured now.
//
// Remembers choices in the cache of the artifact's files, by what was compiled and what the device calls itself. How
// programs are compared is autotune.ts's business.

import type { AdapterInfo, Tuning } from "../api/types";
import type { FileCache } from "../artifact/file-cache";
import { type Choice, lacking, replaced } from "../artifact/choice";
import type { Alternative, Manifest, Plan, Variant } from "../artifact/schema";
import type { Backend, BufferHandle } from "../backend/backend";
import { DeviceError } from "../api/errors";
import { autotune, type Contender } from "./autotune";
import { type PlanRunner, Replay } from "./replay";

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
    const known = ([program, name]: [string, unknown]) =>
      plan.alternatives.some((alternative) => alternative.name === name && alternative.programs.has(program));
    return Object.entries(choice).every(known) ? { choice: choice as Choice, tries, final } : undefined;
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
  { alternatives, missing, key, before, budgetMs }: MeasureDecision,
  { backend, plan, buffers, capacity, own, read, signal }: MeasureWork,
): Promise<{ runner: PlanRunner; tuning: Tuning }> {
  const rejected = [...missing];
  const plans = new Map<string, Plan>();
  const contenders: Contender[] = [];
  let first = plan.kernels.length;
  for (const alternative of alternatives) {
    try {
      await backend.compile(await read(alternative.kernelsFile), alternative.kernels);
    } catch (error) {
      if (!(error instanceof DeviceError) || error.kind !== "shader") throw error;
      rejected.push({ alternative: alternative.name, reason: error.what.split("\n", 2).join(" ") });
      continue;
    }
    const its = replaced(plan, alternative, first);
    first += alternative.kernels.length;
    plans.set(alternative.name, its);
    const { name, tolerance, programs } = alternative;
    contenders.push({ name, tolerance, programs: new Set(programs.keys()), runner: new Replay(backend, its, buffers, capacity) });
  }
  const verdict = await autotune(own, contenders, { budgetMs, signal });
  const { choice, milliseconds, unmeasured } = verdict;
  await memory.put(key, { choice, tries: before.tries + 1, final: unmeasured.length === 0 });
  const tuning: Tuning = { source: "measured", programs: choice, milliseconds, rejected: [...rejected, ...verdict.rejected] };
  if (Object.keys(choice).length === 0) return { runner: own, tuning };
  const from = (program: string): Plan => plans.get(choice[program] ?? "") ?? plan;
  const prefill = new Map([...plan.prefill].map(([size, dispatches]) => [size, from(`prefill_${size}`).prefill.get(size) ?? dispatches]));
  return { runner: new Replay(backend, { ...plan, decode: from("decode").decode, prefill }, buffers, capacity), tuning };
}
