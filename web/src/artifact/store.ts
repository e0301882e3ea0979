// The files of artifacts by their content: what several artifacts, or versions of one, have in common is kept once.
//
//   files/<sha256>               a file's bytes
//   artifacts/<state>?of=<base>  model.json of the artifact at `base`: `complete` when a load of it has ended well, `pending` before
//   anything else                small notes about files (runtime/tuning.ts), whose key has `v=` and the beginning of a file's hash
//
// A file belongs to every artifact whose kept model.json lists it; what belongs to none is pruned. A model.json is noted
// before the first of its files, so that loads in several tabs leave each other's alone, and an artifact that is being
// replaced stays whole until the new one is.

import type { FileCache } from "./file-cache";
import { alone, announceChange } from "./locks";
import type { FileEntry } from "./schema";
import type { Bytes } from "./transfer";

const ROOT = "https://wisp.invalid/";
const FILES = `${ROOT}files/`;
const ARTIFACTS = `${ROOT}artifacts/`;

export type ArtifactState = "complete" | "pending";

export class ArtifactStore {
  /** @param base the artifact's address, without the query that may have let the page in */
  constructor(
    readonly cache: FileCache,
    private readonly base: string,
  ) {}

  static keyOf({ sha256 }: FileEntry): string {
    return FILES + sha256;
  }

  get stores(): boolean {
    return this.cache.stores;
  }

  /** Unchecked. */
  file(entry: FileEntry): Promise<Bytes | undefined> {
    return this.cache.get(ArtifactStore.keyOf(entry));
  }

  has(entry: FileEntry): Promise<boolean> {
    return this.cache.has(ArtifactStore.keyOf(entry));
  }

  putFile(entry: FileEntry, bytes: Bytes): Promise<void> {
    return this.cache.put(ArtifactStore.keyOf(entry), bytes);
  }

  /** Not read yet, and unchecked. */
  blob(entry: FileEntry): Promise<Blob | undefined> {
    return this.cache.blob(ArtifactStore.keyOf(entry));
  }

  deleteFile(entry: FileEntry): Promise<void> {
    return this.cache.delete(ArtifactStore.keyOf(entry));
  }

  /** model.json, unchecked. */
  description(state: ArtifactState): Promise<Bytes | undefined> {
    return this.cache.get(this.key(state));
  }

  /** This model.json is being loaded. */
  async begin(description: Bytes): Promise<void> {
    await alone(() => this.cache.put(this.key("pending"), description));
    if (this.stores) announceChange(this.base);
  }

  /** All that this model.json needed here is there: it takes the place of the one before, whose files go. */
  async complete(description: Bytes): Promise<void> {
    await alone(async () => {
      await this.cache.put(this.key("complete"), description);
      const pending = await this.description("pending");
      if (pending !== undefined && sameBytes(pending, description)) await this.cache.delete(this.key("pending"));
      await prune(this.cache);
    });
    if (this.stores) announceChange(this.base);
  }

  /** The artifact is forgotten, whole or begun, and with it every file that no other one has. */
  async remove(states: readonly ArtifactState[] = ["complete", "pending"]): Promise<void> {
    await alone(async () => {
      for (const state of states) await this.cache.delete(this.key(state));
      await prune(this.cache);
    });
    announceChange(this.base);
  }

  /** What was begun is given up, and what had been begun before it is begun again. */
  async giveUp(before: Bytes | undefined): Promise<void> {
    await alone(async () => {
      const key = this.key("pending");
      if (before === undefined) await this.cache.delete(key);
      else await this.cache.put(key, before);
      const now = await this.cache.get(key);
      // Where there is no room for it, its files have to stay for it.
      if (before === undefined || (now !== undefined && sameBytes(now, before))) await prune(this.cache);
    });
    announceChange(this.base);
  }

  /** Deletes what belongs to no artifact. */
  prune(): Promise<void> {
    return alone(() => prune(this.cache));
  }

  private key(state: ArtifactState): string {
    return `${ARTIFACTS}${state}?of=${encodeURIComponent(this.base)}`;
  }
}

/** A model.json that is kept. */
export interface KeptDescription {
  base: string;
  state: ArtifactState;
  bytes: Bytes;
}

/** All that is kept, by its content: the hashes of files, and the descriptions of artifacts. */
export async function inventory(cache: FileCache): Promise<{ files: ReadonlySet<string>; descriptions: KeptDescription[] }> {
  const keys = await cache.keys();
  const files = new Set(keys.filter((key) => key.startsWith(FILES)).map((key) => key.slice(FILES.length)));
  const descriptions: KeptDescription[] = [];
  for (const key of keys.filter((candidate) => candidate.startsWith(ARTIFACTS))) {
    const bytes = await cache.get(key);
    const { pathname, searchParams } = new URL(key);
    const state = pathname.endsWith("/complete") ? "complete" : "pending";
    if (bytes !== undefined) descriptions.push({ base: searchParams.get("of") ?? "", state, bytes });
  }
  return { files, descriptions };
}

/** Nothing where something cannot be read: it may be the description that a file belongs to. */
async function prune(cache: FileCache): Promise<void> {
  let unreadable = 0;
  const keys = await cache.keys(() => unreadable++);
  if (unreadable > 0) return;
  const owned = new Set<string>();
  for (const key of keys.filter((candidate) => candidate.startsWith(ARTIFACTS))) {
    const description = await cache.get(key);
    if (description === undefined) return;
    const listed = listedFiles(description);
    if (listed === undefined) await cache.delete(key);
    else for (const { sha256 } of listed) owned.add(sha256);
  }
  const beginnings = new Set([...owned].map((hash) => hash.slice(0, 16)));
  for (const key of keys) {
    if (key.startsWith(ARTIFACTS)) continue;
    const belongs = key.startsWith(FILES)
      ? owned.has(key.slice(FILES.length))
      : beginnings.has(new URL(key).searchParams.get("v")?.slice(0, 16) ?? "");
    if (!belongs) await cache.delete(key);
  }
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && a.every((byte, i) => byte === b[i]);
}

/** The files that a model.json lists; undefined when it is none. */
export function listedFiles(description: Bytes): (FileEntry & { path: string })[] | undefined {
  try {
    const json = JSON.parse(new TextDecoder().decode(description)) as { files?: Record<string, Partial<FileEntry>> };
    return Object.entries(json.files ?? {}).map(([path, { bytes, sha256 }]) => ({ path, bytes: Number(bytes), sha256: String(sha256) }));
  } catch {
    return undefined;
  }
}
