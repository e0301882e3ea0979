// Builds dist/grammar.js, which workers import by its URL with the first request that has a grammar. It shares no chunk: bundlers
// of other people's pages copy it as it is.
import { resolve } from "node:path";
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    outDir: "dist",
    emptyOutDir: false,
    target: "es2022",
    lib: { entry: { grammar: resolve(import.meta.dirname, "src/text/grammar/engine.ts") }, formats: ["es"] },
    rolldownOptions: { output: { entryFileNames: "[name].js" } },
  },
});
