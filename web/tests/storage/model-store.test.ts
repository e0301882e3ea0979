// The models that are kept: what is fetched, whose a file is, and what comes out of a tar again.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { addressOf } from "../../src/artifact/fetch";
import { wasmSupport } from "../../src/backend/wasm/module";
import { fetchFromFiles, fromPaths } from "../../src/page/files";
import { ModelStore, type Source } from "../../src/storage/model-store";
import { readTar, tarEnd, tarEntry } from "../../src/storage/tar";
import type { StorageProgress } from "../../src/api/storage";
import { RequestError, WispError } from "../../src/api/errors";
import { type Bytes, content, MemoryCache, same } from "../support/network";
import { serverOf, tinyArtifact } from "../support/tiny-artifact";

const ONE = "https://page.example/one/";
const TWO = "https://page.example/two/";
const KERNELS = wasmSupport().relaxedSimd ? "wasm-simd/kernels-relaxed.wasm" : "wasm-simd/kernels.wasm";
const NEEDED_BY_THE_CPU = [
  "constants.bin",
  "params_shard_0.bin",
  "params_shard_1.bin",
  "tensor-cache.json",
  "tokenizer.json",
  "tokenizer_config.json",
  KERNELS,
  "wasm-simd/plan.json",
];

afterEach(() => void vi.unstubAllGlobals());

const bytesOf = (files: ReadonlyMap<string, Bytes>, paths: readonly string[]) =>
  paths.reduce((sum, path) => sum + (files.get(path)?.length ?? NaN), 0);

function world(files = tinyArtifact(), base = ONE, cache = new MemoryCache()) {
  const server = serverOf(files, base);
  const source: Source = { address: addressOf(base), fetch: server.fetch };
  return { files, cache, source, asked: server.asked, store: new ModelStore(cache) };
}

describe("prefetch", () => {
  test("brings what a load needs here, once, and tells of each file", async () => {
    const { store, source, asked, files, cache } = world();
    expect(await store.has(source, "auto")).toBe(false);
    const seen: StorageProgress[] = [];
    const model = await store.prefetch(source, "auto", { onProgress: (progress) => seen.push(progress) });
    expect(asked.toSorted()).toEqual([...NEEDED_BY_THE_CPU, "model.json"].toSorted());
    const bytes = bytesOf(files, NEEDED_BY_THE_CPU);
    expect(model).toEqual({ url: ONE, model: "tiny", state: "complete", bytes, ownBytes: bytes, variants: ["wasm-simd"] });
    expect(seen.at(-1)).toMatchObject({ filesDone: 8, files: 8, doneBytes: bytes, totalBytes: bytes, waiting: null });
    expect(new Set(seen.map(({ file }) => file))).toEqual(new Set([null, ...NEEDED_BY_THE_CPU]));
    expect(await store.has(source, "auto")).toBe(true);
    await expect(store.has(source, "webgpu-f32")).rejects.toThrow(/webgpu-f32 cannot run here/);
    asked.length = 0;
    await store.prefetch(source, "auto", {});
    expect(asked).toEqual(["model.json"]);
    expect(cache.entries.size).toBe(9);
  });

  test("of all variants serves any device", async () => {
    const { store, source } = world();
    expect((await store.prefetch(source, "all", {})).variants).toEqual(["webgpu-f32", "wasm-simd"]);
  });

  test("that is cancelled leaves what came whole, and goes on there", async () => {
    const { store, source, asked } = world();
    const controller = new AbortController();
    const stopping = (progress: StorageProgress) => progress.filesDone === 4 && controller.abort();
    await expect(store.prefetch(source, "auto", { signal: controller.signal, onProgress: stopping })).rejects.toThrow(/abort/i);
    expect(await store.list()).toMatchObject([{ state: "partial", variants: [] }]);
    const before = asked.length;
    await store.prefetch(source, "auto", {});
    expect(asked.length - before).toBeLessThan(NEEDED_BY_THE_CPU.length);
    expect(await store.list()).toMatchObject([{ state: "complete", variants: ["wasm-simd"] }]);
  });

  test("without a network is enough with what is kept", async () => {
    const { store, source } = world();
    await store.prefetch(source, "auto", {});
    const offline = { ...source, fetch: () => Promise.reject(new TypeError("Failed to fetch")) };
    expect((await store.prefetch(offline, "auto", {})).state).toBe("complete");
  });

  test("says that there is no room before it downloads the weights", async () => {
    const estimate = () => Promise.resolve({ quota: 4000, usage: 1000 });
    vi.stubGlobal("navigator", { storage: { estimate } });
    const { store, source, asked } = world();
    const refused = await store.prefetch(source, "auto", {}).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(WispError);
    expect((refused as WispError).kind).toBe("storage");
    expect(asked).not.toContain("params_shard_0.bin");
  });
});

test("size reads no weights and keeps nothing", async () => {
  const { store, source, asked, files, cache } = world();
  const totalBytes = bytesOf(files, NEEDED_BY_THE_CPU);
  expect(await store.size(source, "auto")).toEqual({ totalBytes, keptBytes: 0, missingBytes: totalBytes });
  expect(asked.toSorted()).toEqual(["model.json", "tensor-cache.json", "wasm-simd/plan.json"]);
  expect(cache.entries.size).toBe(0);
  await store.prefetch(source, "auto", {});
  expect(await store.size(source, "auto")).toEqual({ totalBytes, keptBytes: totalBytes, missingBytes: 0 });
});

describe("files of several", () => {
  test("are kept once, and as long as anybody has them", async () => {
    const one = world();
    const two = world(tinyArtifact(2), TWO, one.cache);
    await one.store.prefetch(one.source, "auto", {});
    await two.store.prefetch(two.source, "auto", {});
    const own = bytesOf(one.files, ["params_shard_1.bin", KERNELS]);
    const listed = await one.store.list();
    expect(listed.map(({ url, ownBytes }) => [url, ownBytes])).toEqual([
      [ONE, own],
      [TWO, own],
    ]);
    expect(two.asked.toSorted()).toEqual(["model.json", "params_shard_1.bin", KERNELS]);
    expect(await one.store.delete(one.source.address)).toEqual({ deleted: true, freedBytes: own });
    expect(await two.store.has(two.source, "auto")).toBe(true);
    expect(await one.store.has(one.source, "auto")).toBe(false);
    expect(await one.store.delete(one.source.address)).toEqual({ deleted: false, freedBytes: 0 });
    await two.store.delete(two.source.address);
    expect(one.cache.entries.size).toBe(0);
  });

  test("of a version that is replaced go when the next one is whole", async () => {
    const old = world();
    await old.store.prefetch(old.source, "auto", {});
    const now = world(tinyArtifact(2), ONE, old.cache);
    await now.store.prefetch(now.source, "auto", {});
    expect(await now.store.list()).toMatchObject([{ url: ONE, state: "complete", bytes: bytesOf(now.files, NEEDED_BY_THE_CPU) }]);
  });
});

describe("verify", () => {
  test("drops what is wrong, and a prefetch brings that anew", async () => {
    const { store, source, cache, files, asked } = world();
    await store.prefetch(source, "auto", {});
    const [key = ""] = [...cache.entries].find(([, bytes]) => same(bytes, files.get("params_shard_1.bin") ?? content(0))) ?? [];
    cache.entries.set(key, (files.get("params_shard_1.bin") ?? content(0)).with(7, 1));
    expect(await store.verify(undefined, {})).toEqual({
      checkedFiles: 8,
      checkedBytes: bytesOf(files, NEEDED_BY_THE_CPU),
      removed: [{ url: ONE, file: "params_shard_1.bin" }],
    });
    expect(await store.has(source, "auto")).toBe(false);
    asked.length = 0;
    await store.prefetch(source, "auto", {});
    expect(asked).toEqual(["model.json", "params_shard_1.bin"]);
    expect((await store.verify(source.address, {})).removed).toEqual([]);
  });
});

describe("a tar file", () => {
  async function exported(files = tinyArtifact()): Promise<Blob> {
    const { store, source } = world(files);
    await store.prefetch(source, "all", {});
    const parts: BlobPart[] = [];
    await store.export(source.address, {}, (path, bytes) => void parts.push(...tarEntry(path, bytes)));
    return new Blob([...parts, tarEnd()]);
  }
  const importing = async (tar: Blob, cache = new MemoryCache()) => {
    const read = fromPaths(await readTar(tar));
    const store = new ModelStore(cache);
    const source = { address: addressOf(TWO), fetch: fetchFromFiles(read, TWO) };
    return { cache, store, source, done: store.import(source, async (path) => (await read(path)) !== undefined, {}) };
  };

  const EMPTY = new Blob([...tarEntry("model.json", new Blob(["{}"])), tarEnd()]);

  test("comes back as what it was, under another address", async () => {
    const { store, source, done } = await importing(await exported());
    expect(await done).toMatchObject({ url: TWO, model: "tiny", state: "complete", variants: ["webgpu-f32", "wasm-simd"] });
    expect(await store.has(source, "auto")).toBe(true);
  });

  test("is what tar reads and writes", async () => {
    const folder = mkdtempSync(join(tmpdir(), "wisp-tar-"));
    try {
      const files = tinyArtifact();
      const long = `${"deep/".repeat(30)}file.bin`;
      const tar = new Blob([await exported(files), ...[]]);
      writeFileSync(join(folder, "a.tar"), Buffer.from(await tar.arrayBuffer()));
      const out = join(folder, "out");
      mkdirSync(out);
      execFileSync("tar", ["-xf", join(folder, "a.tar"), "-C", out]);
      expect(same(readFileSync(join(out, "params_shard_0.bin")), files.get("params_shard_0.bin") ?? content(0))).toBe(true);
      mkdirSync(dirname(join(out, long)), { recursive: true });
      writeFileSync(join(out, long), "x");
      for (const format of ["ustar", "gnu", "posix"]) {
        execFileSync("tar", [`--format=${format}`, "-cf", join(folder, "b.tar"), "-C", out, "."]);
        const read = await readTar(new Blob([readFileSync(join(folder, "b.tar"))]));
        expect(await read.get(long)?.text()).toBe("x");
        expect(await read.get("model.json")?.text()).toBe(new TextDecoder().decode(files.get("model.json")));
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("that is damaged, cut off or lacks files leaves nothing", async () => {
    const tar = await exported();
    const bytes = new Uint8Array(await tar.arrayBuffer());
    await expect(readTar(new Blob([bytes.subarray(0, bytes.length / 2)]))).rejects.toThrow(RequestError);
    await expect(readTar(new Blob(["no tar at all".repeat(100)]))).rejects.toThrow(/no tar file/);
    const some = new Map([...(await readTar(tar))].filter(([path]) => path !== "params_shard_0.bin"));
    const parts = [...some].flatMap(([path, blob]) => tarEntry(path, blob));
    const { cache, done } = await importing(new Blob([...parts, tarEnd()]));
    await expect(done).rejects.toThrow(/are not all there/);
    expect(cache.entries.size).toBe(0);
  });

  test("that lacks files leaves a download of before as it was", async () => {
    const tar = await exported();
    const some = new Map([...(await readTar(tar))].filter(([path]) => path !== "params_shard_0.bin"));
    const cut = new Blob([...[...some].flatMap(([path, blob]) => tarEntry(path, blob)), tarEnd()]);
    const { store, source, cache } = world(tinyArtifact(2), TWO);
    const controller = new AbortController();
    const onProgress = ({ filesDone }: StorageProgress) => filesDone === 3 && controller.abort();
    await expect(store.prefetch(source, "auto", { signal: controller.signal, onProgress })).rejects.toThrow(/abort/);
    const before = new Map(cache.entries);
    expect(before.size).toBeGreaterThan(1);
    await expect((await importing(cut, cache)).done).rejects.toThrow(/are not all there/);
    expect([...cache.entries.values()].some((bytes) => same(bytes, tinyArtifact().get("params_shard_1.bin") ?? content(0)))).toBe(false);
    for (const [key, bytes] of before) expect(same(cache.entries.get(key), bytes)).toBe(true);
    const kept = cache.entries.size;
    await expect((await importing(EMPTY, cache)).done).rejects.toThrow();
    expect(cache.entries.size, "nothing was begun").toBe(kept);
  });

  test("is not read while the model is in use", async () => {
    const request = (_: string, options: LockOptions, work: (lock: unknown) => unknown) => work(options.ifAvailable === true ? null : {});
    vi.stubGlobal("navigator", { locks: { request } });
    const { cache, done } = await importing(EMPTY);
    await expect(done).rejects.toThrow(/is being loaded or downloaded/);
    expect(cache.entries.size).toBe(0);
  });

  test("is refused of a model that is not kept whole", async () => {
    const { store, source } = world();
    await expect(store.export(source.address, {}, () => undefined)).rejects.toThrow(/not kept whole/);
  });
});
