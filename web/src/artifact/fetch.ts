// An artifact's files, each by its hash: from the store, or over the network, checked against SHA-256 and stored.
//
// Knows addresses, bytes and hashes; not what the files mean. How a file survives a bad network is transfer.ts's; what is
// kept and for whom, store.ts's. One download serves all tabs and engines of a site that want the file at the same time.

import { NetworkError, WispError } from "../api/errors";
import type { FileEntry, Manifest } from "./schema";
import { type ArtifactStore, sameBytes } from "./store";
import { type Bytes, MismatchError, type Network, transfer } from "./transfer";

export interface FetchCounters {
  bytesDownloaded: number;
  bytesFromCache: number;
  cacheHits: number;
}

export interface FetcherOptions {
  address: Address;
  store: ArtifactStore;
  network: Network;
  signal: AbortSignal;
  /** Called with every piece that arrives; a negative number takes bytes back that have to come again. */
  onBytes?: (bytes: number, fromCache: boolean) => void;
  /** Why nothing comes at the moment, in plain words; undefined when something does again. */
  onWaiting?: (reason: string | undefined) => void;
}

/** An artifact's directory, and the query that every request of it carries (a signature, as of private buckets). */
export interface Address {
  /** Ends in a slash. */
  base: string;
  query: string;
}

export function addressOf(url: string): Address {
  const { origin, protocol, host, pathname, search } = new URL(url);
  const root = origin === "null" ? `${protocol}//${host}` : origin; // file: has no origin
  return { base: root + (pathname.endsWith("/") ? pathname : `${pathname}/`), query: search.slice(1) };
}

export interface Fetched {
  bytes: Bytes;
  /** The store has them, or will not have them. */
  written: Promise<void>;
}

/** model.json, valid. */
export interface Description {
  manifest: Manifest;
  bytes: Bytes;
  /** That the network did not give it, and why, in plain words. */
  notice: string | undefined;
}

export class Fetcher {
  constructor(
    private readonly options: FetcherOptions,
    readonly counters: FetchCounters = { bytesDownloaded: 0, bytesFromCache: 0, cacheHits: 0 },
  ) {}

  /** The same artifact under another signal, after which no progress is reported any more; the counters are shared. */
  until(signal: AbortSignal, onBytes = this.options.onBytes): Fetcher {
    const { onWaiting } = this.options;
    return new Fetcher(
      {
        ...this.options,
        signal,
        onBytes: (bytes, fromCache) => {
          if (!signal.aborted) onBytes?.(bytes, fromCache);
        },
        onWaiting: (reason) => {
          if (!signal.aborted) onWaiting?.(reason);
        },
      },
      this.counters,
    );
  }

  /** A file whose content is known can be cached for ever. */
  url(path: string, entry?: FileEntry): string {
    const { base, query } = this.options.address;
    const parameters = [query, entry === undefined ? "" : `v=${entry.sha256.slice(0, 16)}`].filter((part) => part !== "");
    return parameters.length === 0 ? base + path : `${base}${path}?${parameters.join("&")}`;
  }

  /**
   * model.json: its content is not known beforehand, so the network goes first; what is kept serves when there is none, or
   * when that gives something else (the login page of a hotel). Nothing is stored before `parse` has accepted it.
   */
  async description(parse: (json: unknown) => Manifest): Promise<Description> {
    const kept = await this.kept(parse);
    try {
      return await this.latest(parse, kept);
    } catch (error) {
      if (kept === undefined || !(error instanceof WispError)) throw error;
      return { ...kept, notice: `The copy of the model in this browser is used: ${error.message}` };
    }
  }

  /** model.json as the network gives it. @param kept what is here of it, so that nobody waits long */
  async latest(parse: (json: unknown) => Manifest, kept?: Description): Promise<Description> {
    const bytes = await this.download("model.json", this.url("model.json"), undefined, "no-cache", kept !== undefined);
    const manifest = parse(this.parse("model.json", bytes));
    if (kept === undefined || !sameBytes(kept.bytes, bytes)) await this.options.store.begin(bytes);
    return { manifest, bytes, notice: undefined };
  }

  /** What an earlier load has kept: the latest that was loaded whole, if there is one. */
  async kept(parse: (json: unknown) => Manifest): Promise<Description | undefined> {
    for (const state of ["complete", "pending"] as const) {
      const bytes = await this.options.store.description(state);
      if (bytes === undefined) continue;
      try {
        return { manifest: parse(this.parse("model.json", bytes)), bytes, notice: undefined };
      } catch {
        // Of another version of the engine.
      }
    }
    return undefined;
  }

  async json(path: string, entry: FileEntry): Promise<unknown> {
    return this.parse(path, await this.file(path, entry));
  }

  /** The verified bytes of a file. @throws NetworkError */
  async file(path: string, entry: FileEntry): Promise<Bytes> {
    return (await this.fetch(path, entry)).bytes;
  }

  /**
   * The same, with word of when they are written: whoever holds many files at once waits for it.
   * @throws NetworkError when the file cannot be had or has other content than `entry` says, even past the HTTP cache
   */
  async fetch(path: string, entry: FileEntry): Promise<Fetched> {
    const { store } = this.options;
    const locks = store.stores ? (globalThis as { navigator?: { locks?: LockManager } }).navigator?.locks : undefined;
    if (locks === undefined) return this.obtain(path, entry);
    return (await this.stored(entry)) ?? this.exclusively(locks, `wisp ${entry.sha256}`, () => this.obtain(path, entry));
  }

  /** Whoever comes second finds in the store what the first has written. */
  private exclusively(locks: LockManager, name: string, obtain: () => Promise<Fetched>): Promise<Fetched> {
    const { signal, onWaiting } = this.options;
    return new Promise((resolve, reject) => {
      const hold = async () => {
        const fetched = await obtain();
        resolve(fetched);
        await fetched.written;
      };
      const request = async () => {
        const taken = await locks.request(name, { ifAvailable: true }, async (lock) => {
          if (lock !== null) await hold();
          return lock !== null;
        });
        if (taken) return;
        onWaiting?.("another tab or engine is downloading it");
        await locks.request(name, { signal }, () => {
          onWaiting?.(undefined);
          return hold();
        });
      };
      request().catch(reject);
    });
  }

  private async obtain(path: string, entry: FileEntry): Promise<Fetched> {
    const { store, signal } = this.options;
    const stored = await this.stored(entry);
    if (stored !== undefined) return stored;
    const verify = async (bytes: Bytes) => {
      const hash = await sha256(bytes);
      return hash === entry.sha256 ? undefined : { what: "SHA-256 of the file", got: hash, expected: entry.sha256 };
    };
    const bytes = await this.download(path, this.url(path, entry), entry.bytes, store.stores ? "no-store" : "default", false, verify);
    signal.throwIfAborted();
    return { bytes, written: store.putFile(entry, bytes) };
  }

  private async stored(entry: FileEntry): Promise<Fetched | undefined> {
    const { store, onBytes } = this.options;
    const bytes = await store.file(entry);
    if (bytes === undefined) return undefined;
    if (bytes.byteLength !== entry.bytes || (await sha256(bytes)) !== entry.sha256) {
      await store.deleteFile(entry);
      return undefined;
    }
    this.counters.cacheHits += 1;
    this.counters.bytesFromCache += bytes.byteLength;
    onBytes?.(bytes.byteLength, true);
    return { bytes, written: Promise.resolve() };
  }

  private parse(path: string, bytes: Bytes): unknown {
    try {
      return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) as unknown;
    } catch (error) {
      throw new NetworkError({
        file: path,
        what: "the file",
        got: `${bytes.byteLength} bytes that are no JSON (${String(error)})`,
        expected: "JSON in UTF-8",
        remedy: `Check that ${this.options.address.base} is a Wisp artifact's directory, and that the network wants no login.`,
      });
    }
  }

  private download(
    file: string,
    url: string,
    size: number | undefined,
    cache: RequestCache,
    failFast: boolean,
    verify?: (bytes: Bytes) => Promise<{ what: string; got: string; expected: string } | undefined>,
  ): Promise<Bytes> {
    const { network, signal, onBytes, onWaiting } = this.options;
    const count = (bytes: number) => {
      this.counters.bytesDownloaded += Math.max(0, bytes);
      if (size !== undefined) onBytes?.(bytes, false); // Progress is of files whose size is known.
    };
    return transfer(network, {
      file,
      url,
      size,
      cache,
      signal,
      failFast,
      onBytes: count,
      onWaiting,
      ...(verify === undefined ? {} : { verify }),
    });
  }
}

/** Whether a new look at model.json may mend the load. */
export function isOutdated(error: unknown): boolean {
  return error instanceof MismatchError && error.file !== "model.json";
}

export async function sha256(bytes: Bytes): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
