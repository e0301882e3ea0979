// An artifact that lies in files which the page was given, not at an address: a folder that the visitor chose or dropped, or one
// file. Answers the engine's requests for them as a server would.

import { RequestError } from "../api/errors";

/** What stands for the folder in the engine's requests: `.invalid` is never anybody's (RFC 2606). */
export const FOLDER = "https://files.invalid/artifact/";

/** A file of the artifact; undefined where there is none of that name. */
export type Read = (path: string) => Promise<Blob | undefined>;

/** @throws RequestError when there is no model.json among the files, or more than one at the same depth */
export function readerOf(source: FileSystemDirectoryHandle | ArrayLike<File>): Read {
  const given = source as Partial<FileSystemDirectoryHandle & ArrayLike<File>> | null | undefined;
  const isFolder = given?.getFileHandle !== undefined;
  if (!isFolder && typeof given?.length !== "number")
    throw new RequestError({ what: "the artifact", got: typeof source, expected: "its address, a directory handle or a list of files" });
  if (isFolder) return fromDirectory(source as FileSystemDirectoryHandle);
  // Files as `<input type=file webkitdirectory>` gives them, with their paths; or those of a flat artifact without any.
  const files = Array.from(source as ArrayLike<File>);
  return fromPaths(new Map(files.map((file) => [file.webkitRelativePath === "" ? file.name : file.webkitRelativePath, file])));
}

/** The fetch function of files. @param base where requests for them go */
export function fetchFromFiles(read: Read, base = FOLDER): (url: string, init: RequestInit) => Promise<Response> {
  return async (url, { headers }) => {
    const path = decodeURIComponent(new URL(url).pathname.slice(new URL(base).pathname.length));
    const file = await read(path);
    if (file === undefined) return new Response(null, { status: 404 });
    return respond(file, new Headers(headers).get("Range"));
  };
}

/** The whole file, or with `bytes=N-` what follows its first N bytes. */
function respond(file: Blob, range: string | null): Response {
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

/** The files below the model.json that lies highest. @throws RequestError */
export function fromPaths(paths: ReadonlyMap<string, Blob>): Read {
  const depth = (path: string): number => path.split("/").length;
  const manifests = [...paths.keys()].filter((path) => path === "model.json" || path.endsWith("/model.json"));
  const least = Math.min(...manifests.map(depth));
  const nearest = manifests.filter((path) => depth(path) === least);
  const [manifest] = nearest;
  if (manifest === undefined || nearest.length > 1)
    throw new RequestError({
      what: "The files are not those of one artifact",
      got: manifest === undefined ? `${paths.size} files, none of them model.json` : nearest.join(", "),
      expected: "all files of a folder that `wisp compile` wrote, with model.json",
      remedy: "Choose that folder itself.",
    });
  const base = manifest.slice(0, -"model.json".length);
  return (path) => Promise.resolve(paths.get(base + path));
}
