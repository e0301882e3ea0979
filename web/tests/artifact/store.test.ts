// What becomes of files whose owner cannot be told: the browser's own store is a fake that fails to read some entries.
import { afterEach, expect, test, vi } from "vitest";
import { openPrivateFiles } from "../../src/artifact/opfs";
import { ArtifactStore } from "../../src/artifact/store";
import { type Bytes, content, entryOf, MemoryCache, text } from "../support/network";

afterEach(() => void vi.unstubAllGlobals());

const FILE = content(100);
const ENTRY = entryOf(FILE);
const DESCRIPTION = text(JSON.stringify({ files: { "a.bin": ENTRY } }));

test("nothing is pruned while a description cannot be read; what is none goes", async () => {
  const cache = new MemoryCache();
  const store = new ArtifactStore(cache, "https://page.example/one/");
  await store.begin(DESCRIPTION);
  await store.putFile(ENTRY, FILE);
  const { get } = cache;
  cache.get = (key) => (key.includes("/artifacts/") ? Promise.resolve(undefined) : get(key));
  await store.prune();
  expect(cache.entries.size).toBe(2);
  cache.get = get;
  await store.prune();
  expect(cache.entries.size).toBe(2);
  await store.begin(text("no JSON"));
  await store.prune();
  expect(cache.entries.size).toBe(0);
});

/** A folder of the origin private file system: reading the files named in `failing` throws an error of that name. */
function folder() {
  const files = new Map<string, Bytes>();
  const failing = new Map<string, string>();
  const handle = (name: string) => ({
    kind: "file",
    getFile: () => {
      const error = failing.get(name);
      if (error !== undefined) return Promise.reject(new DOMException("no", error));
      return Promise.resolve(new File([files.get(name) ?? ""], name));
    },
    createWritable: () => {
      const parts: Bytes[] = [];
      const close = async () => void files.set(name, new Uint8Array(await new Blob(parts).arrayBuffer()));
      return Promise.resolve({ write: (bytes: Bytes) => Promise.resolve(void parts.push(bytes)), close });
    },
  });
  const directory = {
    getDirectoryHandle: () => Promise.resolve(directory),
    getFileHandle: (name: string) => Promise.resolve(handle(name)),
    removeEntry: (name: string) => Promise.resolve(void files.delete(name)),
    values: () => [...files.keys()].map(handle),
  };
  vi.stubGlobal("navigator", { storage: { getDirectory: () => Promise.resolve(directory) } });
  return { files, failing };
}

test.each([
  ["cannot be read at the moment", "NotReadableError", 3],
  ["was deleted meanwhile", "NotFoundError", 1],
])("an entry that %s hides none of those behind it", async (_, error, left) => {
  const { files, failing } = folder();
  const cache = await openPrivateFiles("files");
  if (cache === undefined) throw new Error("no files");
  const store = new ArtifactStore(cache, "https://page.example/one/");
  await store.begin(DESCRIPTION);
  const [description = ""] = files.keys();
  await store.putFile(ENTRY, FILE);
  await cache.put("https://wisp.invalid/files/0", FILE);
  failing.set(description, error);
  expect(await cache.keys()).toHaveLength(2);
  await store.prune();
  expect(files.size).toBe(left);
  failing.clear();
  await store.prune();
  expect(await store.has(ENTRY)).toBe(left === 3);
});
