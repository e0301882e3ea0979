// What `import ... from "wisp"` gives: small, so that a page that may never load a model pays little. The engine comes when
// createEngine() is called, what `models` does when one of its methods is.

import type { ArtifactSource, Engine, EngineOptions, Models } from "../api/types";
import { onChange } from "../artifact/locks";

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

type Later = Omit<Models, "onChange">;
type Method = (...args: unknown[]) => unknown;

const later =
  (name: keyof Later) =>
  async (...args: unknown[]) =>
    ((await import("./models")).models[name] as Method)(...args);

const METHODS = ["list", "has", "size", "prefetch", "delete", "verify", "export", "exportTo", "import", "estimate", "persist"] as const;

/** The models that this browser keeps for the page's site. */
export const models: Models = { ...(Object.fromEntries(METHODS.map((name) => [name, later(name)])) as unknown as Later), onChange };
