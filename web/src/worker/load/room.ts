// Whether the browser has room for a model's files, asked before they are downloaded, and whether it will keep them.

import type { FileEntry } from "../../artifact/schema";
import type { ArtifactStore } from "../../artifact/store";

/** What is used of navigator.storage; in Node there is none. */
export type Storage = Partial<Pick<StorageManager, "estimate" | "persisted">>;

const browserStorage = (): Storage => (globalThis as { navigator?: { storage?: Storage } }).navigator?.storage ?? {};

/** Files that do not fit are not kept at all: half a model serves nobody, and the site may need what room there is. */
export async function checkRoom(store: ArtifactStore, entries: readonly FileEntry[], storage = browserStorage()): Promise<void> {
  if (!store.stores || storage.estimate === undefined) return;
  const missing = await Promise.all(entries.map(async (entry) => ((await store.has(entry)) ? 0 : entry.bytes)));
  const needed = missing.reduce((sum, bytes) => sum + bytes, 0);
  if (needed === 0) return;
  const { quota, usage } = await storage.estimate().catch(() => ({ quota: undefined, usage: undefined }));
  if (quota === undefined || usage === undefined || needed <= quota - usage) return;
  store.cache.refuse(`the browser has room for ${megabytes(Math.max(0, quota - usage))} more of this site, they take ${megabytes(needed)}`);
}

/** What is to be said about the files when the load is over; nothing when they are kept for good. */
export async function storageNotices({ cache }: ArtifactStore, storage = browserStorage()): Promise<string[]> {
  if (cache.refusal !== undefined)
    return [`The model's files are not kept in this browser, so that the next visit downloads them again: ${cache.refusal}.`];
  if (!cache.stores || storage.persisted === undefined) return [];
  const persisted = await storage.persisted().catch(() => true);
  return persisted
    ? []
    : [
        "The browser keeps the model's files, but may delete them when it runs short of room: it has not granted this site persistent storage.",
      ];
}

const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6).toLocaleString("en-US")} MB`;
