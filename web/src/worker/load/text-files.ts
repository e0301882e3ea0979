// Where the files lie that a model's texts need: beside the worker. A file of its own, so that what runs unbuilt may have them from
// elsewhere.

import { WispError } from "../../api/errors";

type Jinja = typeof import("../../text/tree-program");
type Library = typeof import("../../text/tokenizer-library");

export const loadJinja = (): Promise<Jinja> =>
  part("jinja.js", import(/* @vite-ignore */ /* turbopackIgnore: true */ new URL(/* @vite-ignore */ "./jinja.js", import.meta.url).href));

export const loadTokenizers = (): Promise<Library> =>
  part(
    "tokenizer.js",
    import(/* @vite-ignore */ /* turbopackIgnore: true */ new URL(/* @vite-ignore */ "./tokenizer.js", import.meta.url).href),
  );

async function part<T>(name: string, loading: Promise<unknown>): Promise<T> {
  try {
    return (await loading) as T;
  } catch (error) {
    throw new WispError("worker", {
      what: `The engine's file ${name} could not be loaded`,
      got: error instanceof Error ? error.message : String(error),
      expected: "it beside worker.js",
      remedy: "Check the connection and load again, or copy the engine's files together.",
    });
  }
}
