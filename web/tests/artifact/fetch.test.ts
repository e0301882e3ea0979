// The fetcher and its store: what is asked of the network, what is kept, for whom, and what takes the network's place.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { FileCache } from "../../src/artifact/file-cache";
import { noCache } from "../../src/artifact/file-cache";
import { addressOf, Fetcher, isOutdated } from "../../src/artifact/fetch";
import type { FileEntry, Manifest } from "../../src/artifact/schema";
import { ArtifactStore } from "../../src/artifact/store";
import { type FetchFunction, Network } from "../../src/artifact/transfer";
import { ArtifactError } from "../../src/api/errors";
import {
  content,
  entryOf,
  fakeClock,
  file,
  MemoryCache,
  passing,
  same,
  scripted,
  sha,
  status,
  text,
  unreachable,
  whole,
} from "../support/network";

const CONTENT = content(200_000);
const ENTRY = entryOf(CONTENT);

beforeEach(fakeClock);
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

/** Stands for parseManifest(): the files, or an ArtifactError. */
function parse(json: unknown): Manifest {
  const { format, files } = json as { format?: string; files?: Record<string, FileEntry> };
  if (format !== "wisp" || files === undefined) throw new ArtifactError({ file: "model.json", what: "format" });
  return { files: new Map(Object.entries(files)) } as Manifest;
}
const modelOf = (files: Record<string, FileEntry>) => text(JSON.stringify({ format: "wisp", files }));

function fetcher(fetch: FetchFunction, cache: FileCache = noCache, url = "https://page.example/m", signal = new AbortController().signal) {
  const progress = { sum: 0, cached: 0 };
  const onBytes = (bytes: number, fromCache: boolean) => {
    progress.sum += bytes;
    if (fromCache) progress.cached += bytes;
  };
  const address = addressOf(url);
  const store = new ArtifactStore(cache, address.base);
  return { it: new Fetcher({ address, store, network: new Network(fetch, {}, undefined), signal, onBytes }), progress, store };
}

describe("a file", () => {
  test("is asked for by its hash, with the address's own query", async () => {
    const { fetch, asked } = scripted(file(CONTENT));
    const { it, progress } = fetcher(fetch);
    expect(same(await it.file("a/b.bin", ENTRY), CONTENT)).toBe(true);
    expect(progress.sum).toBe(CONTENT.length);
    expect(it.counters).toEqual({ bytesDownloaded: CONTENT.length, bytesFromCache: 0, cacheHits: 0 });
    await fetcher(fetch, noCache, "https://page.example/m/?signature=a%2Fb&expires=9#top").it.file("b.bin", ENTRY);
    const v = ENTRY.sha256.slice(0, 16);
    expect(asked.map(({ url }) => url)).toEqual([
      `https://page.example/m/a/b.bin?v=${v}`,
      `https://page.example/m/b.bin?signature=a%2Fb&expires=9&v=${v}`,
    ]);
  });

  test("is kept, verified when read back, and needs no network then", async () => {
    const cache = new MemoryCache();
    const { fetch, asked } = scripted(file(CONTENT));
    await fetcher(fetch, cache).it.file("b.bin", ENTRY);
    const again = fetcher(fetch, cache);
    expect(same(await again.it.file("b.bin", ENTRY), CONTENT)).toBe(true);
    expect(asked).toHaveLength(1);
    expect(again.progress).toEqual({ sum: CONTENT.length, cached: CONTENT.length });
    const [key = ""] = cache.entries.keys();
    cache.entries.set(key, CONTENT.with(0, 77));
    expect(same(await fetcher(fetch, cache).it.file("b.bin", ENTRY), CONTENT)).toBe(true);
    expect(asked).toHaveLength(2);
    expect(same(cache.entries.get(key), CONTENT)).toBe(true);
  });

  test("of another artifact, or under another name or address, is the same file", async () => {
    const cache = new MemoryCache();
    const { fetch, asked } = scripted(file(CONTENT));
    await fetcher(fetch, cache, "https://page.example/one/").it.file("b.bin", ENTRY);
    await fetcher(fetch, cache, "https://cdn.example/two/?signed=1").it.file("c.bin", ENTRY);
    expect(asked).toHaveLength(1);
  });

  test("is there before it is written", async () => {
    const cache = new MemoryCache();
    let write: () => void = () => undefined;
    cache.beforePut = () => new Promise((resolve) => (write = resolve));
    const { bytes, written } = await fetcher(scripted(file(CONTENT)).fetch, cache).it.fetch("b.bin", ENTRY);
    expect(same(bytes, CONTENT)).toBe(true);
    expect(cache.entries.size).toBe(0);
    write();
    await written;
    expect(cache.entries.size).toBe(1);
  });

  test("that is cancelled rejects and leaves nothing in the cache", async () => {
    const cache = new MemoryCache();
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 10);
    const got = await passing(
      fetcher(scripted(file(CONTENT, { stall: 1000 })).fetch, cache, undefined, controller.signal).it.file("b.bin", ENTRY),
    );
    expect((got as Error).name).toBe("AbortError");
    expect(cache.entries.size).toBe(0);
  });

  test("is downloaded although nothing can be kept any more", async () => {
    const cache = new MemoryCache();
    cache.refuse("full");
    const { fetch, asked } = scripted(file(CONTENT));
    const { it } = fetcher(fetch, cache);
    expect(same(await it.file("b.bin", ENTRY), CONTENT)).toBe(true);
    expect(cache.entries.size).toBe(0);
    expect(asked[0]?.cache).toBe("default"); // Then the browser's own cache may.
  });
});

/** Web Locks of one origin, shared by its tabs and workers. */
function locks(): Pick<LockManager, "request"> {
  const tails = new Map<string, Promise<unknown>>();
  const request = (name: string, { ifAvailable = false }: LockOptions, work: (lock: Lock | null) => unknown): Promise<unknown> => {
    const tail = tails.get(name);
    if (ifAvailable && tail !== undefined) return Promise.resolve(work(null));
    const result = (tail ?? Promise.resolve()).then(() => work({ name, mode: "exclusive" }));
    const end = result
      .catch(() => undefined)
      .finally(() => {
        if (tails.get(name) === end) tails.delete(name);
      });
    tails.set(name, end);
    return result;
  };
  return { request } as Pick<LockManager, "request">;
}

describe("two loads at once", () => {
  test("download a file once, and one alone when the other has failed", async () => {
    vi.stubGlobal("navigator", { locks: locks() });
    const cache = new MemoryCache();
    const { fetch, asked } = scripted(file(CONTENT));
    const [one, two] = [fetcher(fetch, cache), fetcher(fetch, cache)];
    const both = await Promise.all([one.it.file("b.bin", ENTRY), two.it.file("b.bin", ENTRY)]);
    expect(both.every((bytes) => same(bytes, CONTENT))).toBe(true);
    expect(asked).toHaveLength(1);
    expect(two.it.counters).toEqual({ bytesDownloaded: 0, bytesFromCache: CONTENT.length, cacheHits: 1 });
    const other = entryOf(content(1000, 3));
    const failing = scripted(status(404), file(content(1000, 3)));
    const [bad, good] = await Promise.allSettled([
      fetcher(failing.fetch, cache).it.file("c.bin", other),
      fetcher(failing.fetch, cache).it.file("c.bin", other),
    ]);
    expect([bad.status, good.status]).toEqual(["rejected", "fulfilled"]);
  });

  test("work without Web Locks too", async () => {
    vi.stubGlobal("navigator", {});
    const cache = new MemoryCache();
    const { fetch } = scripted(file(CONTENT));
    const both = await Promise.all([fetcher(fetch, cache).it.file("b.bin", ENTRY), fetcher(fetch, cache).it.file("b.bin", ENTRY)]);
    expect(both.every((bytes) => same(bytes, CONTENT))).toBe(true);
  });
});

test("until() gives a fetcher that ends by itself and counts with the others", async () => {
  const { it, progress } = fetcher(scripted(file(CONTENT)).fetch);
  const controller = new AbortController();
  const part = it.until(controller.signal);
  await part.file("a.bin", ENTRY);
  expect(progress.sum).toBe(CONTENT.length);
  expect(it.counters.bytesDownloaded).toBe(CONTENT.length);
  controller.abort();
  await expect(part.file("b.bin", ENTRY)).rejects.toMatchObject({ name: "AbortError" });
  await it.file("b.bin", ENTRY);
  expect(part.counters.bytesDownloaded).toBe(2 * CONTENT.length);
});

describe("model.json", () => {
  const MODEL = modelOf({ "b.bin": ENTRY });
  const portal = whole(text("<!doctype html><title>Welcome to the hotel</title>"), { "Content-Type": "text/html" });
  const garbage = [
    ["a login page", portal],
    ["another JSON", whole(text('{"error": "nope"}'))],
    ["nothing", unreachable],
    ["an error", status(500)],
    ["an end", status(404)],
  ] as const;

  async function kept(): Promise<MemoryCache> {
    const cache = new MemoryCache();
    const { it, store } = fetcher(scripted(whole(MODEL), file(CONTENT)).fetch, cache);
    const { bytes } = await it.description(parse);
    await it.file("b.bin", ENTRY);
    await store.complete(bytes);
    return cache;
  }

  test.each(garbage)("in whose place comes %s leaves the copy alone, and that is used and said", async (_, answer) => {
    const cache = await kept();
    for (let visit = 0; visit < 2; visit++) {
      const { fetch, asked } = scripted(answer);
      const { it } = fetcher(fetch, cache);
      const { manifest, notice } = await it.description(parse);
      expect(manifest.files.get("b.bin")).toEqual(ENTRY);
      expect(notice).toMatch(/^The copy of the model in this browser is used: model\.json: /);
      expect(same(await it.file("b.bin", ENTRY), CONTENT)).toBe(true);
      expect(asked).toHaveLength(1); // Nobody waits for what is not needed.
    }
  });

  test.each(garbage)("in whose place comes %s is an error without a copy, and nothing is kept", async (_, answer) => {
    const cache = new MemoryCache();
    const got = await passing(fetcher(scripted(answer).fetch, cache).it.description(parse));
    expect(got).toBeInstanceOf(Error);
    expect(cache.entries.size).toBe(0);
  });

  test("that is a page says so", async () => {
    await expect(fetcher(scripted(portal).fetch).it.description(parse)).rejects.toThrow(/model\.json: .*no JSON.*login/);
  });

  test("under a signature that changes is still the same artifact's", async () => {
    const cache = new MemoryCache();
    const { it, store } = fetcher(scripted(whole(MODEL)).fetch, cache, "https://page.example/m/?signature=1");
    await store.complete((await it.description(parse)).bytes);
    expect(
      (await fetcher(scripted(unreachable).fetch, cache, "https://page.example/m/?signature=2").it.description(parse)).notice,
    ).toBeDefined();
  });

  test("that is newer replaces the copy only when its files are here", async () => {
    const cache = await kept();
    const newer = content(3000, 5);
    const next = modelOf({ "b.bin": entryOf(newer) });
    const { it, store } = fetcher(scripted(whole(next), status(404)).fetch, cache);
    const { bytes } = await it.description(parse);
    const failure = await passing(it.file("b.bin", entryOf(newer)));
    expect(isOutdated(failure)).toBe(true);
    await store.prune();
    const offline = fetcher(scripted(unreachable).fetch, cache);
    expect((await offline.it.description(parse)).manifest.files.get("b.bin")).toEqual(ENTRY);
    expect(same(await offline.it.file("b.bin", ENTRY), CONTENT)).toBe(true);
    await fetcher(scripted(file(newer)).fetch, cache).it.file("b.bin", entryOf(newer));
    await store.complete(bytes);
    expect([...cache.entries.keys()].filter((key) => key.includes("/files/"))).toEqual([`https://wisp.invalid/files/${sha(newer)}`]);
    expect((await offline.it.description(parse)).manifest.files.get("b.bin")).toEqual(entryOf(newer));
  });
});

test("pruning leaves what any artifact owns, wherever it lies, and what was measured for it", async () => {
  const cache = new MemoryCache();
  const contents = { shared: content(100, 2), small: content(100, 3), big: content(100, 5), old: content(100, 7) };
  const all = Object.values(contents);
  const load = async (url: string, ...files: Uint8Array<ArrayBuffer>[]) => {
    const table = Object.fromEntries(files.map((bytes, i) => [`${i}.bin`, entryOf(bytes)]));
    const { it, store } = fetcher(
      scripted(
        whole(modelOf(table)),
        ({ url: asked }) => new Response(all.find((bytes) => asked.endsWith(sha(bytes).slice(0, 16))) ?? null),
      ).fetch,
      cache,
      url,
    );
    const { bytes } = await it.description(parse);
    for (const [name, entry] of Object.entries(table)) await it.file(name, entry);
    await cache.put(`${url}tuning.json?v=${sha(files[0] ?? all[0] ?? new Uint8Array()).slice(0, 16)}-x&device=y`, text("{}"));
    await store.complete(bytes);
  };
  const kept = () =>
    Object.entries(contents)
      .filter(([, bytes]) => cache.entries.has(`https://wisp.invalid/files/${sha(bytes)}`))
      .map(([name]) => name);
  const tunings = () => [...cache.entries.keys()].filter((key) => key.includes("tuning.json")).length;
  await load("https://page.example/a/big/", contents.big, contents.shared);
  await load("https://page.example/a/", contents.old, contents.shared);
  expect(kept()).toEqual(["shared", "big", "old"]);
  await load("https://page.example/a/", contents.small, contents.shared);
  expect(kept()).toEqual(["shared", "small", "big"]);
  expect(tunings()).toBe(2);
});
