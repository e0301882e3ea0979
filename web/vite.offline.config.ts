// Builds dist/offline.js, the service worker of an exported page: a classic script that shares no chunk.
import { resolve } from "node:path";
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    outDir: "dist",
    emptyOutDir: false,
    target: "es2020",
    lib: { entry: { offline: resolve(import.meta.dirname, "src/service-worker/offline.ts") }, formats: ["iife"], name: "offline" },
    rolldownOptions: { output: { entryFileNames: "[name].js" } },
  },
});
