// Files of artifacts in the browser's Cache API, keyed by a URL that holds their hash, so that a second visit needs no network.
//
// Stores and returns bytes; whether they are the right bytes is for fetch.ts to check. Every failure here (no Cache API,
// no quota, private mode) means "not cached", never an error: the network is the truth.

const CACHE_NAME = "wisp-artifacts-v1";

export interface FileCache {
  /** Whether put() keeps anything: then the browser's HTTP cache need not keep a second copy. */
  readonly stores: boolean;
  get(url: string): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /** All of `bytes` or nothing: an entry is written from memory in one piece. */
  put(url: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  delete(url: string): Promise<void>;
  /** Deletes the entries below `base` that are not in `keep`: files of earlier versions of the artifact. */
  prune(base: string, keep: ReadonlySet<string>): Promise<void>;
}

export const noCache: FileCache = {
  stores: false,
  get: () => Promise.resolve(undefined),
  put: () => Promise.resolve(),
  delete: () => Promise.resolve(),
  prune: () => Promise.resolve(),
};

export async function openCache(): Promise<FileCache> {
  if (!("caches" in globalThis)) return noCache;
  try {
    return new BrowserCache(await caches.open(CACHE_NAME));
  } catch {
    return noCache;
  }
}

class BrowserCache implements FileCache {
  /** False after one refusal (a quota): nothing more is written. */
  stores = true;

  constructor(private readonly cache: Cache) {}

  async get(url: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    try {
      const response = await this.cache.match(url);
      return response === undefined ? undefined : new Uint8Array(await response.arrayBuffer());
    } catch {
      return undefined;
    }
  }

  async put(url: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    if (!this.stores) return;
    try {
      await this.cache.put(url, new Response(bytes, { headers: { "Content-Length": String(bytes.byteLength) } }));
    } catch {
      this.stores = false;
      await this.delete(url);
    }
  }

  async delete(url: string): Promise<void> {
    try {
      await this.cache.delete(url);
    } catch {
      // Not deletable means not readable either.
    }
  }

  async prune(base: string, keep: ReadonlySet<string>): Promise<void> {
    try {
      for (const { url } of await this.cache.keys()) if (url.startsWith(base) && !keep.has(url)) await this.cache.delete(url);
    } catch {
      // Stale entries cost space, nothing else.
    }
  }
}
