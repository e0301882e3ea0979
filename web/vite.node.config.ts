// Builds what Node runs and browsers never load, into dist/:
//   check-tokenizer.mjs   which `wisp compile` starts
//   wisp-node.mjs         the engine of wisp.js, for Node      wisp-node-worker.mjs, wisp-node-thread.mjs  its threads
// A build of its own, so that the page's worker need not share a chunk with it.
import { resolve } from "node:path";
import { defineConfig } from "vite";

const source = (path: string) => resolve(import.meta.dirname, "src", path);

export default defineConfig({
  publicDir: false,
  resolve: { alias: [{ find: /^\.\/host$/, replacement: source("node/host.ts") }] },
  build: {
    ssr: true,
    outDir: "dist",
    emptyOutDir: false,
    target: "node20",
    rolldownOptions: {
      input: {
        "check-tokenizer": source("node/check-tokenizer.ts"),
        "wisp-node": source("page/entry.ts"),
        "wisp-node-worker": source("node/worker.ts"),
        "wisp-node-thread": source("backend/wasm/thread.ts"),
      },
      output: { entryFileNames: "[name].mjs", chunkFileNames: "shared-node-[hash].mjs" },
    },
  },
  ssr: { noExternal: true },
});
