// A server that misbehaves as a script says, behind the fetch function that is given to the engine, and a clock that runs as
// fast as the code under test waits. Nothing here takes real time.
import { createHash } from "node:crypto";
import { vi } from "vitest";
import type { FileCache } from "../../src/artifact/file-cache";
import type { FileEntry } from "../../src/artifact/schema";
import type { FetchFunction } from "../../src/artifact/transfer";

export type Bytes = Uint8Array<ArrayBuffer>;

export const sha = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
export const entryOf = (bytes: Uint8Array): FileEntry => ({ bytes: bytes.length, sha256: sha(bytes) });
export const content = (length: number, seed = 31): Bytes => new Uint8Array(length).map((_, i) => (i * seed) % 251);
export const text = (value: string): Bytes => new TextEncoder().encode(value);

/** Element-wise comparison of large typed arrays by toEqual takes seconds. */
export const same = (a: Uint8Array | undefined, b: Uint8Array): boolean => a !== undefined && Buffer.compare(a, b) === 0;

export interface Asked {
  url: string;
  /** The first byte of the range that was asked for. */
  from: number;
  headers: Headers;
  cache: RequestCache | undefined;
  mode: RequestMode | undefined;
  at: number;
  signal: AbortSignal;
}

export type Answer = (asked: Asked) => Response | Promise<Response>;

/** @param answers the answer of each request in turn; the last one answers all that follow */
export function scripted(...answers: Answer[]): { fetch: FetchFunction; asked: Asked[] } {
  const asked: Asked[] = [];
  const fetch: FetchFunction = async (url, init) => {
    const headers = new Headers(init.headers);
    const signal = init.signal ?? new AbortController().signal;
    const from = Number(/^bytes=(\d+)-$/.exec(headers.get("Range") ?? "")?.[1] ?? 0);
    const request = { url, from, headers, cache: init.cache, mode: init.mode, at: performance.now(), signal };
    asked.push(request);
    signal.throwIfAborted();
    const answer = answers[Math.min(asked.length, answers.length) - 1];
    if (answer === undefined) throw new Error("no script");
    return answer(request);
  };
  return { fetch, asked };
}

/** What fetch() says of everything that goes wrong before an answer. */
export const unreachable: Answer = () => {
  throw new TypeError("Failed to fetch");
};

export const status =
  (code: number, headers: Record<string, string> = {}): Answer =>
  () =>
    new Response("no", { status: code, headers });

export const whole =
  (bytes: Bytes, headers: Record<string, string> = {}): Answer =>
  () =>
    new Response(bytes, { headers });

export interface Flow {
  /** The connection breaks after so many bytes of this answer; "end": as if the file ended there. */
  cut?: number;
  end?: number;
  /** Nothing more comes, and nothing is said about it. */
  stall?: number;
  piece?: number;
  everyMs?: number;
  etag?: string;
  /** The server knows no ranges. */
  ranges?: boolean;
}

/** A file as a stream of pieces, from where it is asked for. */
export function file(bytes: Bytes, { cut, end, stall, piece = 4096, everyMs = 0, etag, ranges = true }: Flow = {}): Answer {
  return ({ from: asked, headers: sent, signal }) => {
    const fresh = sent.get("If-Range") === null || sent.get("If-Range") === etag;
    const from = ranges && fresh ? asked : 0;
    if (from >= bytes.length && from > 0) return new Response("no", { status: 416 });
    const stop = Math.min(bytes.length, from + (cut ?? end ?? stall ?? Infinity));
    let at = from;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => signal.addEventListener("abort", () => controller.error(new DOMException("aborted", "AbortError"))),
      pull: async (controller) => {
        if (everyMs > 0) await new Promise((resolve) => setTimeout(resolve, everyMs));
        if (signal.aborted) return;
        if (at < stop) {
          controller.enqueue(bytes.subarray(at, Math.min(stop, at + piece)));
          at = Math.min(stop, at + piece);
        } else if (stall !== undefined) await new Promise(() => undefined);
        else if (cut !== undefined && stop < bytes.length) controller.error(new TypeError("network error"));
        else controller.close();
      },
    });
    const headers = { ...(etag === undefined ? {} : { ETag: etag }) };
    if (from === 0) return new Response(body, { headers });
    return new Response(body, {
      status: 206,
      headers: { ...headers, "Content-Range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` },
    });
  };
}

export class MemoryCache implements FileCache {
  refusal: string | undefined;
  readonly entries = new Map<string, Bytes>();
  /** Before each entry is written. */
  beforePut: () => Promise<void> | void = () => undefined;

  get stores(): boolean {
    return this.refusal === undefined;
  }
  refuse(reason: string): void {
    this.refusal ??= reason;
  }
  get = (key: string) => Promise.resolve(this.entries.get(key)?.slice());
  blob = async (key: string) => {
    const bytes = await this.get(key);
    return bytes === undefined ? undefined : new Blob([bytes]);
  };
  has = (key: string) => Promise.resolve(this.entries.has(key));
  put = async (key: string, bytes: Bytes) => {
    await this.beforePut();
    if (this.stores) this.entries.set(key, bytes.slice());
  };
  delete = (key: string) => Promise.resolve(void this.entries.delete(key));
  keys = () => Promise.resolve([...this.entries.keys()]);
}

export function fakeClock(): void {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "performance", "Date"] });
}

/** Lets time pass, from one timer to the next, until the promise is settled. @returns what it came to */
export async function passing<T>(promise: Promise<T>): Promise<T | Error> {
  let outcome: { value: T | Error } | undefined;
  promise.then(
    (value) => (outcome = { value }),
    (error: unknown) => (outcome = { value: error as Error }),
  );
  for (;;) {
    for (let turn = 0; turn < 20; turn++) {
      await new Promise(setImmediate);
      if (outcome !== undefined) return outcome.value;
    }
    vi.advanceTimersToNextTimer();
  }
}
