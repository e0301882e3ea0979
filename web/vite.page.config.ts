// Builds the chat page: dist/page.js with page.css, and dist/page-*.js for what it loads when it is needed. A build of its own, so
// that the page's libraries are nowhere near the engine's package, and nothing in its scripts is left as it was written.
import { resolve } from "node:path";
import { defineConfig } from "vite";
import { BROWSERS, literalWorkers } from "./vite.config.ts";

export default defineConfig({
  publicDir: false,
  base: "./",
  plugins: [literalWorkers],
  build: {
    outDir: "dist",
    emptyOutDir: false,
    target: BROWSERS, // an older one cannot read this, and is told so by check.js
    sourcemap: true,
    modulePreload: false,
    cssCodeSplit: false,
    rolldownOptions: {
      // No chunk imports page.js: the page asks for it with its hash, so that by its bare name it would be there twice.
      preserveEntrySignatures: "strict",
      input: { page: resolve(import.meta.dirname, "src/ui/main.tsx") },
      output: { entryFileNames: "[name].js", chunkFileNames: "page-[hash].js", assetFileNames: "page[extname]" },
    },
  },
});
