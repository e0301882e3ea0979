// Which of a plan's alternatives run on this device: as an earlier visit measured, or as is measured now.
//
// Remembers choices in the cache of the artifact's files, by what was compiled and what the device calls itself. How
// programs are compared is runtime/autotune.ts's business.

import type { AdapterInfo, Tuning } from "./api";
import type { FileCache } from "./artifact/cache";
import { type Choice, replaced } from "./artifact/choice";
import type { Alternative, Manifest, Plan, Variant } from "./artifact/schema";
import { isSoftware } from "./backend/adapter";
import type { Backend, BufferHandle } from "./backend/backend";
import { DeviceError } from "./errors";
import { autotune, type Contender } from "./runtime/autotune";
import { type Machine, Replay } from "./runtime/replay";

/** The most, beside the compilation of the alternatives: fast GPUs need a third. Who asks for it gets it on slow ones too. */
const BUDGET_MS = 1500;
const FORCED_BUDGET_MS = 20_000;

export const UNTUNED: Tuning = { source: "own", programs: {}, milliseconds: {}, rejected: [] };

/** What is to be done about a plan's alternatives. */
export type Decision =
  | { kind: "own" }
  | { kind: "remembered"; choice: Choice }
  | { kind: "measure"; alternatives: readonly Alternative[]; missing: Tuning["rejected"]; key: string; budgetMs: number };

export class TuningMemory {
  /** Of this session, cache or not. */
  private readonly choices = new Map<string, Choice>();

  constructor(
    private readonly cache: FileCache,
    private readonly base: string,
  ) {}

  /** Where in the cache choices of this session are. */
  get keys(): Iterable<string> {
    return this.choices.keys();
  }

  key(manifest: Manifest, variant: Variant, plan: Plan, adapter: AdapterInfo): string {
    const files = [variant.plan, variant.kernels, ...plan.alternatives.map(({ kernelsFile }) => kernelsFile)];
    const version = files.map((path) => manifest.files.get(path)?.sha256.slice(0, 16) ?? "").join("-");
    const { vendor, architecture, device, description } = adapter;
    return `${this.base}tuning.json?${new URLSearchParams({ v: version, device: JSON.stringify([vendor, architecture, device, description]) }).toString()}`;
  }

  /** Undefined: nothing is remembered that fits the plan. */
  async get(key: string, plan: Plan): Promise<Choice | undefined> {
    const bytes = this.choices.has(key) ? undefined : await this.cache.get(key);
    const choice = this.choices.get(key) ?? (bytes === undefined ? undefined : parseChoice(bytes, plan));
    if (choice !== undefined) this.choices.set(key, choice);
    return choice;
  }

  async put(key: string, choice: Choice): Promise<void> {
    this.choices.set(key, choice);
    await this.cache.put(key, new TextEncoder().encode(JSON.stringify(choice)));
  }
}

function parseChoice(bytes: Uint8Array, plan: Plan): Choice | undefined {
  try {
    const json: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof json !== "object" || json === null) return undefined;
    const known = ([program, name]: [string, unknown]) => plan.alternatives.some((alternative) => alternative.name === name && alternative.programs.has(program));
    return Object.entries(json).every(known) ? (json as Choice) : undefined;
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
  if (plan.alternatives.length === 0 || wanted === false || (wanted !== true && isSoftware(adapter))) return { kind: "own" };
  const key = memory.key(manifest, variant, plan, adapter);
  const choice = await memory.get(key, plan);
  if (choice !== undefined) return { kind: "remembered", choice };
  const { wgslLanguageFeatures: features } = (navigator as { gpu?: { wgslLanguageFeatures?: ReadonlySet<string> } }).gpu ?? {};
  const lacks = ({ languageFeatures }: Alternative) => languageFeatures.filter((feature) => features?.has(feature) !== true);
  return {
    kind: "measure",
    alternatives: plan.alternatives.filter((alternative) => lacks(alternative).length === 0),
    missing: plan.alternatives
      .filter((alternative) => lacks(alternative).length > 0)
      .map((alternative) => ({ alternative: alternative.name, reason: `the browser's WGSL lacks ${lacks(alternative).join(" and ")}` })),
    key,
    budgetMs: wanted === true ? FORCED_BUDGET_MS : BUDGET_MS,
  };
}

/**
 * @param own runs the plan's own programs, with all of the plan's kernels compiled in their order
 * @param read the text of a kernels_file
 * @returns the machine of the fastest programs; the KV cache and the state hold garbage
 */
export async function measure(
  memory: TuningMemory,
  { alternatives, missing, key, budgetMs }: Extract<Decision, { kind: "measure" }>,
  { backend, plan, buffers, capacity, own, read, signal }: {
    backend: Backend;
    plan: Plan;
    buffers: readonly BufferHandle[];
    capacity: number;
    own: Machine;
    read: (file: string) => Promise<string>;
    signal: AbortSignal;
  },
): Promise<{ machine: Machine; tuning: Tuning }> {
  // A device or a tab that does not survive this is not asked again.
  await memory.put(key, {});
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
    contenders.push({ name, tolerance, programs: new Set(programs.keys()), machine: new Replay(backend, its, buffers, capacity) });
  }
  const verdict = await autotune(own, contenders, { budgetMs, signal });
  await memory.put(key, verdict.choice);
  const { choice, milliseconds } = verdict;
  const tuning: Tuning = { source: "measured", programs: choice, milliseconds, rejected: [...rejected, ...verdict.rejected] };
  if (Object.keys(choice).length === 0) return { machine: own, tuning };
  const from = (program: string): Plan => plans.get(choice[program] ?? "") ?? plan;
  const prefill = new Map([...plan.prefill].map(([size, dispatches]) => [size, from(`prefill_${size}`).prefill.get(size) ?? dispatches]));
  return { machine: new Replay(backend, { ...plan, decode: from("decode").decode, prefill }, buffers, capacity), tuning };
}
