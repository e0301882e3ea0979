// What a page asks of a model's inside: its files.

import { RequestError } from "../api/errors";
import type { LoadedModel } from "./load/load";

/** A copy that may be given away. @throws RequestError for a file that the artifact does not have; NetworkError */
export async function artifactFile({ artifact }: LoadedModel, path: string, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  const { manifest, description, fetcher } = artifact;
  if (path === "model.json") return description.slice();
  const entry = manifest.files.get(path);
  if (entry === undefined) throw new RequestError({ what: "a file of the artifact", got: path, expected: "one that model.json lists" });
  return (await fetcher.until(signal, () => undefined).file(path, entry)).slice();
}
