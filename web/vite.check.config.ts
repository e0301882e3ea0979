// Builds dist/check.js, a classic script that the page runs before page.js: it has to be readable for browsers that cannot read
// that one, so it is in the syntax of 2015 and shares no chunk.
import { resolve } from "node:path";
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    outDir: "dist",
    emptyOutDir: false,
    target: "es2015",
    lib: { entry: { check: resolve(import.meta.dirname, "src/ui/check.ts") }, formats: ["iife"], name: "check" },
    rolldownOptions: { output: { entryFileNames: "[name].js" } },
  },
});
