// An artifact that lies in files which the page was given, not at an address: a folder that the visitor chose or dropped.
// Answers the engine's requests for them as a server would.

import { RequestError } from "../api/errors";

/** What stands for the folder in the engine's requests: `.invalid` is never anybody's (RFC 2606). */
export const FOLDER = "https://files.invalid/artifact/";

type Read = (path: string) => Promise<File | undefined>;

/**
 * The fetch function of the folder `source`.
 *
 * @throws RequestError when there is no model.json among the files, or more than one at the same depth
 */
export function fetchFromFiles(source: FileSystemDirectoryHandle | ArrayLike<File>): (url: string, init: RequestInit) => Promise<Response> {
  const given = source as Partial<FileSystemDirectoryHandle & ArrayLike<File>> | null | undefined;
  const isFolder = given?.getFileHandle !== undefined;
  if (!isFolder && typeof given?.length !== "number")
    throw new RequestError({ what: "the artifact", got: typeof source, expected: "its address, a directory handle or a list of files" });
  const read = isFolder ? fromDirectory(source as FileSystemDirectoryHandle) : fromList(Array.from(source as ArrayLike<File>));
  return async (url, { headers }) => {
    const path = decodeURIComponent(new URL(url).pathname.slice(new URL(FOLDER).pathname.length));
    const file = await read(path);
    if (file === undefined) return new Response(null, { status: 404 });
    return respond(file, new Headers(headers).get("Range"));
  };
}

/** The whole file, or with `bytes=N-` what follows its first N bytes. */
function respond(file: File, range: string | null): Response {
  const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  if (from > 0 && from >= file.size) return new Response(null, { status: 416 });
  const headers: Record<string, string> = { "Content-Length": String(file.size - from) };
  if (from > 0) headers["Content-Range"] = `bytes ${from}-${file.size - 1}/${file.size}`;
  return new Response(from > 0 ? file.slice(from) : file, { status: from > 0 ? 206 : 200, headers });
}

function fromDirectory(root: FileSystemDirectoryHandle): Read {
  return async (path) => {
    const folders = path.split("/");
    const name = folders.pop();
    try {
      let folder = root;
      for (const inner of folders) folder = await folder.getDirectoryHandle(inner);
      return await (await folder.getFileHandle(name ?? "")).getFile();
    } catch (error) {
      const { name: kind } = error as Error;
      if (kind === "NotFoundError" || kind === "TypeMismatchError") return undefined;
      throw error;
    }
  };
}

/** Files as `<input type=file webkitdirectory>` gives them, with their paths; or those of a flat artifact without any. */
function fromList(files: readonly File[]): Read {
  const paths = new Map(files.map((file) => [file.webkitRelativePath === "" ? file.name : file.webkitRelativePath, file]));
  const depth = (path: string): number => path.split("/").length;
  const manifests = [...paths.keys()].filter((path) => path === "model.json" || path.endsWith("/model.json"));
  const least = Math.min(...manifests.map(depth));
  const nearest = manifests.filter((path) => depth(path) === least);
  const [manifest] = nearest;
  if (manifest === undefined || nearest.length > 1)
    throw new RequestError({
      what: "The files are not those of one artifact",
      got: manifest === undefined ? `${files.length} files, none of them model.json` : nearest.join(", "),
      expected: "all files of a folder that `wisp compile` wrote, with model.json",
      remedy: "Choose that folder itself.",
    });
  const base = manifest.slice(0, -"model.json".length);
  return (path) => Promise.resolve(paths.get(base + path));
}
