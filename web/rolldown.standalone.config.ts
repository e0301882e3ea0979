// Builds the files that run in workers into dist/, each whole: bundlers of other people's pages find workers by what stands in
// the code and copy the rest as it is, so that none of them may need another by an import.
//   worker.js     the engine's worker                 thread.js     a helper thread of the CPU, which worker.js starts
// and what worker.js imports by its URL, when a model or a request needs it:
//   jinja.js      runs a chat template's syntax tree  template.js   parses a chat template that has none
//   tokenizer.js  the library of tokenizers           grammar.js    answers that have to have a form
// `turbopackIgnore` in those imports: Next.js copies the files, as others do, but follows no import by an expression.
import { resolve } from "node:path";
import type { InputOptions, OutputOptions, Plugin } from "rolldown";

export const ENTRIES = {
  worker: "worker/main.ts",
  thread: "backend/wasm/thread.ts",
  jinja: "text/tree-program.ts",
  tokenizer: "text/tokenizer-library.ts",
  template: "text/template-parser.ts",
  grammar: "text/grammar/engine.ts",
};
const NAMES = Object.keys(ENTRIES).join("|");
const IGNORED = new RegExp(`/\\* @vite-ignore \\*/ (?="\\./(?:${NAMES})\\.js", import\\.meta\\.url)`, "g");
const PLACES = new RegExp(`(new URL\\()\`(\\./(?:${NAMES})\\.js)\``, "g");

/** What bundlers of other people's pages know: without the comment that is for Vite's own build, and the string as everybody writes it. */
const literalPlaces: Plugin = {
  name: "literal-places",
  transform: (code) => (code.includes("@vite-ignore") ? { code: code.replace(IGNORED, ""), map: null } : null),
  generateBundle(_, bundle) {
    for (const file of Object.values(bundle)) if (file.type === "chunk") file.code = file.code.replace(PLACES, '$1"$2"');
  },
};

export default Object.entries(ENTRIES).map(([name, path]): InputOptions & { output: OutputOptions } => ({
  input: { [name]: resolve(import.meta.dirname, "src", path) },
  platform: "browser",
  // No page starts them in a browser that is older than those that Wisp runs in.
  transform: { target: "es2022" },
  logLevel: "warn",
  checks: { bundlerTimings: false },
  plugins: [literalPlaces],
  output: {
    dir: resolve(import.meta.dirname, "dist"),
    entryFileNames: "[name].js",
    codeSplitting: false,
    minify: true,
    sourcemap: name === "worker" || name === "thread",
  },
}));
