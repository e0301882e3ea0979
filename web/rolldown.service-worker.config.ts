// Builds service-worker.js into dist/: the engine's worker for an app's service worker, in one file. A service worker may import
// nothing while it runs, so that what worker.js takes by its URL, when it is needed, is in it.
import { resolve } from "node:path";
import { defineConfig } from "rolldown";
import { ENTRIES } from "./rolldown.standalone.config.ts";

const source = (path: string) => resolve(import.meta.dirname, "src", path);
const LATER =
  /import\(\s*\/\* @vite-ignore \*\/ \/\* turbopackIgnore: true \*\/ new URL\(\/\* @vite-ignore \*\/ "\.\/(\w+)\.js", import\.meta\.url\)\.href,?\s*\)/g;

export default defineConfig({
  input: { "service-worker": source("worker/service-worker.ts") },
  platform: "browser",
  transform: { target: "es2022" },
  logLevel: "warn",
  checks: { bundlerTimings: false },
  plugins: [
    {
      name: "imports-inside",
      transform: (code) => ({
        code: code.replace(LATER, (whole, name: string) => {
          const path = (ENTRIES as Record<string, string>)[name];
          return path === undefined ? whole : `import(${JSON.stringify(source(path))})`;
        }),
        map: null,
      }),
    },
  ],
  output: { dir: resolve(import.meta.dirname, "dist"), entryFileNames: "[name].js", codeSplitting: false, minify: true, sourcemap: true },
});
