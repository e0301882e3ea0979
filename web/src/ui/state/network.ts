// A network as its plan computes it, for a picture: what is computed in which order, from which matrices, and what flows where.
// Knows plan.json and model.json, which the engine has checked; no document.

export type Grid = readonly [number, number, number];

export interface PlanBuffer {
  kind: "weight" | "constant" | "kv" | "state" | "io" | "scratch";
  name: string;
  bytes: number;
  shape?: number[];
  rows?: [number, number];
  dtype?: string;
}

interface PlanKernel {
  entry: string;
  workgroup_size: Grid;
  workgroup_bytes: number;
  bindings: ("read" | "read_write")[];
}

interface PlanDispatch {
  kernel: number;
  bind: number[];
  grid: Grid;
}

/** plan.json, as far as a picture needs it. */
export interface PlanFile {
  variant: string;
  context: number;
  buffers: PlanBuffer[];
  kernels: PlanKernel[];
  programs: Record<string, PlanDispatch[]>;
  alternatives?: { name: string; kernels_file: string; kernels: PlanKernel[]; programs: Record<string, PlanDispatch[]> }[];
}

export interface VariantEntry {
  name: string;
  backend: "webgpu" | "wasm";
  plan: string;
  kernels: string;
  kernels_relaxed?: string;
  required_features: string[];
}

/** model.json, as far as a picture needs it. */
export interface ModelFile {
  quantization: string;
  schemes?: Record<string, string>;
  statistics?: string;
  architecture: { num_attention_heads: number; num_key_value_heads: number };
  variants: VariantEntry[];
}

export interface Kernel {
  entry: string;
  workgroup: Grid;
  workgroupBytes: number;
  /** Where its text or its code lies; undefined: with the variant's own. */
  file: string | undefined;
}

export interface Binding {
  index: number;
  access: "read" | "read_write";
  buffer: PlanBuffer;
}

/** A weight as it is stored: scales and all. */
export interface Matrix {
  name: string;
  shape: readonly number[];
  scheme: string;
  bytes: number;
}

export interface Step {
  /** Its place in the program. */
  index: number;
  kernel: Kernel;
  /** The kernel's name without its number. */
  title: string;
  kind: Kind;
  grid: Grid;
  bindings: Binding[];
  matrices: Matrix[];
}

export type Kind = "matrix" | "attention" | "norm" | "sampler" | "other";

/** What one step writes and another reads, without a step between them that writes it anew. */
export interface Flow {
  from: number;
  to: number;
  through: PlanBuffer;
}

/** Steps that belong together. */
export interface Block {
  id: string;
  /** undefined: what stands before the first layer, or behind the last. */
  layer: number | undefined;
  steps: Step[];
  bytes: number;
}

export interface Network {
  blocks: Block[];
  flows: Flow[];
}

const LAYER = /\.(\d+)(?:\.|$)/;
const SUFFIX = /\.(?:q_weight|q_scale|q_scale_bias|weight)$/;

/** The base of a kernel's name: `gate_up_5` is `gate_up`, `scores_2_narrow` is `scores`. */
export const titleOf = (entry: string): string => entry.replace(/_\d+(?:_[a-z]\w*)?$/, "");

export const programNames = ({ programs }: PlanFile): string[] => Object.keys(programs).filter((name) => name !== "mask");

/** Columns of a matrix are those of its values, not of the words that they lie in. */
function shapeOf(buffer: PlanBuffer, scheme: string): number[] {
  const [rows = 0, words] = buffer.shape ?? [];
  if (words === undefined) return [rows];
  const bits = Number(/^q(\d+)/.exec(scheme)?.[1] ?? 0);
  return buffer.name.endsWith(".q_weight") && bits > 0 ? [rows, (words * 32) / bits] : [rows, words];
}

function matricesOf(bindings: readonly Binding[], model: ModelFile): Matrix[] {
  const found = new Map<string, Matrix>();
  const isMain = ({ buffer }: Binding) => /(?:q_weight|weight|bias)$/.test(buffer.name) && !buffer.name.endsWith("q_scale_bias");
  for (const binding of bindings.toSorted((a, b) => Number(isMain(b)) - Number(isMain(a)))) {
    const { buffer } = binding;
    if (buffer.kind !== "weight") continue;
    const name = buffer.name.replace(SUFFIX, "");
    const known = found.get(name);
    if (known !== undefined) {
      found.set(name, { ...known, bytes: known.bytes + buffer.bytes });
      continue;
    }
    const vector = (buffer.shape?.length ?? 1) === 1;
    const scheme = vector ? (buffer.dtype ?? "") : (model.schemes?.[name] ?? model.quantization);
    found.set(name, { name, shape: shapeOf(buffer, scheme), scheme, bytes: buffer.bytes });
  }
  return [...found.values()].toSorted((a, b) => b.shape.length - a.shape.length);
}

function kindOf(title: string, bindings: readonly Binding[], matrices: readonly Matrix[]): Kind {
  if (matrices.some(({ shape }) => shape.length > 1)) return "matrix";
  if (/norm/.test(title)) return "norm";
  if (bindings.some(({ buffer }) => buffer.kind === "kv") || /attention|combine/.test(title)) return "attention";
  return /^(?:scan|limit|draw|mask)$/.test(title) ? "sampler" : "other";
}

/**
 * @param program of the plan, such as `decode`
 * @param alternative whose kernels run in place of the plan's own
 */
export function networkOf(model: ModelFile, plan: PlanFile, program: string, alternative?: string): Network {
  const other = plan.alternatives?.find(({ name }) => name === alternative);
  const dispatches = other?.programs[program] ?? plan.programs[program] ?? [];
  const own = plan.kernels.map((kernel) => ({ ...kernel, file: undefined }));
  const kernels = [...own, ...(other?.kernels ?? []).map((kernel) => ({ ...kernel, file: other?.kernels_file }))];
  const steps = dispatches.flatMap(({ kernel: at, bind, grid }, index): Step[] => {
    const kernel = kernels[at];
    if (kernel === undefined) return [];
    const bindings = bind.flatMap((place, i): Binding[] => {
      const buffer = plan.buffers[place];
      return buffer === undefined ? [] : [{ index: i, access: kernel.bindings[i] ?? "read", buffer }];
    });
    const matrices = matricesOf(bindings, model);
    const title = titleOf(kernel.entry);
    const { entry, workgroup_size: workgroup, workgroup_bytes: workgroupBytes, file } = kernel;
    return [
      {
        index,
        kernel: { entry, workgroup, workgroupBytes, file },
        title,
        kind: kindOf(title, bindings, matrices),
        grid,
        bindings,
        matrices,
      },
    ];
  });
  return { blocks: blocksOf(steps), flows: flowsOf(steps) };
}

/** The layer whose weights or whose cache a step binds; null for weights that are no layer's. */
function layerOf({ bindings }: Step): number | null | undefined {
  const named = bindings.filter(({ buffer }) => buffer.kind === "weight" || buffer.kind === "kv");
  for (const { buffer } of named) {
    const layer = LAYER.exec(buffer.name)?.[1];
    if (layer !== undefined) return Number(layer);
  }
  return named.length > 0 ? null : undefined;
}

function blocksOf(steps: readonly Step[]): Block[] {
  const blocks: Block[] = [];
  for (const step of steps) {
    const last = blocks.at(-1);
    const layer = layerOf(step);
    // What binds nothing of a layer belongs to what came before it.
    const belongs = layer === undefined || layer === (last?.layer ?? null);
    if (last !== undefined && belongs) last.steps.push(step);
    else blocks.push({ id: String(blocks.length), layer: layer ?? undefined, steps: [step], bytes: 0 });
  }
  return blocks.map((block) => ({ ...block, bytes: sum(block.steps.flatMap(({ matrices }) => matrices.map(({ bytes }) => bytes))) }));
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, n) => total + n, 0);

function flowsOf(steps: readonly Step[]): Flow[] {
  const writers = new Map<PlanBuffer, number>();
  const flows: Flow[] = [];
  for (const { index, bindings } of steps) {
    for (const { access, buffer } of bindings) {
      const from = writers.get(buffer);
      if (access === "read" && from !== undefined && buffer.kind !== "state") flows.push({ from, to: index, through: buffer });
    }
    for (const { access, buffer } of bindings) if (access === "read_write") writers.set(buffer, index);
  }
  return flows;
}

/** A flow beside the column of steps: to one that is not the next. */
export interface Detour extends Flow {
  /** 0 is the nearest to the steps. */
  lane: number;
}

/** The flows that touch these steps: to the next one, and detours, each alone in its lane. One from or to elsewhere ends at the edge. */
export function routes(steps: readonly Step[], flows: readonly Flow[]): { straight: Flow[]; detours: Detour[] } {
  const first = steps[0]?.index ?? 0;
  const last = steps.at(-1)?.index ?? 0;
  const inside = flows
    .map((flow) => ({ ...flow, from: Math.max(flow.from, first - 1), to: Math.min(flow.to, last + 1) }))
    .filter(({ from, to }) => from <= last && to >= first && from < to);
  const unique = inside.filter(({ from, to }, i) => inside.findIndex((other) => other.from === from && other.to === to) === i);
  const straight = unique.filter(({ from, to }) => to === from + 1);
  const detours = unique
    .filter(({ from, to }) => to > from + 1)
    .toSorted((a, b) => a.to - a.from - (b.to - b.from) || a.from - b.from)
    .map((flow) => ({ ...flow, lane: 0 }));
  for (const [i, detour] of detours.entries()) {
    const before = detours.slice(0, i).filter(({ from, to }) => from < detour.to && detour.from < to);
    while (before.some(({ lane }) => lane === detour.lane)) detour.lane++;
  }
  return { straight, detours };
}
