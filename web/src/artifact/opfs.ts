// The store of file-cache.ts in the origin private file system, for browsers and places that have no Cache API.
//
// An entry is a file that is called after its key's SHA-256 and holds `[length of the key, length of the bytes]` (u32, f64, little
// endian), the key in UTF-8, the bytes. A file of another length was not written to its end, and counts as not there.

import { type FileCache, refusalOf } from "./file-cache";

const HEAD_BYTES = 12;

type Bytes = Uint8Array<ArrayBuffer>;
/** What workers of Safari have in place of createWritable() before version 26. */
interface SyncFile {
  truncate(size: number): void;
  write(bytes: Bytes, options: { at: number }): number;
  flush(): void;
  close(): void;
}
interface FileHandle extends FileSystemFileHandle {
  createSyncAccessHandle?: () => Promise<SyncFile>;
}
/** Which TypeScript knows of a directory only with its library of asynchronous iterables. */
type Directory = FileSystemDirectoryHandle & { values(): AsyncIterable<FileSystemHandle> };

/** Undefined where there is none: an insecure context, a private window, an old browser. */
export async function openPrivateFiles(name: string): Promise<FileCache | undefined> {
  const { navigator } = globalThis as { navigator?: { storage?: Partial<StorageManager> } };
  try {
    const root = await navigator?.storage?.getDirectory?.();
    const folder = await root?.getDirectoryHandle(name, { create: true });
    return folder === undefined ? undefined : new PrivateFiles(folder);
  } catch {
    return undefined;
  }
}

class PrivateFiles implements FileCache {
  refusal: string | undefined;

  constructor(private readonly folder: Directory) {}

  get stores(): boolean {
    return this.refusal === undefined;
  }

  refuse(reason: string): void {
    this.refusal ??= reason;
  }

  async get(key: string): Promise<Bytes | undefined> {
    try {
      const found = await this.blob(key);
      return found === undefined ? undefined : new Uint8Array(await found.arrayBuffer());
    } catch {
      return undefined;
    }
  }

  async blob(key: string): Promise<Blob | undefined> {
    try {
      const file = await (await this.folder.getFileHandle(await nameOf(key))).getFile();
      return (await headOf(file))?.bytes;
    } catch {
      return undefined;
    }
  }

  async has(key: string): Promise<boolean> {
    return (await this.blob(key)) !== undefined;
  }

  async put(key: string, bytes: Bytes): Promise<void> {
    if (!this.stores) return;
    try {
      await write(await this.folder.getFileHandle(await nameOf(key), { create: true }), headFor(key, bytes.byteLength), bytes);
    } catch (error) {
      this.refuse(refusalOf(error));
      await this.delete(key);
    }
  }

  async delete(key: string): Promise<void> {
    try {
      await this.folder.removeEntry(await nameOf(key));
    } catch {
      // Not there.
    }
  }

  async keys(onUnreadable?: () => void): Promise<string[]> {
    const keys: string[] = [];
    try {
      for await (const entry of this.folder.values()) {
        const key = entry.kind === "file" ? await keyOf(entry, onUnreadable) : undefined;
        if (key !== undefined) keys.push(key);
      }
    } catch {
      onUnreadable?.();
    }
    return keys;
  }
}

/** Undefined also where somebody deleted the file meanwhile. */
async function keyOf(entry: FileSystemFileHandle, onUnreadable?: () => void): Promise<string | undefined> {
  try {
    return (await headOf(await entry.getFile()))?.key;
  } catch (error) {
    if (!(error instanceof Error && error.name === "NotFoundError")) onUnreadable?.();
    return undefined;
  }
}

async function nameOf(key: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(key)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function headFor(key: string, length: number): Bytes {
  const text = new TextEncoder().encode(key);
  const head = new Uint8Array(HEAD_BYTES + text.byteLength);
  const view = new DataView(head.buffer);
  view.setUint32(0, text.byteLength, true);
  view.setFloat64(4, length, true);
  head.set(text, HEAD_BYTES);
  return head;
}

/** Undefined when it was not written to its end. */
async function headOf(file: File): Promise<{ key: string; bytes: Blob } | undefined> {
  if (file.size < HEAD_BYTES) return undefined;
  const view = new DataView(await file.slice(0, HEAD_BYTES).arrayBuffer());
  const start = HEAD_BYTES + view.getUint32(0, true);
  if (file.size !== start + view.getFloat64(4, true)) return undefined;
  return { key: await file.slice(HEAD_BYTES, start).text(), bytes: file.slice(start) };
}

/** What another tab writes at the same time is the same. */
async function write(handle: FileHandle, head: Bytes, bytes: Bytes): Promise<void> {
  // TypeScript takes for granted what Safari has had since 26.
  const writable = await (handle as Partial<FileSystemFileHandle>).createWritable?.call(handle);
  if (writable !== undefined) {
    await writable.write(head);
    await writable.write(bytes);
    await writable.close();
    return;
  }
  const file = await handle.createSyncAccessHandle?.();
  if (file === undefined) throw new Error("this browser writes its files in workers alone");
  try {
    file.truncate(0);
    file.write(bytes, { at: head.byteLength });
    file.write(head, { at: 0 });
    file.flush();
  } finally {
    file.close();
  }
}
