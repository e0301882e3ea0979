// Where a site's files are kept: in the Cache API or, where a browser lacks that, in files of the site's own (opfs.ts).

import { type FileCache, noCache, refusalOf } from "./file-cache";
import { openPrivateFiles } from "./opfs";

const CACHE_NAME = "wisp-files-v2";
/** Keyed by addresses; nobody reads them any more. */
const FORMER_CACHES = ["wisp-artifacts-v1"];

export async function openCache(): Promise<FileCache> {
  return (await openCacheStorage()) ?? (await openPrivateFiles(CACHE_NAME)) ?? noCache;
}

async function openCacheStorage(): Promise<FileCache | undefined> {
  const { caches } = globalThis as { caches?: CacheStorage };
  try {
    for (const name of FORMER_CACHES) await caches?.delete(name);
    return caches === undefined ? undefined : new BrowserCache(await caches.open(CACHE_NAME));
  } catch {
    return undefined; // As in a frame without storage of its own.
  }
}

class BrowserCache implements FileCache {
  refusal: string | undefined;

  constructor(private readonly cache: Cache) {}

  get stores(): boolean {
    return this.refusal === undefined;
  }

  refuse(reason: string): void {
    this.refusal ??= reason;
  }

  async get(key: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    return this.read(key, async (response) => new Uint8Array(await response.arrayBuffer()));
  }

  blob(key: string): Promise<Blob | undefined> {
    return this.read(key, (response) => response.blob());
  }

  async has(key: string): Promise<boolean> {
    return (await this.read(key, () => Promise.resolve(true))) ?? false;
  }

  async put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    if (!this.stores) return;
    try {
      await this.cache.put(key, new Response(bytes, { headers: { "Content-Length": String(bytes.byteLength) } }));
    } catch (error) {
      this.refuse(refusalOf(error));
      await this.delete(key);
    }
  }

  async delete(key: string): Promise<void> {
    try {
      await this.cache.delete(key);
    } catch {
      // Not deletable means not readable either.
    }
  }

  async keys(onUnreadable?: () => void): Promise<string[]> {
    try {
      return (await this.cache.keys()).map(({ url }) => url);
    } catch {
      onUnreadable?.();
      return [];
    }
  }

  private async read<T>(key: string, take: (response: Response) => Promise<T>): Promise<T | undefined> {
    try {
      const response = await this.cache.match(key);
      return response === undefined ? undefined : await take(response);
    } catch {
      return undefined;
    }
  }
}
