// One file's bytes over a network that fails: streamed, resumed where the connection broke, tried again as long as that helps.
//
// Knows HTTP and time; neither what the bytes mean nor where they are kept. The policy (RetryPolicy): tries are counted only
// while nothing comes, an outage is waited for when the server has been there before, and what a server answers wrongly
// again and again is given up soon.

import { anySignal } from "./abort";
import { abortError, NetworkError } from "../api/errors";

export type Bytes = Uint8Array<ArrayBuffer>;
export type FetchFunction = (url: string, init: RequestInit) => Promise<Response>;

const KIB = 2 ** 10;
const MOST_BYTES_OF_UNKNOWN_SIZE = 2 ** 24;
/** No byte for this long counts as a broken connection. */
const STALL_MS = 30_000;
/** Fewer bytes than this in a window count as none: a byte now and then would keep a load waiting for ever. */
const LEAST_BYTES = 16 * KIB;
const WINDOW_MS = 60_000;
const FIRST_PAUSE_MS = 500;
const MOST_PAUSE_MS = 30_000;
/** How long nothing may come: of a server that has sent something before, and of one that has not. */
const OUTAGE_MS = 600_000;
const FIRST_OUTAGE_MS = 15_000;
/** The longest wait that a server may ask for, and how often in a row. */
const MOST_RETRY_AFTER_MS = 300_000;
const MOST_RETRY_AFTERS = 5;
/** Answers without progress that are no answers (500, a page in place of the file, a trickle), and wrong files. */
const MOST_REFUSALS = 5;
const MOST_WRONG = 3;
/** With a copy at hand, how long the network may take to answer. */
const FAIL_FAST_STALL_MS = 8000;

/** The file is another one than the artifact's description says, or is gone: the description may be out of date. */
export class MismatchError extends NetworkError {}

/** How an artifact's server is reached, and what is known of it by now. */
export class Network {
  /** Bytes have come. */
  arrived = false;
  /** It has answered, so what fails later is no question of permission. */
  answered = false;

  constructor(
    readonly fetch: FetchFunction = (url, init) => globalThis.fetch(url, init),
    readonly headers: Readonly<Record<string, string>> = {},
    /** Browsers hide from pages why a request failed; where that is not so, there is nothing to find out. */
    readonly origin: string | undefined = (globalThis as { origin?: string }).origin,
  ) {}

  /** Whether a request that failed reached a server, which then did not let the page read the answer. */
  async refusesThePage(url: string, signal: AbortSignal): Promise<boolean> {
    if (this.answered || this.origin === undefined) return false;
    try {
      const { type, body } = await this.fetch(url, { mode: "no-cors", cache: "no-store", credentials: "omit", signal });
      void body?.cancel();
      return type === "opaque";
    } catch {
      return false;
    }
  }
}

export interface TransferRequest {
  /** What errors call it. */
  file: string;
  url: string;
  /** Undefined: not known beforehand. */
  size: number | undefined;
  cache: RequestCache;
  signal: AbortSignal;
  /** One try: there is a copy to take instead. */
  failFast?: boolean;
  /** Called with every piece that arrives; a negative number takes bytes back that have to come again. */
  onBytes?: ((bytes: number) => void) | undefined;
  /** Why nothing comes at the moment, in plain words; undefined when it is tried again. */
  onWaiting?: ((reason: string | undefined) => void) | undefined;
  /** What is wrong with the whole file; undefined when nothing is. */
  verify?: (bytes: Bytes) => Promise<Wrong | undefined>;
}

export interface Wrong {
  what: string;
  got: string;
  expected: string;
}

type Cause =
  /** The network or the server is away. */
  | "outage"
  /** The server answers, but not with the file. */
  | "refusal"
  /** A whole file, but another one. */
  | "wrong";

class Failure extends Error {
  constructor(
    readonly failure: Cause,
    message: string,
    readonly details: { retryAfterMs?: number | undefined; unreached?: boolean; wrong?: Wrong } = {},
  ) {
    super(message);
  }
}

/** @throws NetworkError when it cannot be had; MismatchError when it is not there or another file; the signal's reason */
export async function transfer(network: Network, request: TransferRequest): Promise<Bytes> {
  const { url, size, signal, onBytes, onWaiting, verify, failFast = false } = request;
  const sink = new Sink(size, onBytes);
  const policy = new RetryPolicy(network);
  let { cache } = request;
  let unreached = 0;
  for (;;) {
    signal.throwIfAborted();
    const startedAt = performance.now();
    try {
      await attempt(network, { ...request, cache }, sink);
      const bytes = sink.take();
      const wrong = await verify?.(bytes);
      if (wrong === undefined) return bytes;
      throw new Failure("wrong", `${wrong.what} is ${wrong.got}`, { wrong });
    } catch (error) {
      if (signal.aborted) throw abortError(signal);
      if (error instanceof NetworkError) throw error;
      const failure = error instanceof Failure ? error : new Failure("outage", error instanceof Error ? error.message : String(error));
      if (failure.failure === "wrong") {
        sink.restart();
        cache = "reload"; // Whatever kept the wrong one.
      }
      if (failure.details.unreached === true && ++unreached === 2 && (await network.refusesThePage(url, signal)))
        throw refused(request, network);
      const pauseMs = failFast ? undefined : policy.after(failure, sink.furthest, performance.now() - startedAt);
      if (pauseMs === undefined) throw givenUp(request, network, failure, policy.tries);
      onWaiting?.(`${failure.message}; trying again in ${Math.ceil(pauseMs / 1000)} s`);
      await pause(pauseMs, signal);
      onWaiting?.(undefined);
    }
  }
}

/** One request, from where the sink stands. Throws Failure when another one may help. */
async function attempt(network: Network, request: TransferRequest, sink: Sink): Promise<void> {
  const { file, url, size, cache, signal, failFast } = request;
  const watchdog = new Watchdog(failFast === true ? FAIL_FAST_STALL_MS : STALL_MS);
  try {
    const from = sink.received;
    const response = await respond(network, { url, cache, from, etag: sink.etag, signal: anySignal([signal, watchdog.signal]) });
    const { status, headers, body } = response;
    checkStatus(file, url, response);
    const continues = status === 206 && headers.get("Content-Range")?.startsWith(`bytes ${from}-`) === true;
    const tag = strongTag(headers);
    if (from > 0 && (!continues || (sink.etag !== undefined && tag !== undefined && tag !== sink.etag))) {
      sink.restart();
      if (status === 206) throw new Failure("refusal", "the server sent another range than it was asked for");
    }
    if (size !== undefined && headers.get("Content-Type")?.startsWith("text/html") === true)
      throw new Failure("refusal", "a page came in place of the file, as from a network that wants a login");
    if (body === null) throw new Failure("refusal", `HTTP status ${status} without a body`);
    sink.etag = tag;
    watchdog.stallMs = STALL_MS;
    const reader = body.getReader();
    for (;;) {
      watchdog.restart();
      const { done, value } = await reader.read();
      if (done) break;
      network.arrived = true;
      watchdog.note(value.byteLength);
      sink.push(value);
    }
    if (sink.incomplete)
      throw new Failure("refusal", `only ${sink.received} of ${size ?? 0} bytes came`, { wrong: wrongLength(sink.received, size) });
  } catch (error) {
    if (watchdog.signal.aborted && !signal.aborted)
      throw watchdog.slow
        ? new Failure("refusal", `fewer than ${LEAST_BYTES} bytes a minute`)
        : new Failure("outage", `no byte for ${watchdog.stallMs / 1000} seconds`);
    throw error;
  } finally {
    watchdog.stop();
  }
}

async function respond(
  network: Network,
  { url, cache, from, etag, signal }: { url: string; cache: RequestCache; from: number; etag: string | undefined; signal: AbortSignal },
): Promise<Response> {
  const headers: Record<string, string> = { ...network.headers };
  if (from > 0) {
    headers["Range"] = `bytes=${from}-`;
    // Elsewhere it would make browsers ask for permission first; there the tags are compared here.
    if (etag !== undefined && network.origin !== undefined && url.startsWith(`${network.origin}/`)) headers["If-Range"] = etag;
  }
  try {
    const response = await network.fetch(url, { signal, cache, credentials: "same-origin", headers });
    network.answered = true;
    return response;
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Failure("outage", error instanceof Error ? error.message : String(error), { unreached: true });
  }
}

const AWAY = new Set([408, 425, 429, 502, 503, 504]);

/** @throws Failure for what may pass, NetworkError for what will not */
function checkStatus(file: string, url: string, { status, ok, headers }: Response): void {
  if (ok) return;
  if (status === 416)
    throw new Failure("wrong", "the file is shorter than it should be", {
      wrong: { what: "the file", got: "an end before its bytes", expected: "all of them" },
    });
  if (AWAY.has(status) || status >= 520)
    throw new Failure("outage", `HTTP status ${status}`, { retryAfterMs: retryAfter(headers.get("Retry-After")) });
  if (status >= 500) throw new Failure("refusal", `HTTP status ${status}`, { retryAfterMs: retryAfter(headers.get("Retry-After")) });
  const remedy =
    status === 401 || status === 403
      ? "The server lets only some read it: give createEngine() `headers` or `fetch`, or an address whose signature has not expired."
      : `Check the address ${withoutQuery(url)}.`;
  const details = { file, what: "HTTP status", got: String(status), expected: "200", remedy };
  throw status === 404 || status === 410 ? new MismatchError(details) : new NetworkError(details);
}

/** Milliseconds to wait: seconds or a date. */
function retryAfter(value: string | null): number | undefined {
  if (value === null) return undefined;
  const ms = /^\s*\d+\s*$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

function strongTag(headers: Headers): string | undefined {
  const tag = headers.get("ETag");
  return tag === null || tag.startsWith("W/") ? undefined : tag;
}

const withoutQuery = (url: string): string => url.split("?", 1)[0] ?? url;

const wrongLength = (received: number, size: number | undefined): Wrong => ({
  what: "length of the file",
  got: `${received} bytes`,
  expected: `${size ?? 0} bytes`,
});

/** Decides after each failure how long to wait, or that it is enough. */
class RetryPolicy {
  /** Without progress. */
  tries = 0;
  private spentMs = 0;
  private refusals = 0;
  private wrong = 0;
  private asked = 0;
  /** How far the file had come when the counts began. */
  private from = 0;

  constructor(private readonly network: Network) {}

  /** Milliseconds until the next try; undefined: none. @param furthest how many bytes of the file have come at best */
  after({ failure, details }: Failure, furthest: number, elapsedMs: number): number | undefined {
    if (furthest - this.from >= LEAST_BYTES) {
      this.from = furthest;
      this.tries = this.spentMs = this.refusals = this.wrong = this.asked = 0;
    }
    const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** this.tries, MOST_PAUSE_MS);
    this.tries += 1;
    const { retryAfterMs } = details;
    if (retryAfterMs !== undefined) {
      if (++this.asked > MOST_RETRY_AFTERS || retryAfterMs > MOST_RETRY_AFTER_MS) return undefined;
      return Math.max(pauseMs, retryAfterMs);
    }
    switch (failure) {
      case "refusal":
        return ++this.refusals < MOST_REFUSALS ? pauseMs : undefined;
      case "wrong":
        return ++this.wrong < MOST_WRONG ? pauseMs : undefined;
      case "outage": {
        // A sleeping device spends no patience.
        this.spentMs += Math.min(elapsedMs, STALL_MS);
        if (this.spentMs >= (this.network.arrived ? OUTAGE_MS : FIRST_OUTAGE_MS)) return undefined;
        const waitMs = this.network.arrived && isOffline() ? MOST_PAUSE_MS : pauseMs;
        this.spentMs += waitMs;
        return waitMs;
      }
    }
  }
}

function isOffline(): boolean {
  return (globalThis as { navigator?: { onLine?: boolean } }).navigator?.onLine === false;
}

function givenUp(
  { file, url, size }: TransferRequest,
  network: Network,
  { message, failure, details }: Failure,
  tries: number,
): NetworkError {
  const { wrong, retryAfterMs } = details;
  if (wrong !== undefined)
    return new MismatchError({
      ...wrong,
      file,
      what: `${wrong.what}, fetched ${tries} times`,
      remedy: "The artifact is damaged, or was replaced while the page was open: reload the page or upload the artifact again.",
    });
  const times = tries > 1 ? ` ${tries} times in a row` : "";
  const elsewhere = !network.answered && network.origin !== undefined && !url.startsWith(`${network.origin}/`);
  return new NetworkError({
    file,
    what: failure === "outage" && tries > 1 ? `the download failed${times}, and nothing came meanwhile` : `the download failed${times}`,
    got: retryAfterMs === undefined ? message : `${message}, with the wish to come back in ${Math.ceil(retryAfterMs / 1000)} s`,
    expected: size === undefined ? "the whole file" : `${size} bytes`,
    remedy: elsewhere
      ? `Check the connection; and that ${new URL(url).origin} allows this page to read its files (CORS) and the page's Content-Security-Policy allows the address (connect-src).`
      : "Check the connection and load again: what has arrived whole is kept.",
  });
}

function refused({ file, url }: TransferRequest, { origin = "", headers }: Network): NetworkError {
  const names = Object.keys(headers);
  return new NetworkError({
    file,
    what: `CORS: ${new URL(url).origin} answers, but does not let pages of ${origin} read its files`,
    expected: `the header Access-Control-Allow-Origin: ${origin}${names.length === 0 ? "" : `, and Access-Control-Allow-Headers: ${names.join(", ")}`}`,
    remedy: "Let the server send it, or serve the artifact from the page's own address.",
  });
}

/** Collects a file's bytes: into one allocation when the size is known. */
class Sink {
  received = 0;
  /** The most that was ever there. */
  furthest = 0;
  /** Of what is here. */
  etag: string | undefined;
  private buffer: Bytes;

  constructor(
    private readonly size: number | undefined,
    private readonly onBytes: ((bytes: number) => void) | undefined,
  ) {
    this.buffer = new Uint8Array(size ?? 2 ** 14);
  }

  get incomplete(): boolean {
    return this.size !== undefined && this.received < this.size;
  }

  push(piece: Uint8Array): void {
    const end = this.received + piece.byteLength;
    const most = this.size ?? MOST_BYTES_OF_UNKNOWN_SIZE;
    if (end > most)
      throw new Failure("wrong", `more than ${most} bytes came`, {
        wrong: { what: "length of the file", got: "more", expected: `${this.size === undefined ? "at most " : ""}${most} bytes` },
      });
    if (end > this.buffer.byteLength) {
      const larger = new Uint8Array(Math.max(end, 2 * this.buffer.byteLength));
      larger.set(this.buffer.subarray(0, this.received));
      this.buffer = larger;
    }
    this.buffer.set(piece, this.received);
    this.received = end;
    this.furthest = Math.max(this.furthest, end);
    this.onBytes?.(piece.byteLength);
  }

  restart(): void {
    if (this.received > 0) this.onBytes?.(-this.received);
    this.received = 0;
    this.etag = undefined;
  }

  take(): Bytes {
    return this.buffer.byteLength === this.received ? this.buffer : this.buffer.slice(0, this.received);
  }
}

/** Ends a request from which nothing comes, or next to nothing. */
class Watchdog {
  slow = false;
  private readonly controller = new AbortController();
  private stallTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly windowTimer: ReturnType<typeof setInterval>;
  private inWindow = 0;
  readonly signal = this.controller.signal;

  constructor(public stallMs: number) {
    this.restart();
    this.windowTimer = setInterval(() => {
      if (this.inWindow < LEAST_BYTES) {
        this.slow = true;
        this.controller.abort();
      }
      this.inWindow = 0;
    }, WINDOW_MS);
  }

  restart(): void {
    clearTimeout(this.stallTimer);
    this.stallTimer = setTimeout(() => this.controller.abort(), this.stallMs);
  }

  note(bytes: number): void {
    this.inWindow += bytes;
  }

  stop(): void {
    clearTimeout(this.stallTimer);
    clearInterval(this.windowTimer);
  }
}

/** Ends early when the network comes back. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  const scope = globalThis as {
    addEventListener?: EventTarget["addEventListener"];
    removeEventListener?: EventTarget["removeEventListener"];
  };
  return new Promise((resolve, reject) => {
    const settle = (end: () => void) => () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      scope.removeEventListener?.("online", wake);
      end();
    };
    const stop = settle(() => reject(abortError(signal)));
    const wake = settle(resolve);
    const timer = setTimeout(wake, ms);
    signal.addEventListener("abort", stop);
    scope.addEventListener?.("online", wake);
  });
}
