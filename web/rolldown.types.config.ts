// Builds the declarations of the package's entries into dist/, each whole: TypeScript finds what they say whichever way it resolves
// modules.
import { resolve } from "node:path";
import { dts } from "rolldown-plugin-dts";

const source = (path: string) => resolve(import.meta.dirname, "src", path);

export default {
  input: {
    wisp: source("page/entry.ts"),
    react: source("react/use-wisp.ts"),
    "ai-sdk": source("adapters/ai-sdk.ts"),
    "prompt-api": source("adapters/prompt-api.ts"),
  },
  external: ["react", "@ai-sdk/provider"],
  checks: { pluginTimings: false },
  logLevel: "warn" as const,
  plugins: [dts({ emitDtsOnly: true, compilerOptions: { noEmit: false } })],
  output: { dir: resolve(import.meta.dirname, "dist"), chunkFileNames: "types-[hash].js" },
};
