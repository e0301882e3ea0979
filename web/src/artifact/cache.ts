// A key-value store of bytes in the browser's Cache API, so that a second visit needs no network. store.ts says what the
// keys are.
//
// Whether they are the right bytes is for others to check. Every failure here (no Cache API, no quota, private mode,
// eviction) means "not kept", never an error: the network is the truth. Why nothing is kept any more is remembered, to be said.

const CACHE_NAME = "wisp-files-v2";
/** Keyed by addresses; nobody reads them any more. */
const FORMER_CACHES = ["wisp-artifacts-v1"];

export interface FileCache {
  /** Whether put() keeps anything: then the browser's HTTP cache need not keep a second copy. */
  readonly stores: boolean;
  /** Why it does not, in plain words. */
  readonly refusal: string | undefined;
  get(key: string): Promise<Uint8Array<ArrayBuffer> | undefined>;
  has(key: string): Promise<boolean>;
  /** All of `bytes` or nothing: an entry is written from memory in one piece. */
  put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  delete(key: string): Promise<void>;
  keys(): Promise<string[]>;
  /** Nothing more is written. */
  refuse(reason: string): void;
}

export const noCache: FileCache = {
  stores: false,
  refusal: undefined,
  get: () => Promise.resolve(undefined),
  has: () => Promise.resolve(false),
  put: () => Promise.resolve(),
  delete: () => Promise.resolve(),
  keys: () => Promise.resolve([]),
  refuse: () => undefined,
};

export async function openCache(): Promise<FileCache> {
  if (!("caches" in globalThis)) return noCache;
  try {
    for (const name of FORMER_CACHES) await caches.delete(name);
    return new BrowserCache(await caches.open(CACHE_NAME));
  } catch {
    return noCache;
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
    try {
      const response = await this.cache.match(key);
      return response === undefined ? undefined : new Uint8Array(await response.arrayBuffer());
    } catch {
      return undefined;
    }
  }

  async has(key: string): Promise<boolean> {
    try {
      return (await this.cache.match(key)) !== undefined;
    } catch {
      return false;
    }
  }

  async put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    if (!this.stores) return;
    try {
      await this.cache.put(key, new Response(bytes, { headers: { "Content-Length": String(bytes.byteLength) } }));
    } catch (error) {
      const full = error instanceof Error && error.name === "QuotaExceededError";
      this.refuse(full ? "the browser has no more room for this site" : `the browser refused a file (${String(error)})`);
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

  async keys(): Promise<string[]> {
    try {
      return (await this.cache.keys()).map(({ url }) => url);
    } catch {
      return [];
    }
  }
}
