// The models that the server offers, the device that they run on, and the engine that runs one of them. Knows no document.

import { batch, computed, signal } from "@preact/signals";
import type { Engine, EngineInfo, LoadProgress } from "../../api/types";
import { cpuMissing } from "../../page/device";
import { createEngine } from "../../page/engine";
import { models as stored } from "../../page/entry";
import { t } from "../texts";
import { type DeviceReport, type Means, place, probeDevice, whyCpu } from "./device";
import type { Notices } from "./notices";
import { RateMeter } from "./rate";
import { prepareIsolation } from "./service-worker";

export interface Model {
  id: string;
  name: string;
  /** Absent on servers of earlier versions, which know models that generate text alone. */
  task?: "text-generation" | "embedding" | "transcription";
  parameters: number;
  quantization: string;
  context: number;
  weight_bytes: number;
  variants: string[];
  suggestions: string[];
  /** Of the weights, and where they were published; null where the artifact does not say. */
  license: string | null;
  homepage: string | null;
  url: string;
}

export interface Catalogue {
  models: Model[];
  invalid: { id: string; error: string }[];
}

/** The model that answers. */
export interface Loaded {
  model: Model;
  engine: Engine;
  info: EngineInfo;
  /** Its device is gone for good: it answers no more. */
  lost: boolean;
}

export interface Progress {
  name: string;
  /** Null before the first word of the engine. */
  state: LoadProgress | null;
  perSecond: number | null;
}

/** A download this small needs no question first. */
const AUTOLOAD_BYTES = 50_000_000;

async function fetchCatalogue(): Promise<Catalogue> {
  const address = document.documentElement.dataset["catalogue"] ?? "/models";
  const response = await fetch(address, { cache: "no-cache" }); // A plain host sends no headers that would say so.
  if (!response.ok) throw new Error(t("start.catalogue-status", { address, status: `${response.status} ${response.statusText}` }));
  return (await response.json()) as Catalogue;
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

export class Models {
  readonly catalogue = signal<Catalogue | null>(null);
  readonly catalogueError = signal<string | null>(null);
  readonly report = signal<DeviceReport | null>(null);
  readonly chosenId = signal<string | null>(null);
  readonly loaded = signal<Loaded | null>(null);
  readonly progress = signal<Progress | null>(null);
  readonly loadError = signal<string | null>(null);
  /** Counts up when there is a model to choose again. */
  readonly stopped = signal(0);
  readonly chosen = computed(() => this.offered.value.find(({ id }) => id === this.chosenId.value));
  readonly offered = computed(() =>
    (this.catalogue.value?.models ?? []).filter(({ task = "text-generation" }) => task === "text-generation"),
  );
  /** Those for something else than chat. */
  readonly others = computed(() =>
    (this.catalogue.value?.models ?? []).filter(({ task = "text-generation" }) => task !== "text-generation"),
  );
  /** Whether the catalogue has been read, or has failed to be. */
  readonly known = computed(() => this.catalogue.value !== null || this.catalogueError.value !== null);
  /** What stands between the models and the device. */
  readonly means = computed((): Means => {
    const all = this.offered.value.map((model) => this.meansOf(model));
    return all.includes("cpu") ? "cpu" : this.report.value?.status === "ready" ? "gpu" : "none";
  });
  readonly #parameters = new URLSearchParams(location.search);
  #loading: AbortController | null = null;
  #current: Model | null = null;

  constructor(private readonly notices: Notices) {}

  /** Reads the catalogue, looks at the device, and loads what the address names or what is small. */
  async start(): Promise<void> {
    const probing = this.probe();
    let catalogue: Catalogue;
    try {
      catalogue = await fetchCatalogue();
    } catch (error) {
      this.catalogueError.value = messageOf(error);
      return;
    }
    const wanted = this.#parameters.get("model");
    this.catalogue.value = catalogue;
    const { value: models } = this.offered;
    this.chosenId.value = (models.find(({ id }) => id === wanted) ?? models[0])?.id ?? null;
    await probing;
    const { value: first } = this.chosen;
    if (wanted === null && first !== undefined && !this.canRun(first)) this.chosenId.value = (models.find(this.canRun) ?? first).id;
    const { value: model } = this.chosen;
    if (model === undefined || !this.canRun(model)) return;
    const small = models.length === 1 && model.weight_bytes < AUTOLOAD_BYTES;
    if (model.id === wanted || small) await this.load(model);
  }

  get #backend(): string {
    return this.#parameters.get("backend") ?? "auto";
  }

  async probe(): Promise<void> {
    this.report.value = await probeDevice();
  }

  /** What the model can run on here; variants are named after their backends. */
  meansOf(model: Model): Means {
    const has = (backend: string) => model.variants.some((name) => name.startsWith(backend));
    const { value: report } = this.report;
    const cpu = report !== null && has("wasm") && cpuMissing() === undefined;
    if (report?.status === "ready" && has("webgpu")) return report.offer.software && cpu ? "cpu" : "gpu";
    return cpu ? "cpu" : "none";
  }

  readonly canRun = (model: Model): boolean => this.meansOf(model) !== "none";

  /** Whether loading it asks for no download, or for a small one. */
  async comesUnasked(model: Model): Promise<boolean> {
    if (model.weight_bytes < AUTOLOAD_BYTES) return true;
    return stored.has(model.url, { backend: this.#backend }).catch(() => false);
  }

  async load(model: Model): Promise<void> {
    if (this.#loading !== null) return;
    const controller = new AbortController();
    this.#loading = controller;
    this.#current = model;
    await this.unload();
    const rate = new RateMeter();
    batch(() => {
      this.loadError.value = null;
      this.progress.value = { name: model.name, state: null, perSecond: null };
    });
    try {
      const engine = await createEngine(model.url, {
        backend: this.#backend,
        signal: controller.signal,
        onProgress: (state) => {
          // Only what came over the network counts for the rate: a cache would promise too much.
          rate.add(performance.now(), state.loadedBytes - state.cachedBytes);
          const perSecond = state.phase === "weights" && state.waiting === null ? rate.perSecond() : null;
          if (this.progress.peek() !== null) this.progress.value = { name: model.name, state, perSecond };
        },
        onRecovering: ({ what }) => this.notices.show(t("notice.recovering", { what })),
        onBackendChange: (info) => this.#onMoved(info),
        onDeviceLost: (error) => this.#onLost(model, error),
      });
      this.#show(model, engine);
    } catch (error) {
      if (controller.signal.aborted) this.stopped.value++;
      else this.loadError.value = messageOf(error);
    } finally {
      this.#loading = null;
      this.progress.value = null;
    }
  }

  cancel(): void {
    this.#loading?.abort();
  }

  retry(): void {
    const model = this.chosen.value ?? this.#current;
    if (model !== null) void this.load(model);
  }

  /** Another model is to be chosen. */
  async choose(): Promise<void> {
    await this.unload();
    this.notices.hide();
    this.stopped.value++;
  }

  async unload(): Promise<void> {
    const engine = window.wisp;
    window.wisp = null;
    this.loaded.value = null;
    await engine?.dispose();
  }

  #show(model: Model, engine: Engine): void {
    window.wisp = engine;
    this.notices.hide();
    this.loaded.value = { model, engine, info: engine.info, lost: false };
    if (engine.info.backend === "wasm") void this.#explainCpu(engine.info, "notice.runs-on");
    // A reload then loads the same model, from the browser's cache.
    this.#parameters.set("model", model.id);
    history.replaceState(null, "", `?${this.#parameters.toString()}`);
  }

  #onMoved(info: EngineInfo): void {
    const { value: loaded } = this.loaded;
    if (loaded === null) return;
    this.loaded.value = { ...loaded, info };
    this.notices.hide();
    // The last reason is the newest; the device panel has them all.
    if (info.backend === "wasm") void this.#explainCpu({ ...info, skipped: info.skipped.slice(-1) }, "notice.continues-on");
  }

  /** Says that the model runs on the CPU and why, and how it gets more threads where the host gives the page only one. */
  async #explainCpu(info: EngineInfo, key: "notice.runs-on" | "notice.continues-on"): Promise<void> {
    const why = whyCpu(info);
    const text = why === "" ? t(key, { place: place(info) }) : t(`${key}-why`, { place: place(info), why });
    this.notices.show(text);
    if (info.hints.length === 0 || !(await prepareIsolation())) return;
    const reload = { label: t("notice.reload-threads"), run: () => location.reload() };
    this.notices.show(t("notice.more-threads", { text }), [reload]);
  }

  #onLost(model: Model, error: Error): void {
    const { value: loaded } = this.loaded;
    // What was said stays in view, without a model that answers.
    if (loaded !== null) this.loaded.value = { ...loaded, lost: true };
    this.notices.show(error.message, [{ label: t("notice.load-again"), run: () => void this.load(model) }], true);
  }
}
