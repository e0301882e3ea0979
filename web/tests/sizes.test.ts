// What a page and its worker download, as a server sends it: each file within its budget. The files are built for the test.
import { gzipSync } from "node:zlib";
import type { OutputChunk } from "rolldown";
import { beforeAll, expect, test } from "vitest";
import { buildStandalone } from "./support/standalone";

/** Bytes, gzip -9. Whoever needs more for good reason says it here; what a first answer does not need goes into a file of its own. */
const BUDGETS: Record<string, number> = {
  "worker.js": 60_000,
  "thread.js": 4_000,
  "jinja.js": 24_000,
  "tokenizer.js": 12_000,
  "template.js": 16_000,
  "grammar.js": 20_000,
};

const built = new Map<string, OutputChunk>();

beforeAll(async () => {
  for (const chunk of await buildStandalone()) built.set(chunk.fileName, chunk);
});

test("each file that runs in workers is whole and within its budget", () => {
  expect([...built.keys()].toSorted()).toEqual(Object.keys(BUDGETS).toSorted());
  for (const [name, { code, imports }] of built) {
    expect(gzipSync(code, { level: 9 }).length, name).toBeLessThanOrEqual(BUDGETS[name] ?? 0);
    expect(imports, name).toEqual([]);
  }
});

test("bundlers find the files that the worker needs", () => {
  const places = built.get("worker.js")?.code.match(/new URL\("\.\/\w+\.js",import\.meta\.url\)/g) ?? [];
  const names = ["grammar", "jinja", "template", "thread", "tokenizer"];
  expect(places.toSorted()).toEqual(names.map((name) => `new URL("./${name}.js",import.meta.url)`));
});
