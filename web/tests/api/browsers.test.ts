// The table of browsers in src/api/browsers.ts against what the built files use, by MDN's data.
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parse } from "acorn";
import { build, type Rolldown } from "vite";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { anySignal, listening } from "../../src/artifact/abort";
import { BROWSERS, MINIMUM, SIGNS, tooOld, WEBGPU } from "../../src/api/browsers";
import { buildStandalone } from "../support/standalone";
import { newerThan, usesOfScripts, usesOfStyles, versionsOf, webgpuOfScripts } from "../support/compatibility";

const WEB = resolve(import.meta.dirname, "../..");
const built = new Map<string, string>();

/** What newer functions are called for none the less, and why that is right in browsers without them. */
const ASKED_FIRST: Record<string, string> = {
  ".createPolicy()": "trusted types: DOMPurify asks whether there are any",
  ".getAttributeType()": "trusted types likewise",
  ".createWritable()": "exports to a folder ask whether it is there (page/models.ts)",
  ".moveBefore()": "Preact asks whether it is there",
  ".estimate()": "the loader asks whether it is there (worker/load/room.ts)",
  ":has": "a highlight of the chosen model",
};

beforeAll(async () => {
  for (const chunk of await buildStandalone()) built.set(chunk.fileName, chunk.code);
  for (const name of ["", "page.", "check.", "offline."]) {
    const config = `vite.${name}config.ts`;
    const outputs = await build({ root: WEB, configFile: join(WEB, config), logLevel: "error", build: { write: false } });
    for (const { output } of [outputs].flat() as Rolldown.RolldownOutput[])
      for (const file of output) built.set(file.fileName, file.type === "chunk" ? file.code : String(file.source));
  }
}, 120_000);

afterEach(() => vi.unstubAllGlobals());

const scripts = () => [...built].filter(([name]) => name.endsWith(".js")).map(([, code]) => code);

describe("the minimum", () => {
  test("has every function that the built scripts call", () => {
    expect(scripts().length).toBeGreaterThan(5);
    const uses = usesOfScripts(scripts());
    expect(uses.has("new Worker")).toBe(true);
    expect(uses.has(".throwIfAborted()")).toBe(true);
    expect(newerThan(uses, MINIMUM).filter((line) => ASKED_FIRST[line.split(": ")[0] ?? ""] === undefined)).toEqual([]);
  });
  test("has what the style sheet cannot do without", () => {
    const uses = usesOfStyles(built.get("page.css") ?? "");
    expect(uses.has(":focus-visible")).toBe(true);
    expect(newerThan(uses, MINIMUM).filter((line) => ASKED_FIRST[line.split(": ")[0] ?? ""] === undefined)).toEqual([]);
  });
  test("would be found too old, were something newer used", () => {
    const source =
      'AbortSignal.any([]); URL.parse("x"); [1].toSorted(); x.withResolvers(); Promise.withResolvers(); new Intl.Segmenter(); y.uncalled;';
    expect(newerThan(usesOfScripts([source]), { chrome: 100, firefox: 100, safari: 15 })).toEqual(
      expect.arrayContaining([
        "AbortSignal.any: chrome 116",
        "URL.parse: safari 18",
        ".toSorted(): firefox 115",
        "Promise.withResolvers: chrome 119",
      ]),
    );
    expect(newerThan(usesOfStyles("a { color: light-dark(red, blue) } b:has(c) { d: e }"), MINIMUM)).toEqual(
      expect.arrayContaining(["light-dark(): chrome 123", ":has: firefox 121"]),
    );
  });
  test("is what the signs tell, no more and no less", () => {
    for (const browser of ["chrome", "firefox", "safari"] as const)
      expect(Math.max(...SIGNS.map(({ name }) => versionsOf(name)[browser])), browser).toBe(MINIMUM[browser]);
  });
  test("has workers that are modules, and SIMD", () => {
    for (const name of ["api.Worker.Worker.ecmascript_modules", "webassembly.fixed-width-SIMD"])
      for (const browser of ["chrome", "firefox", "safari"] as const)
        expect(versionsOf(name)[browser], name).toBeLessThanOrEqual(MINIMUM[browser]);
  });
  test("of WebGPU is what the scripts call of it", () => {
    const uses = webgpuOfScripts(scripts());
    expect([...uses.keys()]).toEqual(expect.arrayContaining([".requestAdapter()", ".dispatchWorkgroups()", ".mapAsync()"]));
    for (const browser of ["chrome", "firefox", "safari"] as const)
      expect(Math.max(...[...uses.values()].map((versions) => versions[browser])), browser).toBe(WEBGPU[browser]);
  });
  test("of WebGPU is not older than that of the rest", () => {
    for (const browser of ["chrome", "firefox", "safari"] as const) expect(WEBGPU[browser]).toBeGreaterThanOrEqual(MINIMUM[browser]);
  });
});

describe("older browsers", () => {
  test("can read what tells them: the check of the page as a script of 2015, the engine's module as one of 2020", () => {
    expect(() => parse(built.get("check.js") ?? "fail(", { ecmaVersion: 2015, sourceType: "script" })).not.toThrow();
    const read = new Set<string>();
    const readModule = (name: string) => {
      if (read.has(name)) return;
      read.add(name);
      const tree = parse(built.get(name) ?? "fail(", { ecmaVersion: 2020, sourceType: "module" });
      for (const node of tree.body) if ("source" in node && node.source) readModule(String(node.source.value).replace("./", ""));
    };
    readModule("wisp.js");
    expect(read.size).toBeGreaterThan(1);
  });
  test("are told, and no others", () => {
    expect(tooOld()).toBeUndefined();
    const { toSorted } = Array.prototype;
    try {
      Reflect.deleteProperty(Array.prototype, "toSorted");
      expect(tooOld()).toBe(`This browser is too old for Wisp, which runs in ${BROWSERS}`);
    } finally {
      Object.defineProperty(Array.prototype, "toSorted", { value: toSorted, writable: true, configurable: true });
    }
    vi.stubGlobal(
      "RegExp",
      vi.fn(function () {
        throw new SyntaxError("invalid group");
      }),
    );
    expect(tooOld()).toMatch(/Chrome or Edge \d+, Firefox \d+, Safari [\d.]+ or later$/);
  });
});

describe("versions of browsers", () => {
  test("stand in one table: no other source has one", () => {
    const files = (readdirSync(join(WEB, "src"), { recursive: true }) as string[]).filter(
      (name) => /\.(ts|css)$/.test(name) && name !== join("api", "browsers.ts"),
    );
    const found = files.filter((name) => /\b(Chrome|Edge|Firefox|Safari) \d+/.test(readFileSync(join(WEB, "src", name), "utf8")));
    expect(found).toEqual([]);
  });
  test("are the table's in the README", () => {
    const readme = readFileSync(join(WEB, "..", "README.md"), "utf8").replace(/\s+/g, " ");
    expect(readme).toContain(BROWSERS);
    const stated = [...readme.matchAll(/\b(Chrome|Firefox|Safari)(?: or Edge)? (\d[\d.]*\d|\d)/g)].map(([, name = "", version]) => [
      name.toLowerCase(),
      Number(version),
    ]);
    expect(stated.length).toBeGreaterThanOrEqual(3);
    for (const [name, version] of stated)
      expect(
        [MINIMUM, WEBGPU].map((table) => table[name as keyof typeof MINIMUM]),
        String(name),
      ).toContain(version);
  });
});

describe("a signal of several", () => {
  test.each([anySignal, listening])("ends with the first of them, for its reason (%o)", (any) => {
    const [a, b] = [new AbortController(), new AbortController()];
    const signal = any([a.signal, b.signal]);
    expect(signal.aborted).toBe(false);
    b.abort(new Error("b"));
    a.abort(new Error("a"));
    expect(signal.reason).toEqual(new Error("b"));
    expect(any([a.signal, b.signal]).reason).toEqual(new Error("a"));
  });
});
