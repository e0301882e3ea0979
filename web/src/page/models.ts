// models.* of the package (types in api/storage.ts), which entry.ts brings when one of them is called: addresses and files as
// callers give them, on the store of this browser.

import { openCache } from "../artifact/cache";
import { addressOf as artifactAddress, type Address } from "../artifact/fetch";
import { RequestError } from "../api/errors";
import type { DownloadOptions, Models, StorageOptions } from "../api/storage";
import { ModelStore, type Source } from "../storage/model-store";
import { readTar, tarEnd, tarEntry } from "../storage/tar";
import { fetchFromFiles, fromPaths, type Read, readerOf } from "./files";
import { checkHeaders } from "./headers";
import { addressOf } from "./host";

const opened = async (): Promise<ModelStore> => new ModelStore(await openCache());

function at(url: string | URL): Address {
  if (typeof url !== "string" && !(url instanceof URL))
    throw new RequestError({ what: "the model", got: typeof url, expected: "the artifact's address" });
  return artifactAddress(addressOf(url));
}

function sourceOf(url: string | URL, { headers = {}, fetch }: DownloadOptions): Source {
  return { address: at(url), headers: checkHeaders(headers), fetch };
}

const storage = (): Partial<StorageManager> =>
  (globalThis as { navigator?: { storage?: Partial<StorageManager> } }).navigator?.storage ?? {};

export const models: Omit<Models, "onChange"> = {
  list: async () => (await opened()).list(),
  has: async (url, { backend = "auto" } = {}) => (await opened()).has({ address: at(url) }, backend),
  size: async (url, options = {}) => (await opened()).size(sourceOf(url, options), options.backend ?? "auto", options.signal),
  prefetch: async (url, options = {}) => (await opened()).prefetch(sourceOf(url, options), options.backend ?? "auto", options),
  delete: async (url) => (await opened()).delete(at(url)),
  verify: async (url, options = {}) => (await opened()).verify(url === undefined ? undefined : at(url), options),

  async export(url, options = {}) {
    const parts: BlobPart[] = [];
    await (await opened()).export(at(url), options, (path, bytes) => void parts.push(...tarEntry(path, bytes)));
    return new Blob([...parts, tarEnd()], { type: "application/x-tar" });
  },

  async exportTo(folder, url, options = {}) {
    if (!("createWritable" in FileSystemFileHandle.prototype))
      throw new RequestError({ what: "This browser writes no files into folders", remedy: "Use models.export(), which makes one file." });
    await (await opened()).export(at(url), options, (path, bytes) => write(folder, path, bytes));
  },

  async import(source, url, options: StorageOptions = {}) {
    const address = at(url);
    const read = await reader(source);
    const fetch = fetchFromFiles(read, address.base);
    return (await opened()).import({ address, fetch }, async (path) => (await read(path)) !== undefined, options);
  },

  async estimate() {
    const { quota, usage } = (await storage().estimate?.()) ?? {};
    return { quota, usage, persisted: (await storage().persisted?.()) ?? false };
  },

  persist: async () => (await storage().persist?.()) ?? false,
};

async function reader(source: Parameters<Models["import"]>[0]): Promise<Read> {
  return source instanceof Blob ? fromPaths(await readTar(source)) : readerOf(source);
}

async function write(root: FileSystemDirectoryHandle, path: string, bytes: Blob): Promise<void> {
  const folders = path.split("/");
  const name = folders.pop() ?? "";
  let folder = root;
  for (const inner of folders) folder = await folder.getDirectoryHandle(inner, { create: true });
  const file = await (await folder.getFileHandle(name, { create: true })).createWritable();
  await file.write(bytes);
  await file.close();
}
