// What the manager of models knows: of each one what is here of it, what a load needs yet and whether it fits this device; and
// what can be done with it, one thing at a time. Knows no document.

import { batch, signal } from "@preact/signals";
import type { StorageEstimate, StorageProgress, StoredModel } from "../../api/types";
import { models as stored } from "../../page/entry";
import { bytes } from "../format";
import { t } from "../texts";
import type { Model, Models } from "./models";
import type { Notices } from "./notices";

/** One of the catalogue, or one that only this browser knows. */
export interface Managed {
  url: string;
  name: string;
  /** Undefined for one that the catalogue does not have. */
  model: Model | undefined;
  /** What is kept of it; undefined for nothing. */
  kept: StoredModel | undefined;
}

/** What a load needs: sizes, or why there can be none on this device. */
export type Need = { totalBytes: number; keptBytes: number; missingBytes: number } | { problem: string; fits: boolean };

export type Job = "prefetch" | "verify" | "import";

/** What is under way. */
export interface Work {
  url: string;
  job: Job;
  progress: StorageProgress | null;
}

type Later = (options: { signal: AbortSignal; onProgress: (progress: StorageProgress) => void }) => Promise<string>;

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
const isDeviceError = (error: unknown): boolean => error instanceof Error && "kind" in error && error.kind === "no-variant";
const absolute = (url: string): string => new URL(url, document.baseURI).href;

/** Undefined for what is no address of the web. */
function webAddress(text: string): string | undefined {
  try {
    const { protocol, href } = new URL(text);
    return /^https?:$/.test(protocol) ? href : undefined;
  } catch {
    return undefined;
  }
}

export class Manager {
  readonly entries = signal<readonly Managed[]>([]);
  readonly needs = signal<ReadonlyMap<string, Need>>(new Map());
  readonly estimate = signal<StorageEstimate | null>(null);
  readonly work = signal<Work | null>(null);
  #stop: AbortController | null = null;

  constructor(
    private readonly models: Models,
    private readonly notices: Notices,
  ) {}

  /** Reads all of it anew, whenever any tab changes something. @returns what ends it */
  watch(): () => void {
    void this.refresh();
    return stored.onChange(() => void this.refresh());
  }

  async refresh(): Promise<void> {
    const kept = await stored.list().catch(() => []);
    const offered = (this.models.catalogue.value?.models ?? []).map((model) => ({ ...model, url: absolute(model.url) }));
    const entries = offered.map((model): Managed => ({
      url: model.url,
      name: model.name,
      model,
      kept: kept.find(({ url }) => url === model.url),
    }));
    for (const each of kept)
      if (!offered.some(({ url }) => url === each.url))
        entries.push({ url: each.url, name: each.model ?? each.url, model: undefined, kept: each });
    const estimate = await stored.estimate().catch(() => null);
    batch(() => {
      this.entries.value = entries;
      this.estimate.value = estimate;
    });
    await Promise.all(entries.map(({ url }) => this.#look(url)));
  }

  prefetch({ url, name }: Managed): void {
    this.#run(url, "prefetch", async (options) => {
      await stored.prefetch(url, options);
      return t("manager.downloaded", { name });
    });
  }

  /** Of one model, or of all. */
  verify(url?: string): void {
    this.#run(url ?? "", "verify", async (options) => {
      const { checkedFiles, checkedBytes, removed } = await stored.verify(url, options);
      if (removed.length > 0) return t("manager.damaged", { n: removed.length });
      return t("manager.verified", { n: checkedFiles, size: bytes(checkedBytes) });
    });
  }

  async delete({ url, name }: Managed): Promise<void> {
    try {
      const { freedBytes } = await stored.delete(url);
      this.notices.pass({ text: t("manager.deleted", { name, size: bytes(freedBytes) }) });
    } catch (error) {
      this.notices.pass({ text: messageOf(error) });
    }
    await this.refresh();
  }

  /** A model of the visitor's own: the files of a folder, or a tar file. */
  import(source: ArrayLike<File> | FileSystemDirectoryHandle | Blob, name: string): void {
    const url = absolute(`./models/added/${encodeURIComponent(name)}/`);
    this.#run(url, "import", async (options) => {
      await stored.import(source, url, options);
      return t("manager.downloaded", { name });
    });
  }

  /** Downloads the model of an address. @returns whether it is one */
  add(text: string): boolean {
    const href = webAddress(text);
    if (href === undefined) {
      this.notices.pass({ text: t("manager.address-fault", { got: text }) });
      return false;
    }
    this.prefetch({ url: href.endsWith("/") ? href : `${href}/`, name: href, model: undefined, kept: undefined });
    return true;
  }

  load({ url, name, model }: Managed): void {
    const own: Omit<Model, "id" | "name" | "url"> = {
      ...{ parameters: 0, quantization: "", context: 0, weight_bytes: 0, variants: ["webgpu", "wasm"], suggestions: [] },
      ...{ license: null, homepage: null },
    };
    void this.models.load(model ?? { ...own, id: url, name, url });
  }

  async persist(): Promise<void> {
    if (!(await stored.persist())) this.notices.pass({ text: t("manager.not-persisted") });
    this.estimate.value = await stored.estimate();
  }

  stop(): void {
    this.#stop?.abort();
  }

  async #look(url: string): Promise<void> {
    const need = await stored.size(url).catch((error: unknown): Need => ({ problem: messageOf(error), fits: !isDeviceError(error) }));
    this.needs.value = new Map(this.needs.value).set(url, need);
  }

  #run(url: string, job: Job, later: Later): void {
    if (this.work.value !== null) return;
    const stop = new AbortController();
    this.#stop = stop;
    this.work.value = { url, job, progress: null };
    const onProgress = (progress: StorageProgress) => (this.work.value = { url, job, progress });
    later({ signal: stop.signal, onProgress })
      .catch((error: unknown) => (stop.signal.aborted ? "" : messageOf(error)))
      .then((text) => {
        if (text !== "") this.notices.pass({ text });
        this.work.value = null;
        return this.refresh();
      })
      .catch(() => undefined);
  }
}
