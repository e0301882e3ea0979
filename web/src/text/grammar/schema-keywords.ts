// JSON Schema as far as answers can be held to it: which keywords there are, where a reference leads, whether a value is valid,
// what the opposite of a schema is. Grammars are json-schema.ts's.

import { RequestError } from "../../api/errors";
import { isOfFormat } from "./formats";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type Schema = Readonly<Record<string, unknown>>;
export type AnySchema = boolean | Schema;

/** Values that $exclude holds are not valid; texts that $notPattern matches neither. The next three are written by negate() alone. */
export const EXCLUDE = "$exclude";
export const NOT_PATTERN = "$notPattern";
/** Of a number: it is no integer. */
export const FRACTIONAL = "$fractional";
/** Marks schemas that only take a case apart, and say nothing of what members there are. */
export const DERIVED = "$derived";

/** What one alternative of a schema is told by; the others of `KNOWN` are taken apart before. */
const PLAIN = [
  ...["type", "enum", "const", EXCLUDE, NOT_PATTERN, FRACTIONAL],
  ...["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
  ...["minLength", "maxLength", "pattern", "format"],
  ...["items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains", "unevaluatedItems"],
  ...["properties", "required", "additionalProperties", "patternProperties", "propertyNames"],
  ...["minProperties", "maxProperties", "unevaluatedProperties"],
] as const;
const APART = ["$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"];
const NOTES = [
  ...["title", "description", "default", "examples", "example", "$comment", "deprecated", "readOnly", "writeOnly"],
  ...[DERIVED, "$schema", "$id", "$anchor", "$defs", "definitions", "contentEncoding", "contentMediaType", "contentSchema"],
];
const KNOWN = new Set<string>([...PLAIN, ...APART, ...NOTES]);

export const TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"] as const;
export type TypeName = (typeof TYPES)[number];

export function refuse(what: string, got?: unknown, remedy?: string): never {
  const shown = got === undefined ? undefined : JSON.stringify(got).slice(0, 100);
  throw new RequestError({ what: `The JSON Schema has ${what}`, got: shown, remedy });
}

export function isSchema(value: unknown): value is AnySchema {
  return typeof value === "boolean" || (typeof value === "object" && value !== null && !Array.isArray(value));
}

export function schemaOf(value: unknown, keyword: string): AnySchema {
  return isSchema(value) ? value : refuse(`no schema as ${keyword}`, value);
}

export function schemasOf(value: unknown, keyword: string): AnySchema[] {
  if (!Array.isArray(value) || value.length === 0) return refuse(`no list of schemas as ${keyword}`, value);
  return value.map((item) => schemaOf(item, keyword));
}

export function mapOf(value: unknown, keyword: string): [string, AnySchema][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return refuse(`no schemas by name as ${keyword}`, value);
  return Object.entries(value).map(([name, item]) => [name, schemaOf(item, `${keyword}.${name}`)]);
}

export function textsOf(value: unknown, keyword: string): string[] {
  if (!Array.isArray(value) || !value.every((item) => typeof item === "string")) return refuse(`no list of texts as ${keyword}`, value);
  return value;
}

export function typesOf(schema: Schema): readonly TypeName[] {
  const { type } = schema;
  if (type === undefined) return TYPES;
  const names = Array.isArray(type) ? type : [type];
  return names.map((name) => TYPES.find((known) => known === name) ?? refuse("an unknown type", name));
}

export function numberOf(schema: Schema, keyword: string, least = -Infinity): number | undefined {
  const value = schema[keyword];
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !(value >= least)) return refuse(`no number as ${keyword}`, value);
  return value;
}

export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null || Array.isArray(a) !== Array.isArray(b)) return false;
  const [keys, others] = [Object.keys(a), Object.keys(b)];
  return keys.length === others.length && keys.every((key) => Object.hasOwn(b, key) && same((a as Schema)[key], (b as Schema)[key]));
}

/** A whole schema document: what its parts refer to. */
export class Document {
  private readonly opposites = new WeakMap<Schema, AnySchema>();
  private readonly checked = new WeakSet();

  constructor(readonly root: AnySchema) {}

  /** @throws RequestError for keywords that are not supported, and for those that do not exist */
  check(schema: Schema): void {
    if (this.checked.has(schema)) return;
    this.checked.add(schema);
    const wrong = Object.keys(schema).find((key) => !KNOWN.has(key) && !key.startsWith("x-"));
    if (wrong !== undefined)
      refuse(`the keyword ${wrong}, which is not supported`, schema[wrong], "Leave it out, or say the same with others.");
    if (schema["$id"] !== undefined && schema !== this.root) refuse("a part with an $id of its own, which is not supported", schema["$id"]);
  }

  resolve(reference: unknown): AnySchema {
    if (typeof reference !== "string" || !reference.startsWith("#"))
      return refuse("a $ref that leads out of it", reference, "Put what it refers to under $defs.");
    const pointer = decoded(reference) ?? refuse("a $ref that is no fragment of an address", reference, "Write % as %25.");
    if (pointer !== "" && !pointer.startsWith("/"))
      return this.anchored(this.root, pointer) ?? refuse("a $ref to an anchor that is not there", reference);
    let at: unknown = this.root;
    for (const step of pointer.split("/").slice(1)) {
      const key = step.replaceAll("~1", "/").replaceAll("~0", "~");
      at =
        typeof at === "object" && at !== null && Object.hasOwn(at, key)
          ? (at as Schema)[key]
          : refuse("a $ref to what is not there", reference);
    }
    return schemaOf(at, reference);
  }

  private anchored(value: unknown, name: string): AnySchema | undefined {
    if (typeof value !== "object" || value === null) return undefined;
    if ((value as Schema)["$anchor"] === name) return value as Schema;
    for (const part of Object.values(value)) {
      const found = this.anchored(part, name);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** A schema of what `schema` does not allow. @throws RequestError where that is more than Wisp can say */
  negate(schema: AnySchema): AnySchema {
    if (typeof schema === "boolean") return !schema;
    const known = this.opposites.get(schema);
    if (known !== undefined) return known;
    this.check(schema);
    const ways = Object.keys(schema).flatMap((keyword) => (NOTES.includes(keyword) ? [] : this.opposite(schema, keyword)));
    const made: AnySchema = ways.length === 0 ? false : { anyOf: ways };
    this.opposites.set(schema, made);
    return made;
  }

  /** Schemas of which each breaks `keyword`. */
  private opposite(schema: Schema, keyword: string): AnySchema[] {
    const value = schema[keyword];
    switch (keyword) {
      case "type":
        return otherTypes(typesOf(schema));
      case "const":
        return [{ [EXCLUDE]: [value] }];
      case "enum":
        return [{ [EXCLUDE]: value }];
      case EXCLUDE:
        return [{ enum: value }];
      case "required":
        return textsOf(value, keyword).map((name) => ({ type: "object", properties: { [name]: false }, [DERIVED]: true }));
      case "properties":
        return mapOf(value, keyword).map(([name, part]) => ({
          type: "object",
          required: [name],
          properties: { [name]: this.negate(part) },
          [DERIVED]: true,
        }));
      case "minimum":
        return [{ type: "number", exclusiveMaximum: value }];
      case "maximum":
        return [{ type: "number", exclusiveMinimum: value }];
      case "exclusiveMinimum":
        return [{ type: "number", maximum: value }];
      case "exclusiveMaximum":
        return [{ type: "number", minimum: value }];
      case "minLength":
        return value === 0 ? [] : [{ type: "string", maxLength: Number(value) - 1 }];
      case "maxLength":
        return [{ type: "string", minLength: Number(value) + 1 }];
      case "minItems":
        return value === 0 ? [] : [{ type: "array", maxItems: Number(value) - 1 }];
      case "maxItems":
        return [{ type: "array", minItems: Number(value) + 1 }];
      case "pattern":
        return [{ type: "string", [NOT_PATTERN]: value }];
      case NOT_PATTERN:
        return [{ type: "string", pattern: value }];
      case FRACTIONAL:
        return [{ type: "integer" }];
      case "allOf":
        return schemasOf(value, keyword).map((part) => this.negate(part));
      case "anyOf":
        return [{ allOf: schemasOf(value, keyword).map((part) => this.negate(part)) }];
      case "not":
        return [schemaOf(value, keyword)];
      case "$ref":
        return [this.negate(this.resolve(value))];
      default:
        return refuse(`${keyword} under not, if or oneOf, whose opposite is not supported`, value, "Say what is allowed instead.");
    }
  }

  /** Whether `value` is valid; a text of a format is where a grammar writes such texts. */
  validates(value: Json, schema: AnySchema): boolean {
    if (typeof schema === "boolean") return schema;
    this.check(schema);
    return Object.keys(schema).every((keyword) => this.holds(value, schema, keyword));
  }

  private holds(value: Json, schema: Schema, keyword: string): boolean {
    const wanted = schema[keyword];
    const valid = (item: Json, part: unknown): boolean => this.validates(item, schemaOf(part, keyword));
    const count = (parts: AnySchema[]): number => parts.filter((part) => this.validates(value, part)).length;
    switch (keyword) {
      case "type":
        return typesOf(schema).some((name) => isOfType(value, name));
      case "const":
        return same(value, wanted);
      case "enum":
        return Array.isArray(wanted) && wanted.some((item) => same(value, item));
      case EXCLUDE:
        return !(Array.isArray(wanted) && wanted.some((item) => same(value, item)));
      case "$ref":
        return this.validates(value, this.resolve(wanted));
      case "allOf":
        return schemasOf(wanted, keyword).every((part) => this.validates(value, part));
      case "anyOf":
        return count(schemasOf(wanted, keyword)) > 0;
      case "oneOf":
        return count(schemasOf(wanted, keyword)) === 1;
      case "not":
        return !valid(value, wanted);
      case "if": {
        const then = valid(value, wanted) ? schema["then"] : schema["else"];
        return then === undefined || valid(value, then);
      }
      default:
        if (typeof value === "number") return numberHolds(value, wanted, keyword);
        if (typeof value === "string") return textHolds(value, wanted, keyword);
        if (Array.isArray(value)) return this.listHolds(value as readonly Json[], schema, keyword);
        return value === null || typeof value !== "object" || this.objectHolds(value as Readonly<Record<string, Json>>, schema, keyword);
    }
  }

  private listHolds(list: readonly Json[], schema: Schema, keyword: string): boolean {
    const wanted = schema[keyword];
    const prefix = (schema["prefixItems"] ?? (Array.isArray(schema["items"]) ? schema["items"] : [])) as unknown[];
    const every = (items: readonly Json[], part: unknown) => items.every((item) => this.validates(item, schemaOf(part, keyword)));
    switch (keyword) {
      case "minItems":
        return list.length >= Number(wanted);
      case "maxItems":
        return list.length <= Number(wanted);
      case "uniqueItems":
        return wanted !== true || list.every((item, i) => !list.slice(0, i).some((other) => same(item, other)));
      case "prefixItems":
        return prefix.every((part, i) => i >= list.length || every(list.slice(i, i + 1), part));
      case "items":
        return Array.isArray(wanted)
          ? wanted.every((part, i) => i >= list.length || every(list.slice(i, i + 1), part))
          : every(list.slice(prefix.length), wanted);
      case "additionalItems":
        return every(list.slice(prefix.length), wanted);
      case "contains":
        return list.filter((item) => this.validates(item, schemaOf(wanted, keyword))).length >= Number(schema["minContains"] ?? 1);
      case "unevaluatedItems":
        return refuse("unevaluatedItems beside an enum, which is not supported");
      default:
        return true;
    }
  }

  private objectHolds(object: Readonly<Record<string, Json>>, schema: Schema, keyword: string): boolean {
    const wanted = schema[keyword];
    const names = Object.keys(object);
    switch (keyword) {
      case "required":
        return textsOf(wanted, keyword).every((name) => Object.hasOwn(object, name));
      case "properties":
        return mapOf(wanted, keyword).every(([name, part]) => !Object.hasOwn(object, name) || this.validates(object[name] ?? null, part));
      case "minProperties":
        return names.length >= Number(wanted);
      case "maxProperties":
        return names.length <= Number(wanted);
      case "propertyNames":
        return names.every((name) => this.validates(name, schemaOf(wanted, keyword)));
      case "patternProperties":
        return mapOf(wanted, keyword).every(([pattern, part]) =>
          names.every((name) => !expressionOf(pattern).test(name) || this.validates(object[name] ?? null, part)),
        );
      case "additionalProperties": {
        const own = Object.keys(schema["properties"] ?? {});
        const patterns = Object.keys((schema["patternProperties"] ?? {}) as Schema).map((pattern) => expressionOf(pattern));
        const others = names.filter((name) => !own.includes(name) && !patterns.some((pattern) => pattern.test(name)));
        return others.every((name) => this.validates(object[name] ?? null, schemaOf(wanted, keyword)));
      }
      case "unevaluatedProperties":
      case "dependentRequired":
      case "dependentSchemas":
      case "dependencies":
        return refuse(`${keyword} beside an enum, which is not supported`);
      default:
        return true;
    }
  }
}

function decoded(reference: string): string | undefined {
  try {
    return decodeURIComponent(reference.slice(1));
  } catch {
    return undefined;
  }
}

function isOfType(value: Json, name: TypeName): boolean {
  switch (name) {
    case "null":
      return value === null;
    case "array":
      return Array.isArray(value);
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value);
    case "integer":
      return Number.isInteger(value);
    case "boolean":
    case "number":
    case "string":
      return typeof value === name;
  }
}

function numberHolds(value: number, wanted: unknown, keyword: string): boolean {
  const bound = Number(wanted);
  switch (keyword) {
    case "minimum":
      return value >= bound;
    case "maximum":
      return value <= bound;
    case "exclusiveMinimum":
      return value > bound;
    case "exclusiveMaximum":
      return value < bound;
    case "multipleOf":
      return Number.isInteger(value / bound);
    case FRACTIONAL:
      return !Number.isInteger(value);
    default:
      return true;
  }
}

function textHolds(value: string, wanted: unknown, keyword: string): boolean {
  switch (keyword) {
    case "minLength":
      return Array.from(value).length >= Number(wanted);
    case "maxLength":
      return Array.from(value).length <= Number(wanted);
    case "pattern":
      return expressionOf(wanted).test(value);
    case NOT_PATTERN:
      return !expressionOf(wanted).test(value);
    case "format":
      return isOfFormat(value, wanted);
    default:
      return true;
  }
}

function expressionOf(pattern: unknown): RegExp {
  try {
    return new RegExp(String(pattern), "u");
  } catch {
    return refuse("a pattern that is no regular expression", pattern);
  }
}

/** Schemas of what has none of these types. */
function otherTypes(names: readonly string[]): AnySchema[] {
  const isPart = (name: string) => (name === "number" && names.includes("integer")) || (name === "integer" && names.includes("number"));
  const others = TYPES.filter((name) => !names.includes(name) && !isPart(name));
  const fractions = names.includes("integer") && !names.includes("number") ? [{ type: "number", [FRACTIONAL]: true }] : [];
  return [...(others.length === 0 ? [] : [{ type: others }]), ...fractions];
}
