// Imports within src/: no module reaches itself by them. (Which part may import which is eslint.config.js's.)
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";

const SOURCE = resolve(import.meta.dirname, "../src");

/** Every module with what it imports, types too. */
function importGraph(): Map<string, string[]> {
  const names = (readdirSync(SOURCE, { recursive: true }) as string[]).filter((name) => /\.tsx?$/.test(name));
  const known = new Set(names);
  const imports = (name: string) => {
    const { importedFiles } = ts.preProcessFile(readFileSync(join(SOURCE, name), "utf8"));
    const own = importedFiles
      .map(({ fileName }) => fileName)
      .filter((other) => other.startsWith(".") && !/\.css(?:\?inline)?$/.test(other));
    const paths = own.map((other) => join(name, "..", other));
    return paths.map((path) => (known.has(`${path}.tsx`) ? `${path}.tsx` : `${path}.ts`));
  };
  return new Map(names.map((name) => [name, imports(name)]));
}

/** The first circle found, from a module to itself; empty where there is none. */
function circle(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const visit = (name: string, path: readonly string[]): string[] => {
    if (path.includes(name)) return [...path.slice(path.indexOf(name)), name];
    if (done.has(name)) return [];
    done.add(name);
    for (const other of graph.get(name) ?? []) {
      const found = visit(other, [...path, name]);
      if (found.length > 0) return found;
    }
    return [];
  };
  for (const name of graph.keys()) {
    const found = visit(name, []);
    if (found.length > 0) return found;
  }
  return [];
}

test("go in no circle", () => {
  const graph = importGraph();
  const edges = [...graph.values()].flat();
  expect(edges.length).toBeGreaterThan(200);
  expect(edges.filter((name) => !graph.has(name))).toEqual([]);
  expect(circle(graph)).toEqual([]);
});

test("would be seen to go in one", () => {
  const graph = new Map(Object.entries({ a: ["b", "c"], b: ["c"], c: ["d"], d: ["b"] }));
  expect(circle(graph)).toEqual(["b", "c", "d", "b"]);
});
