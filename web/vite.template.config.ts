// Builds dist/template.js, which worker.js imports by its URL where an artifact has no syntax tree of its chat template. It shares
// no chunk: bundlers of other people's pages copy it as it is.
import { resolve } from "node:path";
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    outDir: "dist",
    emptyOutDir: false,
    target: "es2020",
    lib: { entry: { template: resolve(import.meta.dirname, "src/text/template-parser.ts") }, formats: ["es"] },
    rolldownOptions: { output: { entryFileNames: "[name].js" } },
  },
});
