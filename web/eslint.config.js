import { readdirSync } from "node:fs";
import { join } from "node:path";
import js from "@eslint/js";
import tseslint from "typescript-eslint";

/**
 * What each part of src/ may import of the others: imports point one way. A row of a folder or file inside another part stands
 * below it and replaces that one's. tests/imports.test.ts sees to it that there are no circles within a part either.
 */
const MAY_IMPORT = {
  api: [],
  text: ["api", "artifact/template-tree"],
  artifact: ["api"],
  backend: ["api", "artifact/schema"],
  "backend/webgpu": ["api", "artifact/schema", "backend"],
  "backend/wasm": ["api", "artifact/schema", "backend"],
  runtime: ["api", "artifact", "backend/backend"], // the interface, and neither of the two behind it
  protocol: ["api", "text/work"],
  worker: ["api", "artifact", "backend", "protocol", "runtime", "text"],
  storage: ["api", "artifact", "backend/negotiate", "worker/load"],
  page: ["api", "protocol"],
  "page/entry.ts": ["api", "artifact/locks", "page"],
  "page/models.ts": ["api", "artifact", "page", "storage"],
  "page/device.ts": ["api", "backend"],
  react: ["api", "page/entry"],
  adapters: ["api"], // an engine is given to them
  ui: ["api", "page/device", "page/engine", "page/entry"], // what any page could import, and what the device offers
  bench: ["api", "artifact", "backend", "runtime", "worker/load"],
  node: ["api", "artifact", "page/host", "protocol", "text", "worker"],
  "service-worker": [],
};
/** The parts that run where there is no document, in browsers and in Node. */
const WITHOUT_DOCUMENT = ["api", "artifact", "backend", "protocol", "runtime", "storage", "text", "worker"];

const PARTS = readdirSync(join(import.meta.dirname, "src"));
const unknown = PARTS.filter((part) => !(part in MAY_IMPORT));
if (unknown.length > 0) throw new Error(`eslint.config.js: MAY_IMPORT has no row for src/${unknown.join(", src/")}`);

const direction = Object.entries(MAY_IMPORT).map(([place, others]) => {
  const [part, inner] = place.split("/");
  const allowed = inner === undefined ? [part, ...others] : others;
  // Within a part, only the way to a folder beside one's own looks like one to another part.
  const names = [...PARTS, "webgpu", "wasm"].join("|");
  const regex = `^(?:\\.\\./)+(?!(?:${allowed.join("|")})(?:/|$))(?:${names})(?:/|$)`;
  const message = `src/${place} may import only ${["its own", ...others].join(", ")}: see MAY_IMPORT in eslint.config.js.`;
  const files = [place.endsWith(".ts") ? `src/${place}` : `src/${place}/**/*.ts`, `src/${place}/**/*.tsx`];
  return { files, rules: { "no-restricted-imports": ["error", { patterns: [{ regex, message }] }] } };
});

export default tseslint.config(
  { ignores: ["dist/", "node_modules/", "examples/"] },
  js.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true, allowBoolean: true }],
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      "max-params": ["error", 7],
    },
  },
  ...direction,
  { files: ["src/**/*.ts"], rules: { "max-lines-per-function": ["error", 60] } },
  {
    files: WITHOUT_DOCUMENT.map((part) => `src/${part}/**/*.ts`),
    rules: { "no-restricted-globals": ["error", "document", "window"] },
  },
  { files: ["**/*.js"], ...tseslint.configs.disableTypeChecked },
);
