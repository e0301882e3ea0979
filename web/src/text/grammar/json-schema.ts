// JSON Schema -> a grammar whose texts are all valid, not always all that are: members come in the schema's order, and an object
// with `properties` holds no others unless it says so. What cannot be held is refused by name, never left out.
//
// A schema becomes alternatives first, each a list of plain schemas that hold together: references, allOf, anyOf, oneOf, not, if
// and dependencies are in their making. Then an alternative becomes an expression, type by type.

import { listOf } from "./json-list";
import { objectOf } from "./json-object";
import { fractional, integers, multiples, type NumberBounds, numbers, spelled } from "./json-text";
import { grammarOf } from "./automaton";
import { choice, type Expression, type Grammar, productive, ROOT, rule, text } from "./expression";
import {
  type AnySchema,
  DERIVED,
  Document,
  EXCLUDE,
  FRACTIONAL,
  type Json,
  numberOf,
  refuse,
  same,
  type Schema,
  schemaOf,
  schemasOf,
  textsOf,
  mapOf,
  typesOf,
  TYPES,
  type TypeName,
} from "./schema-keywords";
import { stringOf } from "./json-string";
import type { Compiler, Together } from "./schema-compiler";

const MOST_ALTERNATIVES = 512;
const MOST_RULES = 20_000;

/** @throws RequestError naming what is not supported, or when nothing is valid */
export function grammarOfSchema(schema: unknown): Grammar {
  const root = schemaOf(schema, "the schema");
  const compiler = new SchemaCompiler(new Document(root));
  const value = compiler.value([root]);
  const found = productive(new Map([[ROOT, value], ...compiler.rules]));
  return found ?? refuse("no valid value that could be written", schema);
}

class SchemaCompiler implements Compiler {
  readonly rules = new Map<string, Expression>();
  private readonly names = new Map<string, string>();
  private readonly numbers = new WeakMap<Schema, number>();
  private count = 0;

  constructor(readonly document: Document) {}

  /** A new rule, whose name is known while its body is made. */
  readonly add = (make: (name: string) => Expression): string => {
    const name = `r${this.rules.size}`;
    if (this.rules.size >= MOST_RULES) refuse(`more than ${MOST_RULES} parts when it is written out`);
    this.rules.set(name, choice());
    this.rules.set(name, make(name));
    return name;
  };

  /** What is valid against all of `schemas`: a rule, made once. */
  value(schemas: readonly AnySchema[]): Expression {
    if (schemas.includes(false)) return choice();
    const key = schemas
      .flatMap((schema) => (typeof schema === "boolean" ? [] : [this.numberOf(schema)]))
      .sort((a, b) => a - b)
      .join();
    const known = this.names.get(key);
    if (known !== undefined) return rule(known);
    return rule(
      this.add((name) => {
        this.names.set(key, name);
        return choice(...this.alternatives(schemas).map((together) => this.plain(together)));
      }),
    );
  }

  private numberOf(schema: Schema): number {
    const known = this.numbers.get(schema) ?? this.count++;
    this.numbers.set(schema, known);
    return known;
  }

  alternatives(schemas: readonly AnySchema[], behind: readonly unknown[] = []): Together[] {
    return schemas.reduce<Together[]>((found, schema) => both(found, this.expand(schema, behind)), [[]]);
  }

  private expand(schema: AnySchema, behind: readonly unknown[]): Together[] {
    if (typeof schema === "boolean") return schema ? [[]] : [];
    if (behind.includes(schema)) refuse("a part that refers to itself without anything between");
    this.document.check(schema);
    const path = [...behind, schema];
    const all = (...parts: AnySchema[]) => this.alternatives(parts, path);
    const not = (part: AnySchema) => this.document.negate(part);
    let found: Together[] = [[schema]];
    for (const [keyword, value] of Object.entries(schema)) {
      switch (keyword) {
        case "$ref":
          found = both(found, all(this.document.resolve(value)));
          break;
        case "allOf":
          found = both(found, all(...schemasOf(value, keyword)));
          break;
        case "anyOf":
          found = both(
            found,
            schemasOf(value, keyword).flatMap((part) => all(part)),
          );
          break;
        case "oneOf": {
          const parts = schemasOf(value, keyword);
          const others = (one: number) => parts.filter((_, i) => i !== one);
          found = both(
            found,
            parts.flatMap((part, i) => (apart(part, others(i), this.document) ? all(part) : all(part, ...others(i).map(not)))),
          );
          break;
        }
        case "not":
          found = both(found, all(not(schemaOf(value, keyword))));
          break;
        case "if": {
          const condition = schemaOf(value, keyword);
          const then = schemaOf(schema["then"] ?? true, "then");
          const otherwise = schemaOf(schema["else"] ?? true, "else");
          if (then !== true || otherwise !== true) found = both(found, [...all(condition, then), ...all(not(condition), otherwise)]);
          break;
        }
        case "dependentRequired":
        case "dependentSchemas":
        case "dependencies":
          for (const [name, part] of dependencies(value, keyword))
            found = both(found, [...all(absent(name)), ...all(present(name), part), ...all(NO_OBJECT)]);
          break;
        default:
      }
    }
    return found;
  }

  /** An alternative. */
  private plain(together: Together): Expression {
    const listed = this.listed(together);
    if (listed !== undefined) return choice(...listed.map((value) => text(JSON.stringify(value))));
    const types = together.reduce<readonly TypeName[]>((found, schema) => meet(found, typesOf(schema)), TYPES);
    return choice(...types.filter((name) => name !== "integer" || !types.includes("number")).map((name) => this.ofType(name, together)));
  }

  /** The values of enum and const that are valid; undefined where there is neither. */
  listed(together: Together): Json[] | undefined {
    const lists = together.flatMap((schema) => [
      ...(schema["enum"] === undefined ? [] : [schema["enum"]]),
      ...("const" in schema ? [[schema["const"]]] : []),
    ]);
    const [first] = lists;
    if (first === undefined) return undefined;
    if (!Array.isArray(first)) return refuse("no list as enum", first);
    const plain = together.map((schema) => withoutApart(schema));
    return (first as Json[]).filter((value) => plain.every((schema) => this.document.validates(value, schema)));
  }

  private ofType(name: TypeName, together: Together): Expression {
    const excluded = together.flatMap((schema) => (Array.isArray(schema[EXCLUDE]) ? (schema[EXCLUDE] as Json[]) : []));
    switch (name) {
      case "null":
        return excluded.includes(null) ? choice() : text("null");
      case "boolean":
        return choice(...[true, false].filter((value) => !excluded.includes(value)).map((value) => text(String(value))));
      case "integer":
      case "number":
        if (excluded.some((value) => typeof value === "number")) refuse("numbers that are left out, which is not supported", excluded);
        return this.numbersOf(name, together);
      case "string":
        return stringOf(
          this,
          together,
          excluded.filter((value) => typeof value === "string"),
        );
      case "array":
        if (excluded.some((value) => Array.isArray(value))) refuse("lists that are left out, which is not supported", excluded);
        return listOf(this, together);
      case "object":
        if (excluded.some((value) => typeof value === "object" && value !== null && !Array.isArray(value)))
          refuse("objects that are left out, which is not supported", excluded);
        return objectOf(this, together);
    }
  }

  private numbersOf(name: "integer" | "number", together: Together): Expression {
    const bounds = boundsOf(together);
    const factors = together.flatMap((schema) => numberOf(schema, "multipleOf") ?? []);
    const factor = factors.reduce((a, b) => (a / gcd(a, b)) * b, 1);
    if (factors.some((value) => !Number.isInteger(value) || value < 1) || factor > 1000)
      refuse("multipleOf something else than an integer from 1 to 1000, which is not supported", factors);
    if (together.some((schema) => schema[FRACTIONAL] === true)) {
      if (factors.length > 0 || name === "integer") return choice();
      return grammarOf(fractional(numbers(bounds, false)), spelled, this.add);
    }
    if (factors.length === 0) return name === "integer" ? integers(bounds) : numbers(bounds);
    return grammarOf(multiples(integers(bounds), factor), spelled, this.add);
  }
}

function both(a: readonly Together[], b: readonly Together[]): Together[] {
  if (a.length * b.length > MOST_ALTERNATIVES) refuse(`more than ${MOST_ALTERNATIVES} alternatives at a place`);
  return a.flatMap((x) => b.map((y) => [...x, ...y.filter((schema) => !x.includes(schema))]));
}

/** What both allow. */
function meet(a: readonly TypeName[], b: readonly TypeName[]): TypeName[] {
  const has = (names: readonly TypeName[], name: TypeName) => names.includes(name) || (name === "integer" && names.includes("number"));
  return TYPES.filter((name) => has(a, name) && has(b, name));
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));
const NO_OBJECT: Schema = { type: TYPES.filter((name) => name !== "object") };
const ABSENT = new Map<string, Schema>();

function absent(name: string): Schema {
  const made = ABSENT.get(name) ?? { type: "object", properties: { [name]: false }, [DERIVED]: true };
  ABSENT.set(name, made);
  return made;
}

const PRESENT = new Map<string, Schema>();

function present(name: string): Schema {
  const made = PRESENT.get(name) ?? { type: "object", required: [name], [DERIVED]: true };
  PRESENT.set(name, made);
  return made;
}

/** What has to hold where a member is there. */
function dependencies(value: unknown, keyword: string): [string, AnySchema][] {
  if (typeof value !== "object" || value === null) return refuse(`no schemas by name as ${keyword}`, value);
  return Object.entries(value as Schema).map(([name, part]) => [
    name,
    Array.isArray(part) ? { required: textsOf(part, `${keyword}.${name}`), [DERIVED]: true } : schemaOf(part, `${keyword}.${name}`),
  ]);
}

/** The keywords that are not in the making of alternatives: those were settled. */
function withoutApart(schema: Schema): Schema {
  const settled = ["$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"];
  return Object.fromEntries(Object.entries(schema).filter(([keyword]) => !settled.includes(keyword)));
}

function boundsOf(together: Together): NumberBounds {
  const bounds: NumberBounds = { least: undefined, most: undefined, aboveLeast: false, belowMost: false };
  for (const schema of together) {
    for (const [keyword, open] of [
      ["minimum", false],
      ["exclusiveMinimum", true],
    ] as const) {
      const value = numberOf(schema, keyword);
      if (value === undefined || (bounds.least !== undefined && (value < bounds.least || (value === bounds.least && !open)))) continue;
      bounds.least = value;
      bounds.aboveLeast = open;
    }
    for (const [keyword, open] of [
      ["maximum", false],
      ["exclusiveMaximum", true],
    ] as const) {
      const value = numberOf(schema, keyword);
      if (value === undefined || (bounds.most !== undefined && (value > bounds.most || (value === bounds.most && !open)))) continue;
      bounds.most = value;
      bounds.belowMost = open;
    }
  }
  return bounds;
}

/** Whether nothing that is valid against `part` is so against one of `others`, as a short look tells. */
function apart(part: AnySchema, others: readonly AnySchema[], document: Document): boolean {
  return others.every((other) => differ(plainly(part, document), plainly(other, document), document));
}

function plainly(schema: AnySchema, document: Document): AnySchema {
  for (let at = schema, steps = 0; ; steps++) {
    if (typeof at === "boolean" || at["$ref"] === undefined || Object.keys(at).length > 1 || steps > 20) return at;
    at = document.resolve(at["$ref"]);
  }
}

function valuesOf(schema: Schema): unknown[] | undefined {
  return "const" in schema ? [schema["const"]] : Array.isArray(schema["enum"]) ? (schema["enum"] as unknown[]) : undefined;
}

function differ(a: AnySchema, b: AnySchema, document: Document): boolean {
  if (typeof a === "boolean" || typeof b === "boolean") return a === false || b === false;
  const [x, y] = [valuesOf(a), valuesOf(b)];
  if (x !== undefined && y !== undefined) return !x.some((value) => y.some((other) => same(value, other)));
  if (meet(typesOf(a), typesOf(b)).length === 0) return true;
  // Objects that both hold a member which tells them apart.
  if (String(typesOf(a)) !== "object" || String(typesOf(b)) !== "object") return false;
  const required = [a, b].map((schema) => (Array.isArray(schema["required"]) ? (schema["required"] as unknown[]) : []));
  const members = [a, b].map((schema) => new Map(mapOf(schema["properties"] ?? {}, "properties")));
  return [...(members[0]?.keys() ?? [])].some((name) => {
    if (!required.every((names) => names.includes(name))) return false;
    const [one, other] = members.map((all) => all.get(name));
    return one !== undefined && other !== undefined && differ(plainly(one, document), plainly(other, document), document);
  });
}
