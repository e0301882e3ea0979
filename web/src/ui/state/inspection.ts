// What the inspector has read of the loaded model: its files as they are wanted, and what is chosen in them. No document.

import { computed, signal } from "@preact/signals";
import { wasmSupport } from "../../page/device";
import { watOf, wgslOf } from "./kernel-source";
import type { Loaded } from "./models";
import { type Block, type Kernel, type ModelFile, networkOf, type PlanFile, programNames, type Step, type VariantEntry } from "./network";

export const TABS = ["network", "device"] as const;
export type Tab = (typeof TABS)[number];

interface Read {
  model: ModelFile;
  variant: VariantEntry;
  plan: PlanFile;
}

const text = new TextDecoder();

export class Inspection {
  readonly tab = signal<Tab>("network");
  readonly read = signal<Read | null>(null);
  readonly fault = signal<string | null>(null);
  readonly program = signal("decode");
  readonly blockId = signal<string | null>(null);
  readonly stepIndex = signal<number | null>(null);
  readonly programs = computed(() => (this.read.value === null ? [] : programNames(this.read.value.plan)));
  readonly network = computed(() => {
    const { value: read } = this.read;
    const { value: program } = this.program;
    if (read === null) return null;
    return networkOf(read.model, read.plan, program, this.loaded.info.tuning.programs[program]);
  });
  /** The block that is shown: the first layer, until one is chosen. */
  readonly block = computed((): Block | undefined => {
    const blocks = this.network.value?.blocks ?? [];
    return blocks.find(({ id }) => id === this.blockId.value) ?? blocks.find(({ layer }) => layer !== undefined) ?? blocks[0];
  });
  readonly step = computed((): Step | undefined => {
    const steps = this.block.value?.steps ?? [];
    return steps.find(({ index }) => index === this.stepIndex.value) ?? steps.find(({ kind }) => kind === "matrix") ?? steps[0];
  });
  readonly #files = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();
  readonly #wat = new Map<string, Promise<Map<string, string>>>();

  constructor(readonly loaded: Loaded) {
    this.#start().catch((error: unknown) => (this.fault.value = error instanceof Error ? error.message : String(error)));
  }

  async #start(): Promise<void> {
    const model = await this.json<ModelFile>("model.json");
    const variant = model.variants.find(({ name }) => name === this.loaded.info.variant);
    if (variant === undefined) throw new Error(`model.json has no variant ${this.loaded.info.variant}`);
    this.read.value = { model, variant, plan: await this.json<PlanFile>(variant.plan) };
  }

  /** The engine has checked it. */
  async json<T>(path: string): Promise<T> {
    return JSON.parse(text.decode(await this.#file(path))) as T;
  }

  /** How often a run of the program dispatches a kernel. */
  uses({ entry }: Kernel): number {
    const steps = this.network.value?.blocks.flatMap((block) => block.steps) ?? [];
    return steps.filter(({ kernel }) => kernel.entry === entry).length;
  }

  /** WGSL, or WebAssembly's text. */
  async source({ entry, file }: Kernel): Promise<string> {
    const { value: read } = this.read;
    if (read === null) return "";
    const { backend, kernels, kernels_relaxed: relaxed } = read.variant;
    if (backend === "webgpu") return wgslOf(text.decode(await this.#file(file ?? kernels)), entry);
    const path = relaxed !== undefined && wasmSupport().relaxedSimd ? relaxed : kernels;
    const known = this.#wat.get(path) ?? this.#file(path).then(watOf);
    this.#wat.set(path, known);
    return (await known).get(entry) ?? "";
  }

  #file(path: string): Promise<Uint8Array<ArrayBuffer>> {
    const known = this.#files.get(path) ?? this.loaded.engine.inspector.file(path);
    this.#files.set(path, known);
    known.catch(() => this.#files.delete(path));
    return known;
  }
}
