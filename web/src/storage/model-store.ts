// The models that a browser keeps: what there is of them, and their way in and out. Starts no model and touches no GPU, beyond
// asking what a load would take. Whose a file is and what is deleted with it, artifact/store.ts says.

import { anySignal } from "../artifact/abort";
import type { FileCache } from "../artifact/file-cache";
import { type Address, Fetcher, isOutdated, sha256 } from "../artifact/fetch";
import { inUse, announceChange, unlessInUse } from "../artifact/locks";
import { parseManifest } from "../artifact/manifest";
import type { FileEntry, Manifest, Variant } from "../artifact/schema";
import { ArtifactStore, inventory, type KeptDescription, listedFiles } from "../artifact/store";
import { type FetchFunction, Network } from "../artifact/transfer";
import { eligible, inspect, negotiate, twinOf } from "../backend/negotiate";
import { ArtifactError, RequestError, WispError } from "../api/errors";
import type { ModelSize, StorageOptions, StoredModel, Verification } from "../api/storage";
import { entryOf, neededFiles } from "../worker/load/needs";
import { checkRoom } from "../worker/load/room";
import { sideBySide } from "../worker/load/weights";
import { FileMeter } from "./progress";
import { ReadOnly } from "./read-only";

/** Of a download at once. */
const MOST_BYTES_AT_ONCE = 64 * 2 ** 20;
const MOST_FILES_AT_ONCE = 6;

/** Variants that are wanted, by their names or by what fits here. */
export type Wanted = "all" | (string & {});

export interface Source {
  address: Address;
  fetch?: FetchFunction | undefined;
  headers?: Readonly<Record<string, string>> | undefined;
}

interface Chosen {
  variant: Variant;
  /** A load of it would measure alternatives. */
  tunes: boolean;
}

const never = (): AbortSignal => new AbortController().signal;

export class ModelStore {
  constructor(private readonly cache: FileCache) {}

  async list(): Promise<StoredModel[]> {
    const { files, descriptions } = await inventory(this.cache);
    return Promise.all(descriptions.map((description) => this.describe(description, files, descriptions)));
  }

  /** What a load with this `backend` needs is all here. */
  async has({ address }: Source, backend: string): Promise<boolean> {
    const kept = await this.fetcher({ address }, never()).kept(parseManifest);
    if (kept === undefined) return false;
    const [chosen] = await choose(kept.manifest, backend);
    const { files } = await inventory(this.cache);
    return chosen !== undefined && this.isWhole(kept.manifest, chosen, files);
  }

  async size(source: Source, backend: string, signal = never()): Promise<ModelSize> {
    const fetcher = this.fetcher(source, signal, new ReadOnly(this.cache));
    const { manifest } = await fetcher.description(parseManifest);
    const needed = await needs(fetcher, manifest, await choose(manifest, backend));
    const { files } = await inventory(this.cache);
    const sum = (entries: readonly FileEntry[]) => entries.reduce((total, { bytes }) => total + bytes, 0);
    const totalBytes = sum([...needed.values()]);
    const keptBytes = sum([...needed.values()].filter(({ sha256: hash }) => files.has(hash)));
    return { totalBytes, keptBytes, missingBytes: totalBytes - keptBytes };
  }

  async prefetch(source: Source, backend: Wanted, { signal = never(), onProgress }: StorageOptions): Promise<StoredModel> {
    this.checkKeeps();
    const { base } = source.address;
    let meter: FileMeter | undefined;
    await inUse(base, async () => {
      const store = new ArtifactStore(this.cache, base);
      const fetcher = this.fetcher(source, signal, this.cache, (reason) => meter?.wait(reason));
      for (let last = false; ; last = true) {
        const { manifest, bytes } = await fetcher.description(parseManifest);
        try {
          const needed = await needs(fetcher, manifest, await choose(manifest, backend));
          meter = new FileMeter(needed.values(), onProgress);
          await this.bring(fetcher, store, needed, meter, signal);
          await store.complete(bytes);
          return;
        } catch (error) {
          if (last || !isOutdated(error)) throw error; // Replaced meanwhile.
        }
      }
    });
    return this.one(base);
  }

  async delete({ base }: Address): Promise<{ deleted: boolean; freedBytes: number }> {
    const before = await inventory(this.cache);
    const its = before.descriptions.filter((description) => description.base === base);
    const store = new ArtifactStore(this.cache, base);
    if (!(await unlessInUse(base, () => store.remove()))) throw busy(base);
    const { files } = await inventory(this.cache);
    const gone = distinct(its.flatMap(({ bytes }) => listedFiles(bytes) ?? [])).filter(
      ({ sha256: hash }) => before.files.has(hash) && !files.has(hash),
    );
    return { deleted: its.length > 0, freedBytes: gone.reduce((sum, { bytes }) => sum + bytes, 0) };
  }

  /** @param address undefined: of all models */
  async verify(address: Address | undefined, { signal = never(), onProgress }: StorageOptions): Promise<Verification> {
    const { files, descriptions } = await inventory(this.cache);
    const its = descriptions.filter(({ base }) => address === undefined || base === address.base);
    const kept = distinct(
      its.flatMap(({ base, bytes }) => (listedFiles(bytes) ?? []).map((entry) => ({ ...entry, base }))).filter((e) => files.has(e.sha256)),
    );
    const meter = new FileMeter(kept, onProgress);
    const verification: Verification = { checkedFiles: 0, checkedBytes: 0, removed: [] };
    for (const { base, path, ...entry } of kept) {
      signal.throwIfAborted();
      const store = new ArtifactStore(this.cache, base);
      if (!(await isRight(entry, await store.blob(entry)))) {
        await store.deleteFile(entry);
        announceChange(base);
        verification.removed.push({ url: base, file: path });
      }
      verification.checkedFiles += 1;
      verification.checkedBytes += entry.bytes;
      meter.add(path, entry.bytes);
      meter.finish(path);
    }
    return verification;
  }

  /** Hands over each file of a model that is kept whole, checked. @throws RequestError when it is not */
  async export(
    { base }: Address,
    { signal = never(), onProgress }: StorageOptions,
    take: (path: string, bytes: Blob) => Promise<void> | void,
  ): Promise<void> {
    await inUse(base, async () => {
      const model = await this.one(base).catch(() => undefined);
      const store = new ArtifactStore(this.cache, base);
      const description = await store.description("complete");
      if (model === undefined || description === undefined || model.variants.length === 0)
        throw new RequestError({ what: `The model at ${base} is not kept whole in this browser`, remedy: "Call models.prefetch() first." });
      const { files } = await inventory(this.cache);
      const kept = (listedFiles(description) ?? []).filter(({ sha256: hash }) => files.has(hash));
      const meter = new FileMeter(kept, onProgress);
      await take("model.json", new Blob([description]));
      for (const { path, ...entry } of kept) {
        signal.throwIfAborted();
        const bytes = await store.blob(entry);
        if (bytes === undefined || !(await isRight(entry, bytes)))
          throw new ArtifactError({
            file: path,
            what: "The copy in this browser is damaged",
            remedy: "Call models.verify() and models.prefetch().",
          });
        await take(path, bytes);
        meter.add(path, entry.bytes);
        meter.finish(path);
      }
    });
  }

  /** Keeps whatever `fetch` has of an artifact, at least one variant whole. */
  async import(source: Source, exists: (path: string) => Promise<boolean>, options: StorageOptions): Promise<StoredModel> {
    this.checkKeeps();
    const { signal = never(), onProgress } = options;
    const { base } = source.address;
    const ran = await unlessInUse(base, async () => {
      const store = new ArtifactStore(this.cache, base);
      const before = await store.description("pending");
      let begun = false;
      let meter: FileMeter | undefined;
      try {
        const fetcher = this.fetcher(source, signal, this.cache, (reason) => meter?.wait(reason));
        const { manifest, bytes } = await fetcher.latest(parseManifest);
        begun = true;
        const needed = new Map<string, FileEntry>();
        for (const [path, entry] of manifest.files) if (await exists(path)) needed.set(path, entry);
        meter = new FileMeter(needed.values(), onProgress);
        await this.bring(fetcher, store, needed, meter, signal);
        const { files } = await inventory(this.cache);
        const whole = await Promise.all(manifest.variants.map((variant) => this.isWhole(manifest, { variant, tunes: false }, files)));
        if (!whole.includes(true))
          throw new RequestError({
            what: `The files of ${manifest.id} are not all there`,
            got: `${needed.size} of ${manifest.files.size} files`,
            expected: "the weights, and the plan and kernels of a variant",
          });
        await store.complete(bytes);
      } catch (error) {
        if (begun) await store.giveUp(before);
        throw error;
      }
    });
    if (!ran) throw busy(base);
    return this.one(base);
  }

  /** Those files that are not kept yet. @throws WispError("storage") */
  private async bring(
    fetcher: Fetcher,
    store: ArtifactStore,
    needed: ReadonlyMap<string, FileEntry>,
    meter: FileMeter,
    signal: AbortSignal,
  ): Promise<void> {
    const { files } = await inventory(this.cache);
    await checkRoom(store, [...needed.values()]);
    this.checkKeeps();
    const failure = new AbortController();
    const ends = anySignal([signal, failure.signal]);
    const items = [...needed].map(([path, entry]) => ({ path, entry }));
    try {
      await sideBySide(items, MOST_BYTES_AT_ONCE, MOST_FILES_AT_ONCE, async ({ path, entry }) => {
        ends.throwIfAborted();
        if (files.has(entry.sha256)) meter.add(path, entry.bytes);
        else {
          const { written } = await fetcher.until(ends, (bytes) => meter.add(path, bytes)).fetch(path, entry);
          await written;
          this.checkKeeps();
        }
        meter.finish(path);
      });
    } catch (error) {
      failure.abort();
      throw error;
    }
  }

  private checkKeeps(): void {
    if (this.cache.stores) return;
    const { refusal } = this.cache;
    throw new WispError("storage", {
      what: `Models cannot be kept here: ${refusal ?? "there is neither a Cache API nor a private file system, as in Node or on an insecure page"}`,
      remedy: refusal === undefined ? "Serve the page over https." : "Delete a model that is not needed: models.list() has them.",
    });
  }

  private fetcher(
    { address, fetch, headers = {} }: Source,
    signal: AbortSignal,
    cache = this.cache,
    onWaiting?: (reason: string | undefined) => void,
  ): Fetcher {
    const store = new ArtifactStore(cache, address.base);
    return new Fetcher({ address, store, network: new Network(fetch, headers), signal, ...(onWaiting === undefined ? {} : { onWaiting }) });
  }

  private async one(base: string): Promise<StoredModel> {
    const models = (await this.list()).filter(({ url }) => url === base);
    const found = models.find(({ state }) => state === "complete") ?? models[0];
    if (found === undefined) throw new Error(`${base} was deleted meanwhile`);
    return found;
  }

  private async describe(
    { base, state, bytes }: KeptDescription,
    files: ReadonlySet<string>,
    all: readonly KeptDescription[],
  ): Promise<StoredModel> {
    const kept = distinct(listedFiles(bytes) ?? []).filter(({ sha256: hash }) => files.has(hash));
    const others = new Set(
      all.filter((other) => other.base !== base).flatMap((other) => (listedFiles(other.bytes) ?? []).map((f) => f.sha256)),
    );
    const sum = (entries: readonly FileEntry[]) => entries.reduce((total, entry) => total + entry.bytes, 0);
    const manifest = manifestOf(bytes);
    const variants: string[] = [];
    for (const variant of manifest?.variants ?? [])
      if (manifest !== undefined && (await this.isWhole(manifest, { variant, tunes: false }, files))) variants.push(variant.name);
    return {
      url: base,
      model: manifest?.id,
      state: state === "complete" ? "complete" : "partial",
      bytes: sum(kept),
      ownBytes: sum(kept.filter(({ sha256: hash }) => !others.has(hash))),
      variants,
    };
  }

  private async isWhole(manifest: Manifest, { variant, tunes }: Chosen, files: ReadonlySet<string>): Promise<boolean> {
    const read = async (path: string): Promise<unknown> => {
      const blob = await this.cache.blob(ArtifactStore.keyOf(entryOf(manifest, path)));
      return JSON.parse((await blob?.text()) ?? "") as unknown;
    };
    const own = [manifest.weights, variant.plan];
    if (own.some((path) => !files.has(entryOf(manifest, path).sha256))) return false;
    try {
      return (await neededFiles(manifest, variant, tunes, read)).every((path) => files.has(entryOf(manifest, path).sha256));
    } catch {
      return false; // A damaged file.
    }
  }
}

/** What a load takes, and for `auto` the CPU's variant behind it. @throws DeviceError when nothing can run here */
async function choose(manifest: Manifest, backend: Wanted): Promise<Chosen[]> {
  const { variants } = manifest;
  if (backend === "all") return variants.map((variant) => ({ variant, tunes: true }));
  const device = await inspect(eligible(variants, backend));
  const fits = negotiate(variants, device, backend).filter(({ obstacle }) => obstacle === undefined);
  const inTurn = [
    ...fits.filter(({ lastResort }) => lastResort === undefined),
    ...fits.filter(({ lastResort }) => lastResort !== undefined),
  ];
  const [first] = inTurn;
  const cpu = inTurn.find(({ variant }) => variant.backend === "wasm");
  const tunes = device.gpu?.adapter !== undefined && !device.gpu.info.isFallback;
  const taken = [first, ...(cpu === first ? [] : [cpu])].flatMap((one) => (one === undefined ? [] : [one.variant]));
  // Where the memory does not suffice, what keeps keys and values in 8 bits is taken: a plan and its kernels more.
  const twins = taken.flatMap((variant) => twinOf(variant, backend === "auto" ? fits.map((one) => one.variant) : []) ?? []);
  return [...taken, ...twins].map((variant) => ({ variant, tunes }));
}

async function needs(fetcher: Fetcher, manifest: Manifest, chosen: readonly Chosen[]): Promise<Map<string, FileEntry>> {
  const needed = new Map<string, FileEntry>();
  const known = new Map<string, Promise<unknown>>();
  const read = (path: string): Promise<unknown> => {
    const json = known.get(path) ?? fetcher.json(path, entryOf(manifest, path));
    known.set(path, json);
    return json;
  };
  for (const { variant, tunes } of chosen)
    for (const path of await neededFiles(manifest, variant, tunes, read)) needed.set(path, entryOf(manifest, path));
  return needed;
}

function busy(base: string): RequestError {
  return new RequestError({
    what: `The model at ${base} is being loaded or downloaded in this tab or another`,
    remedy: "Cancel that, or wait until it is over.",
  });
}

function manifestOf(bytes: Uint8Array): Manifest | undefined {
  try {
    return parseManifest(JSON.parse(new TextDecoder().decode(bytes)) as unknown);
  } catch {
    return undefined;
  }
}

async function isRight(entry: FileEntry, blob: Blob | undefined): Promise<boolean> {
  if (blob?.size !== entry.bytes) return false;
  try {
    return (await sha256(new Uint8Array(await blob.arrayBuffer()))) === entry.sha256;
  } catch {
    return false; // It can be listed, not read.
  }
}

/** Each content once. */
function distinct<T extends FileEntry>(entries: readonly T[]): T[] {
  return [...new Map(entries.map((entry) => [entry.sha256, entry])).values()];
}
