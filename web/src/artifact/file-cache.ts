// A key-value store of bytes in the browser, so that a second visit needs no network; cache.ts opens one. store.ts says what the
// keys are.
//
// Whether they are the right bytes is for others to check. Every failure here (no such store, no quota, private mode, eviction)
// means "not kept", never an error: the network is the truth. Why nothing is kept any more is remembered, to be said.

export interface FileCache {
  /** Whether put() keeps anything: then the browser's HTTP cache need not keep a second copy. */
  readonly stores: boolean;
  /** Why it does not, in plain words. */
  readonly refusal: string | undefined;
  get(key: string): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /** The same, not read yet: browsers leave it where it is until somebody does. */
  blob(key: string): Promise<Blob | undefined>;
  has(key: string): Promise<boolean>;
  /** All of `bytes` or nothing: an entry is written from memory in one piece. */
  put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  delete(key: string): Promise<void>;
  /** @param onUnreadable there are entries whose keys cannot be read */
  keys(onUnreadable?: () => void): Promise<string[]>;
  /** Nothing more is written. */
  refuse(reason: string): void;
}

export const noCache: FileCache = {
  stores: false,
  refusal: undefined,
  get: () => Promise.resolve(undefined),
  blob: () => Promise.resolve(undefined),
  has: () => Promise.resolve(false),
  put: () => Promise.resolve(),
  delete: () => Promise.resolve(),
  keys: () => Promise.resolve([]),
  refuse: () => undefined,
};

/** What put() has to say when the browser does not take an entry. */
export function refusalOf(error: unknown): string {
  const full = error instanceof Error && error.name === "QuotaExceededError";
  return full ? "the browser has no more room for this site" : `the browser refused a file (${String(error)})`;
}
