// Builds dist/check-tokenizer.mjs for Node, in one file: `wisp compile` runs it, browsers never load it. A build of its
// own, so that the page's worker need not share a chunk with it.
import { resolve } from "node:path";
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    ssr: true,
    outDir: "dist",
    emptyOutDir: false,
    target: "node20",
    rolldownOptions: {
      input: { "check-tokenizer": resolve(import.meta.dirname, "src/node/check-tokenizer.ts") },
      output: { entryFileNames: "[name].mjs" },
    },
  },
  ssr: { noExternal: true },
});
