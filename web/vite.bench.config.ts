// Builds dist/bench.js, which `wisp bench --backend browser` imports and no page loads. A build of its own, so that the
// page's worker need not share a chunk with it.
import { resolve } from "node:path";
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    outDir: "dist",
    emptyOutDir: false,
    target: "es2023",
    lib: { entry: { bench: resolve(import.meta.dirname, "src/bench/bench.ts") }, formats: ["es"] },
    rolldownOptions: { output: { entryFileNames: "[name].js" } },
  },
});
