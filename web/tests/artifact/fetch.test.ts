// The fetcher against a real HTTP server on the loopback that misbehaves on demand.
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { FileCache } from "../../src/artifact/cache";
import { noCache } from "../../src/artifact/cache";
import { Fetcher, inOrder, sha256 } from "../../src/artifact/fetch";
import { NetworkError } from "../../src/errors";

const CONTENT = new Uint8Array(200_000).map((_, i) => (i * 31) % 251);
const ENTRY = { bytes: CONTENT.length, sha256: createHash("sha256").update(CONTENT).digest("hex") };

let server: Server;
let base: string;
let handler: (request: IncomingMessage, response: ServerResponse, attempt: number) => void;
let requests: { url: string; range: string | undefined }[];

beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push({ url: request.url ?? "", range: request.headers.range });
    handler(request, response, requests.length);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}/m/`;
});
afterAll(() => void server.close());
beforeEach(() => {
  requests = [];
  handler = (_request, response) => response.end(CONTENT);
});

class MemoryCache implements FileCache {
  readonly stores = true;
  readonly entries = new Map<string, Uint8Array<ArrayBuffer>>();
  get = (url: string) => Promise.resolve(this.entries.get(url)?.slice());
  put = (url: string, bytes: Uint8Array<ArrayBuffer>) => Promise.resolve(void this.entries.set(url, bytes.slice()));
  delete = (url: string) => Promise.resolve(void this.entries.delete(url));
  prune = () => Promise.resolve();
}

function fetcher(cache: FileCache = noCache, signal = new AbortController().signal) {
  const progress = { sum: 0, cached: 0 };
  const onBytes = (bytes: number, fromCache: boolean) => {
    progress.sum += bytes;
    if (fromCache) progress.cached += bytes;
  };
  return { it: new Fetcher({ base, cache, signal, onBytes, backoffMs: 1 }), progress };
}

/** Element-wise comparison of large typed arrays by toEqual takes seconds. */
function expectContent(bytes: Uint8Array | undefined): void {
  expect(bytes !== undefined && Buffer.compare(bytes, CONTENT) === 0).toBe(true);
}

/** Sends the first `bytes` of what was asked for, then breaks the connection. */
function breakAfter(response: ServerResponse, bytes: number): void {
  response.writeHead(200, { "Content-Length": CONTENT.length });
  response.write(CONTENT.subarray(0, bytes), () => setTimeout(() => response.destroy(), 20));
}

describe("a file", () => {
  test("is asked for by its hash and comes whole", async () => {
    const { it, progress } = fetcher();
    expectContent(await it.file("a/b.bin", ENTRY));
    expect(requests[0]?.url).toBe(`/m/a/b.bin?v=${ENTRY.sha256.slice(0, 16)}`);
    expect(progress.sum).toBe(CONTENT.length);
    expect(it.counters).toEqual({ bytesDownloaded: CONTENT.length, bytesFromCache: 0, cacheHits: 0 });
  });

  test("is resumed where the connection broke", async () => {
    handler = (request, response, attempt) => {
      if (attempt === 1) {
        breakAfter(response, 70_000);
        return;
      }
      const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1]);
      response.writeHead(206, { "Content-Range": `bytes ${start}-${CONTENT.length - 1}/${CONTENT.length}` });
      response.end(CONTENT.subarray(start));
    };
    const { it, progress } = fetcher();
    expectContent(await it.file("b.bin", ENTRY));
    expect(requests).toHaveLength(2);
    expect(requests[1]?.range).toMatch(/^bytes=[1-9]\d*-$/);
    expect(progress.sum).toBe(CONTENT.length);
  });

  test("is begun again when the server knows no ranges", async () => {
    handler = (_request, response, attempt) => {
      if (attempt === 1) breakAfter(response, 70_000);
      else response.end(CONTENT);
    };
    const { it, progress } = fetcher();
    expectContent(await it.file("b.bin", ENTRY));
    expect(progress.sum).toBe(CONTENT.length);
  });

  test("is tried three times when the server fails, then given up", async () => {
    handler = (_request, response, attempt) => void response.writeHead(attempt < 3 ? 503 : 200).end(attempt < 3 ? "" : CONTENT);
    expectContent(await fetcher().it.file("b.bin", ENTRY));
    requests = [];
    handler = (_request, response) => void response.writeHead(500).end();
    await expect(fetcher().it.file("b.bin", ENTRY)).rejects.toThrow(/b\.bin: the download failed 3 times: got HTTP status 500/);
    expect(requests).toHaveLength(3);
  });

  test("that is not there is not asked for again", async () => {
    handler = (_request, response) => void response.writeHead(404).end();
    await expect(fetcher().it.file("b.bin", ENTRY)).rejects.toThrow(/b\.bin: HTTP status: got 404, expected 200/);
    expect(requests).toHaveLength(1);
  });

  test("with a wrong byte is fetched once more, then refused by name", async () => {
    const wrong = CONTENT.with(5, 255);
    handler = (_request, response, attempt) => void response.end(attempt === 1 ? wrong : CONTENT);
    const { it, progress } = fetcher();
    expectContent(await it.file("b.bin", ENTRY));
    expect(progress.sum).toBe(CONTENT.length);
    handler = (_request, response) => void response.end(wrong);
    const error: unknown = await fetcher().it.file("b.bin", ENTRY).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(NetworkError);
    expect(error).toMatchObject({ file: "b.bin", got: await sha256(wrong), expected: ENTRY.sha256 });
  });

  test.each([-1, 1])("of a wrong size (%i) is refused", async (difference) => {
    handler = (_request, response) => void response.end(difference < 0 ? CONTENT.slice(0, -1) : new Uint8Array(CONTENT.length + 1));
    await expect(fetcher().it.file("b.bin", ENTRY)).rejects.toThrow(NetworkError);
  });

  test("is cached, verified when read back, and needs no network then", async () => {
    const cache = new MemoryCache();
    await fetcher(cache).it.file("b.bin", ENTRY);
    const again = fetcher(cache);
    expectContent(await again.it.file("b.bin", ENTRY));
    expect(requests).toHaveLength(1);
    expect(again.progress).toEqual({ sum: CONTENT.length, cached: CONTENT.length });
    const [url = ""] = cache.entries.keys();
    cache.entries.set(url, CONTENT.with(0, 77));
    expectContent(await fetcher(cache).it.file("b.bin", ENTRY));
    expect(requests).toHaveLength(2);
    expectContent(cache.entries.get(url));
  });

  test("that is cancelled rejects and leaves nothing in the cache", async () => {
    const cache = new MemoryCache();
    const controller = new AbortController();
    handler = (_request, response) => {
      response.writeHead(200, { "Content-Length": CONTENT.length });
      response.write(CONTENT.subarray(0, 1000));
      setTimeout(() => controller.abort(), 10);
    };
    await expect(fetcher(cache, controller.signal).it.file("b.bin", ENTRY)).rejects.toMatchObject({ name: "AbortError" });
    expect(cache.entries.size).toBe(0);
  });
});

test("until() gives a fetcher that ends by itself and counts with the others", async () => {
  const { it, progress } = fetcher();
  const controller = new AbortController();
  const part = it.until(controller.signal);
  expectContent(await part.file("a.bin", ENTRY));
  expect(progress.sum).toBe(CONTENT.length);
  expect(it.counters.bytesDownloaded).toBe(CONTENT.length);
  controller.abort();
  await expect(part.file("b.bin", ENTRY)).rejects.toMatchObject({ name: "AbortError" });
  expectContent(await it.file("b.bin", ENTRY));
  expect(part.counters.bytesDownloaded).toBe(2 * CONTENT.length);
});

describe("model.json", () => {
  test("comes from the network, and from the cache without one", async () => {
    const cache = new MemoryCache();
    handler = (_request, response) => void response.end('{"format": "wisp"}');
    expect(await fetcher(cache).it.manifest()).toEqual({ format: "wisp" });
    handler = (_request, response) => void response.writeHead(503).end();
    expect(await fetcher(cache).it.manifest()).toEqual({ format: "wisp" });
    await expect(fetcher().it.manifest()).rejects.toThrow(/model\.json: the download failed/);
  });
  test("that is a page says so", async () => {
    handler = (_request, response) => void response.end("<!doctype html>");
    await expect(fetcher().it.manifest()).rejects.toThrow(/model\.json: .*no JSON/);
  });
});

test("inOrder keeps a few under way and yields in order", async () => {
  let running = 0;
  let most = 0;
  const make = async (n: number) => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, 5 - n));
    running -= 1;
    return n * n;
  };
  const out: number[] = [];
  for await (const [, value] of inOrder([1, 2, 3, 4], 2, make)) out.push(value);
  expect(out).toEqual([1, 4, 9, 16]);
  expect(most).toBe(2);
});
