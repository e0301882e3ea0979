// Builds the declarations of the package's entries into dist/, each whole: TypeScript finds what they say whichever way it resolves
// modules.
import { resolve } from "node:path";
import { dts } from "rolldown-plugin-dts";

const source = (path: string) => resolve(import.meta.dirname, "src", path);

export default {
  input: { wisp: source("page/entry.ts"), react: source("react/use-wisp.ts") },
  external: ["react"],
  checks: { pluginTimings: false },
  logLevel: "warn" as const,
  plugins: [dts({ emitDtsOnly: true, compilerOptions: { noEmit: false } })],
  output: { dir: resolve(import.meta.dirname, "dist"), chunkFileNames: "types-[hash].js" },
};
