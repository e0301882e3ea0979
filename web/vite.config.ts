// Builds the entries of apps side by side into dist/, which the server offers at /static/. page.js and page.css, the chat page, are
// built by vite.page.config.ts, what runs in workers by rolldown.standalone.config.ts, offline.js by vite.offline.config.ts.
//   wisp.js    the engine as an ES module
//   react.js   a hook for React apps (React is theirs)      ai-sdk.js, prompt-api.js  an engine in the shapes of others
//   isolation.js  a service worker for hosts that cannot send headers; it belongs beside the page
// No entry is inlined into another: the page's Content-Security-Policy allows neither blob: workers nor inline scripts.
import { resolve } from "node:path";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";
import { MINIMUM } from "./src/api/browsers.ts";

/** What keeps this build from inlining a worker would keep bundlers of other people's pages from finding it. */
export const literalWorkers: Plugin = {
  name: "literal-workers",
  renderChunk: (code) => ({
    code: code.replace(/\/\* @vite-ignore \*\/\s*(?="\.\/worker\.js")/g, ""),
    map: null,
  }),
};

/** The oldest that Wisp runs in. */
export const BROWSERS = [`chrome${MINIMUM.chrome}`, `firefox${MINIMUM.firefox}`, `safari${MINIMUM.safari}`];

const source = (path: string) => resolve(import.meta.dirname, "src", path);

export default defineConfig({
  publicDir: false,
  plugins: [literalWorkers],
  build: {
    outDir: "dist",
    emptyOutDir: true,
    // Older than the oldest browser that Wisp runs in, so that one that is too old can read the code that says so.
    target: "es2020",
    sourcemap: true,
    lib: {
      entry: {
        wisp: source("page/entry.ts"),
        react: source("react/use-wisp.ts"),
        "ai-sdk": source("adapters/ai-sdk.ts"),
        "prompt-api": source("adapters/prompt-api.ts"),
        isolation: source("service-worker/isolation.ts"),
      },
      formats: ["es"],
    },
    rolldownOptions: { external: ["react"], output: { entryFileNames: "[name].js", chunkFileNames: "shared-[hash].js" } },
  },
  // The time is only there so that a failure ends: a busy machine is no failure.
  test: {
    include: ["tests/**/*.test.ts", "tests/**/*.test.tsx"],
    environment: "node",

    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
