// What built JavaScript and CSS ask of browsers, by MDN's table of what each has had since when. Knows no browser that Wisp
// promises. Of `x.y()` the kind of x is not known: it counts as the oldest y that there is, unless the code defines a y itself.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { CompatData, CompatStatement, Identifier, SimpleSupportStatement } from "@mdn/browser-compat-data";
import { type AnyNode, parse } from "acorn";

// Read and not imported: 20 MB of JSON take Vite half a minute.
const bcd = JSON.parse(readFileSync(createRequire(import.meta.url).resolve("@mdn/browser-compat-data"), "utf8")) as CompatData;

export const BROWSERS = ["chrome", "firefox", "safari"] as const;
export type Versions = Record<(typeof BROWSERS)[number], number>;
export type Uses = Map<string, Versions>;

/**
 * Versions of before the tables begin are 0; what no browser has without a flag or a prefix is Infinity.
 *
 * @param inPart on some systems counts too, before the others had it
 */
function since(compat: CompatStatement, inPart = false): Versions {
  const first = (browser: (typeof BROWSERS)[number]): number => {
    const support = compat.support[browser];
    const statements: SimpleSupportStatement[] = support === undefined ? [] : Array.isArray(support) ? support : [support];
    const plain = statements.filter(
      ({ flags, prefix, alternative_name: name, version_removed: removed, partial_implementation: part }) =>
        (flags ?? prefix ?? name) === undefined && (removed === undefined || (inPart && part === true)),
    );
    return Math.min(
      Infinity,
      ...plain.map(({ version_added: version }) => (typeof version === "string" ? Number(version.replace("≤", "")) || Infinity : Infinity)),
    );
  };
  return { chrome: first("chrome"), firefox: first("firefox"), safari: first("safari") };
}

/** Of a path such as "javascript.builtins.Array.toSorted". */
export function versionsOf(path: string): Versions {
  const found = path.split(".").reduce<Identifier | undefined>((at, name) => at?.[name], bcd as unknown as Identifier);
  if (found?.__compat === undefined) throw new Error(`MDN's table has no ${path}`);
  return since(found.__compat);
}

const older = (a: Versions, b: Versions): Versions => ({
  chrome: Math.min(a.chrome, b.chrome),
  firefox: Math.min(a.firefox, b.firefox),
  safari: Math.min(a.safari, b.safari),
});

/** Objects by their global names: JavaScript's, those of Intl and WebAssembly, and the web's. */
function objects(): Map<string, Identifier> {
  const { builtins = {} } = bcd.javascript;
  const groups = [builtins, builtins.Intl, bcd.webassembly.api, bcd.api].filter((group) => group !== undefined);
  const all = groups.flatMap((group) => Object.entries(group));
  return new Map(all.filter(([name]) => name !== "__compat") as [string, Identifier][]);
}

const OBJECTS = objects();
const MEMBERS = new Map<string, Versions>();
for (const [object, members] of OBJECTS)
  for (const [name, { __compat }] of Object.entries(members) as [string, Identifier][])
    if (__compat !== undefined && name !== object && !name.endsWith("_static")) {
      // WebGPU has a minimum of its own, and is asked for before it is used.
      const versions = object.startsWith("GPU") ? { chrome: 0, firefox: 0, safari: 0 } : since(__compat);
      const known = MEMBERS.get(name);
      MEMBERS.set(name, known === undefined ? versions : older(known, versions));
    }

function walk(node: unknown, visit: (node: AnyNode) => void): void {
  if (Array.isArray(node)) for (const child of node) walk(child, visit);
  else if (typeof node === "object" && node !== null) {
    if ("type" in node) visit(node as AnyNode);
    for (const child of Object.values(node)) if (typeof child === "object") walk(child, visit);
  }
}

/** Statics and constructors that are used, and methods that are called for sure (not as in `x.y?.()`). */
export function usesOfScripts(sources: readonly string[]): Uses {
  const uses: Uses = new Map();
  const own = new Set<string>();
  const trees = sources.map((source) => parse(source, { ecmaVersion: "latest", sourceType: "module" }));
  walk(trees, (node) => {
    if (
      (node.type === "MethodDefinition" || node.type === "PropertyDefinition" || node.type === "Property") &&
      node.key.type === "Identifier"
    )
      own.add(node.key.name);
  });
  walk(trees, (node) => {
    if (node.type === "NewExpression" && node.callee.type === "Identifier") {
      const compat = OBJECTS.get(node.callee.name)?.__compat;
      if (compat !== undefined) uses.set(`new ${node.callee.name}`, since(compat));
    } else if (
      node.type === "CallExpression" &&
      !node.optional &&
      node.callee.type === "MemberExpression" &&
      node.callee.property.type === "Identifier" &&
      !node.callee.computed
    ) {
      const { object, property } = node.callee;
      const global = object.type === "Identifier" ? OBJECTS.get(object.name) : undefined;
      const compat = global?.[`${property.name}_static`]?.__compat ?? global?.[property.name]?.__compat;
      const member = MEMBERS.get(property.name);
      if (compat !== undefined && object.type === "Identifier") uses.set(`${object.name}.${property.name}`, since(compat));
      else if (member !== undefined && !own.has(property.name)) uses.set(`.${property.name}()`, member);
    }
  });
  return uses;
}

/** Methods that WebGPU alone has, and since when: on the first systems of a browser that had it at all. */
export function webgpuOfScripts(sources: readonly string[]): Uses {
  const isGpu = (object: string) => object.startsWith("GPU");
  const others = new Set([...OBJECTS].flatMap(([object, members]) => (isGpu(object) ? [] : Object.keys(members))));
  const members = [...OBJECTS].flatMap(([object, found]) => (isGpu(object) ? Object.entries(found) : []));
  const only = new Map(members.filter(([name]) => !others.has(name) && name !== "__compat") as [string, Identifier][]);
  const uses: Uses = new Map();
  walk(
    sources.map((source) => parse(source, { ecmaVersion: "latest", sourceType: "module" })),
    (node) => {
      if (node.type !== "CallExpression" || node.callee.type !== "MemberExpression" || node.callee.property.type !== "Identifier") return;
      const { name } = node.callee.property;
      const compat = only.get(name)?.__compat;
      if (compat !== undefined) uses.set(`.${name}()`, since(compat, true));
    },
  );
  return uses;
}

/** Functions, pseudo-classes and at-rules. Properties and their values are passed over by browsers that do not know them. */
export function usesOfStyles(css: string): Uses {
  const uses: Uses = new Map();
  const { types, selectors, "at-rules": rules } = bcd.css as unknown as Record<string, Identifier>;
  const note = (name: string, compat: CompatStatement | undefined) => compat !== undefined && uses.set(name, since(compat));
  const functions = new Map<string, CompatStatement>();
  const collect = (group: Identifier): void => {
    for (const [name, child] of Object.entries(group) as [string, Identifier][]) {
      if (name === "__compat") continue;
      if (child.__compat !== undefined) functions.set(name, child.__compat);
      collect(child);
    }
  };
  if (types !== undefined) collect(types);
  for (const [, name = ""] of css.matchAll(/([a-z-]+)\(/g)) note(`${name}()`, functions.get(name));
  const outside = css.replace(/\{[^{}]*\}/g, "{}"); // of declarations
  for (const [, name = ""] of outside.matchAll(/::?([a-z][a-z-]*)/g)) note(`:${name}`, selectors?.[name]?.__compat);
  for (const [, name = ""] of css.matchAll(/@([a-z-]+)/g)) note(`@${name}`, rules?.[name]?.__compat);
  return uses;
}

/** Lines such as "URL.parse: firefox 126" for what is newer than `minimum`. */
export function newerThan(uses: Uses, minimum: Versions): string[] {
  return [...uses].flatMap(([name, versions]) =>
    BROWSERS.filter((browser) => versions[browser] > minimum[browser]).map((browser) => `${name}: ${browser} ${versions[browser]}`),
  );
}
