// Fetches an artifact's files: streamed with byte progress, retried, resumed within a file, checked against SHA-256, cached.
//
// Knows URLs, bytes and hashes; not what the files mean. At most one file's bytes are held by a call.

import { abortError, NetworkError } from "../errors";
import type { FileCache } from "./cache";
import type { FileEntry } from "./schema";

const TRIES = 3;
const BACKOFF_MS = 300;
/** No byte for this long counts as a broken connection. */
const STALL_MS = 30_000;
const MOST_MANIFEST_BYTES = 2 ** 24;

export interface FetchCounters {
  bytesDownloaded: number;
  bytesFromCache: number;
  cacheHits: number;
}

export interface FetcherOptions {
  /** The artifact's directory: an absolute URL that ends in a slash. */
  base: string;
  cache: FileCache;
  signal: AbortSignal;
  /** Called with every piece that arrives; a negative number takes bytes back that turned out wrong. */
  onBytes?: (bytes: number, fromCache: boolean) => void;
  backoffMs?: number;
}

/** A failure that another try may mend. */
class Transient extends Error {}

type Bytes = Uint8Array<ArrayBuffer>;

export class Fetcher {
  constructor(
    private readonly options: FetcherOptions,
    readonly counters: FetchCounters = { bytesDownloaded: 0, bytesFromCache: 0, cacheHits: 0 },
  ) {}

  /** The same artifact under another signal, after which no progress is reported any more; the counters are shared. */
  until(signal: AbortSignal): Fetcher {
    const onBytes = (bytes: number, fromCache: boolean) => {
      if (!signal.aborted) this.options.onBytes?.(bytes, fromCache);
    };
    return new Fetcher({ ...this.options, signal, onBytes }, this.counters);
  }

  /** The URL of a file whose content is known, so that it can be cached for ever. */
  url(path: string, entry: FileEntry): string {
    return `${this.options.base}${path}?v=${entry.sha256.slice(0, 16)}`;
  }

  /** model.json: its content is not known beforehand, so the network goes first and the cache serves when there is none. */
  async manifest(): Promise<unknown> {
    const { base, cache } = this.options;
    const url = `${base}model.json`;
    let bytes: Bytes;
    try {
      bytes = await this.download("model.json", url, undefined, "no-cache");
      await cache.put(url, bytes);
    } catch (error) {
      const kept = error instanceof NetworkError ? await cache.get(url) : undefined;
      if (kept === undefined) throw error;
      bytes = kept;
    }
    return this.parse("model.json", bytes);
  }

  async json(path: string, entry: FileEntry): Promise<unknown> {
    return this.parse(path, await this.file(path, entry));
  }

  async text(path: string, entry: FileEntry): Promise<string> {
    return new TextDecoder().decode(await this.file(path, entry));
  }

  /**
   * The verified bytes of a file, from the cache or the network.
   * @throws NetworkError when the file cannot be had or has other content than `entry` says, even past the HTTP cache
   */
  async file(path: string, entry: FileEntry): Promise<Bytes> {
    const { cache, onBytes } = this.options;
    const url = this.url(path, entry);
    const kept = await cache.get(url);
    if (kept !== undefined) {
      if (kept.byteLength === entry.bytes && (await sha256(kept)) === entry.sha256) {
        this.counters.cacheHits += 1;
        this.counters.bytesFromCache += kept.byteLength;
        onBytes?.(kept.byteLength, true);
        return kept;
      }
      await cache.delete(url);
    }
    let bytes = await this.download(path, url, entry.bytes, cache.stores ? "no-store" : "default");
    let hash = await sha256(bytes);
    if (hash !== entry.sha256) {
      onBytes?.(-bytes.byteLength, false);
      bytes = await this.download(path, url, entry.bytes, "reload");
      hash = await sha256(bytes);
    }
    if (hash !== entry.sha256)
      throw new NetworkError({
        file: path,
        what: "SHA-256 of the file, fetched twice",
        got: hash,
        expected: entry.sha256,
        remedy: "The artifact is damaged, or was replaced while the page was open: reload the page or upload the artifact again.",
      });
    this.options.signal.throwIfAborted();
    await cache.put(url, bytes);
    return bytes;
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
        remedy: `Check that ${this.options.base} is a Wisp artifact's directory.`,
      });
    }
  }

  private async download(path: string, url: string, size: number | undefined, cacheMode: RequestCache): Promise<Bytes> {
    const { signal, backoffMs = BACKOFF_MS } = this.options;
    // Progress is of files whose size is known.
    const onBytes = size === undefined ? undefined : this.options.onBytes;
    const sink = new Sink(size);
    for (let attempt = 1; ; attempt++) {
      signal.throwIfAborted();
      try {
        await this.attempt(path, url, sink, cacheMode, onBytes);
        return sink.take();
      } catch (error) {
        if (signal.aborted) throw abortError(signal);
        if (error instanceof NetworkError) throw error;
        if (sink.overflowed) {
          onBytes?.(-sink.received, false);
          sink.restart();
        }
        if (attempt === TRIES)
          throw new NetworkError({
            file: path,
            what: `the download failed ${TRIES} times`,
            got: error instanceof Error ? error.message : String(error),
            expected: size === undefined ? "the whole file" : `${size} bytes`,
            remedy: "Check the connection and load again: what has arrived whole is kept.",
          });
        await pause(backoffMs * 2 ** (attempt - 1), signal);
      }
    }
  }

  /** One request, from where the sink stands. Throws Transient or what fetch throws when another try may help. */
  private async attempt(
    path: string,
    url: string,
    sink: Sink,
    cacheMode: RequestCache,
    onBytes: FetcherOptions["onBytes"],
  ): Promise<void> {
    const { signal } = this.options;
    const stall = new StallTimer();
    try {
      const resumes = sink.received > 0;
      const response = await fetch(url, {
        signal: AbortSignal.any([signal, stall.signal]),
        cache: cacheMode,
        credentials: "same-origin",
        headers: resumes ? { Range: `bytes=${sink.received}-` } : {},
      });
      const { status } = response;
      if (status >= 500 || status === 408 || status === 429) throw new Transient(`HTTP status ${status}`);
      const continues = status === 206 && response.headers.get("Content-Range")?.startsWith(`bytes ${sink.received}-`) === true;
      if (resumes && !continues) {
        onBytes?.(-sink.received, false);
        sink.restart();
        if (status === 206 || status === 416) throw new Transient(`HTTP status ${status} for another range`);
      }
      if (!response.ok || response.body === null)
        throw new NetworkError({ file: path, what: "HTTP status", got: String(status), expected: "200", remedy: `Check the address ${url}.` });
      const reader = response.body.getReader();
      for (;;) {
        stall.restart();
        const { done, value } = await reader.read();
        if (done) break;
        sink.push(value);
        this.counters.bytesDownloaded += value.byteLength;
        onBytes?.(value.byteLength, false);
      }
      if (sink.incomplete) throw new Transient(`only ${sink.received} bytes`);
    } catch (error) {
      if (stall.signal.aborted && !signal.aborted) throw new Transient(`no byte for ${STALL_MS / 1000} seconds`);
      throw error;
    } finally {
      stall.stop();
    }
  }
}

/** Collects a file's bytes: into one allocation when the size is known. */
class Sink {
  received = 0;
  overflowed = false;
  private buffer: Bytes;

  constructor(private readonly size: number | undefined) {
    this.buffer = new Uint8Array(size ?? 2 ** 14);
  }

  get incomplete(): boolean {
    return this.size !== undefined && this.received < this.size;
  }

  push(piece: Uint8Array): void {
    const end = this.received + piece.byteLength;
    if (end > (this.size ?? MOST_MANIFEST_BYTES)) {
      this.overflowed = true;
      throw new Transient(`more than ${this.size ?? MOST_MANIFEST_BYTES} bytes`);
    }
    if (end > this.buffer.byteLength) {
      const larger = new Uint8Array(Math.max(end, 2 * this.buffer.byteLength));
      larger.set(this.buffer.subarray(0, this.received));
      this.buffer = larger;
    }
    this.buffer.set(piece, this.received);
    this.received = end;
  }

  restart(): void {
    this.received = 0;
    this.overflowed = false;
  }

  take(): Bytes {
    return this.buffer.byteLength === this.received ? this.buffer : this.buffer.slice(0, this.received);
  }
}

class StallTimer {
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  readonly signal = this.controller.signal;

  constructor() {
    this.restart();
  }

  restart(): void {
    this.stop();
    this.timer = setTimeout(() => this.controller.abort(), STALL_MS);
  }

  stop(): void {
    clearTimeout(this.timer);
  }
}

export async function sha256(bytes: Bytes): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(abortError(signal));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal.addEventListener("abort", stop, { once: true });
  });
}

/** Results of `make(item)` in order, with at most `ahead` under way or waiting to be taken. */
export async function* inOrder<T, R>(items: readonly T[], ahead: number, make: (item: T) => Promise<R>): AsyncGenerator<[T, R]> {
  const waiting: [T, Promise<R>][] = [];
  let next = 0;
  const start = () => {
    const item = items[next++];
    if (item === undefined) return;
    const promise = make(item);
    promise.catch(() => undefined); // An earlier item's failure may leave this one unawaited.
    waiting.push([item, promise]);
  };
  for (let i = 0; i < ahead; i++) start();
  for (let head = waiting.shift(); head !== undefined; head = waiting.shift()) {
    const result = await head[1];
    yield [head[0], result];
    start();
  }
}
