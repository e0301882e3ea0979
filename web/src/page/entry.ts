// What `import ... from "wisp"` gives: small, so that a page that may never load a model pays little. The engine comes when
// createEngine() is called.

import type { ArtifactSource, Engine, EngineOptions } from "../api/types";

export type * from "../api/types";
export { ArtifactError, DeviceError, NetworkError, RequestError, WispError } from "../api/errors";

/**
 * Loads an artifact: chooses a variant, downloads (or finds in the cache) and checks its files, fills the device's memory.
 *
 * @param source the artifact's directory: an address, absolute or relative to the page; in Node a path too; or its files
 * @throws ArtifactError, NetworkError, DeviceError, RequestError, or the signal's reason
 */
export async function createEngine(source: ArtifactSource, options: EngineOptions = {}): Promise<Engine> {
  const engine = await import("./engine");
  return engine.createEngine(source, options);
}
