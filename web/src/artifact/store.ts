// The files of artifacts by their content: what several artifacts, or versions of one, have in common is kept once.
//
//   files/<sha256>               a file's bytes
//   artifacts/<state>?of=<base>  model.json of the artifact at `base`: `complete` when a load of it has ended well, `pending` before
//   anything else                small notes about files (runtime/tuning.ts), whose key has `v=` and the beginning of a file's hash
//
// A file belongs to every artifact whose kept model.json lists it; what belongs to none is pruned. A model.json is noted
// before the first of its files, so that loads in several tabs leave each other's alone, and an artifact that is being
// replaced stays whole until the new one is.

import type { FileCache } from "./cache";
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

  get stores(): boolean {
    return this.cache.stores;
  }

  /** Unchecked. */
  file(entry: FileEntry): Promise<Bytes | undefined> {
    return this.cache.get(FILES + entry.sha256);
  }

  has(entry: FileEntry): Promise<boolean> {
    return this.cache.has(FILES + entry.sha256);
  }

  putFile(entry: FileEntry, bytes: Bytes): Promise<void> {
    return this.cache.put(FILES + entry.sha256, bytes);
  }

  deleteFile(entry: FileEntry): Promise<void> {
    return this.cache.delete(FILES + entry.sha256);
  }

  /** model.json, unchecked. */
  description(state: ArtifactState): Promise<Bytes | undefined> {
    return this.cache.get(this.key(state));
  }

  /** This model.json is being loaded. */
  begin(description: Bytes): Promise<void> {
    return this.cache.put(this.key("pending"), description);
  }

  /** All that this model.json needed here is there: it takes the place of the one before, whose files go. */
  async complete(description: Bytes): Promise<void> {
    await this.cache.put(this.key("complete"), description);
    const pending = await this.description("pending");
    if (pending !== undefined && sameBytes(pending, description)) await this.cache.delete(this.key("pending"));
    await this.prune();
  }

  /** Deletes what belongs to no artifact. */
  async prune(): Promise<void> {
    const keys = await this.cache.keys();
    const owned = new Set<string>();
    for (const key of keys.filter((candidate) => candidate.startsWith(ARTIFACTS))) {
      const description = await this.cache.get(key);
      const hashes = description === undefined ? undefined : hashesOf(description);
      if (hashes === undefined) await this.cache.delete(key);
      else for (const hash of hashes) owned.add(hash);
    }
    const beginnings = new Set([...owned].map((hash) => hash.slice(0, 16)));
    for (const key of keys) {
      if (key.startsWith(ARTIFACTS)) continue;
      const belongs = key.startsWith(FILES)
        ? owned.has(key.slice(FILES.length))
        : beginnings.has(new URL(key).searchParams.get("v")?.slice(0, 16) ?? "");
      if (!belongs) await this.cache.delete(key);
    }
  }

  private key(state: ArtifactState): string {
    return `${ARTIFACTS}${state}?of=${encodeURIComponent(this.base)}`;
  }
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && a.every((byte, i) => byte === b[i]);
}

/** Every hash in `files`; undefined when this is no model.json. */
function hashesOf(description: Bytes): string[] | undefined {
  try {
    const json = JSON.parse(new TextDecoder().decode(description)) as { files?: Record<string, { sha256?: unknown }> };
    return Object.values(json.files ?? {}).map(({ sha256 }) => String(sha256));
  } catch {
    return undefined;
  }
}
