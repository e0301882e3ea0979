// JSON Schemas by the feature that they show, more than two hundred with those that are put together of others; and schemas that
// are refused, with the word that the refusal has to hold.

export type Schema = boolean | Record<string, unknown>;

const object = (properties: Record<string, Schema>, more: Record<string, unknown> = {}): Schema => ({
  type: "object",
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
  ...more,
});
const list = (items: Schema, more: Record<string, unknown> = {}): Schema => ({ type: "array", items, maxItems: 4, ...more });

const word: Schema = { type: "string", pattern: "^[a-z]{1,8}$" };
const small: Schema = { type: "integer", minimum: 0, maximum: 99 };
const color: Schema = { enum: ["red", "green", "dark blue"] };

export const FEATURES: Record<string, Schema[]> = {
  type: [
    { type: "string", maxLength: 20 },
    { type: "integer" },
    { type: "number" },
    { type: "boolean" },
    { type: "null" },
    { type: "array", maxItems: 3 },
    { type: "object", maxProperties: 3 },
    { type: ["string", "null"], maxLength: 5 },
    { type: ["integer", "boolean"] },
    { type: ["number", "integer"] },
  ],
  "true, {}": [object({ a: true }), object({ a: {} }), list({})],
  enum: [
    color,
    { enum: [1, 2.5, null, true, "x", [1, "a"], { b: 1 }] },
    { type: "string", enum: ["a", 1, "b"] },
    { enum: ["2026-02-30", "2026-02-28", "2024-02-29", "2023-02-29"], format: "date" },
    { enum: ["a", "bb", "ccc", "c"], pattern: "^[bc]", maxLength: 2 },
    { enum: ["::1", "1.2.3.4", "x"], format: "ipv6" },
    { const: "mailto:a@b.c", format: "uri" },
    { enum: [1, 2.5, 4, 9], minimum: 2, multipleOf: 2 },
    { enum: [{ a: 1 }, { a: 1, b: 2 }, []], minProperties: 2, minItems: 1 },
    { enum: ['quote " and \\', "tab\t", "é😀"] },
  ],
  const: [{ const: 42 }, { const: { a: [1, "x", null] } }, object({ kind: { const: "point" } }), { const: "" }],
  "minLength, maxLength": [
    { type: "string", minLength: 3, maxLength: 5 },
    { type: "string", minLength: 0, maxLength: 1 },
    { type: "string", minLength: 4, maxLength: 4 },
    { type: "string", maxLength: 0 },
    object({ name: { type: "string", minLength: 1, maxLength: 200 } }),
  ],
  pattern: [
    word,
    { type: "string", pattern: "^a+b$" },
    { type: "string", pattern: "ab", maxLength: 12 },
    { type: "string", pattern: "^\\d{3}-\\w+$", maxLength: 12 },
    { type: "string", pattern: "^(foo|bar)(baz)?$" },
    { type: "string", pattern: "^[^\\s]{2,6}$" },
    { type: "string", pattern: '^["\\\\/]{1,4}$' },
    { type: "string", pattern: "^\\p{Lu}\\p{Ll}{1,6}$" },
    { type: "string", pattern: "^x", maxLength: 5 },
    { type: "string", pattern: "x$", maxLength: 5 },
    { type: "string", pattern: "^a$|^b$" },
    { type: "string", pattern: "^[\\u00e0-\\u00ff]{2}$" },
    { type: "string", pattern: "^.{3}$" },
    { type: "string", pattern: "^a*$", minLength: 2, maxLength: 6 },
    { type: "string", pattern: "^(?:[a-z]+)(?:, [a-z]+)*$", maxLength: 16 },
  ],
  format: ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"].map((format) => ({
    type: "string",
    format,
  })),
  "minimum, maximum": [
    small,
    { type: "integer", minimum: -5, maximum: 5 },
    { type: "integer", minimum: 1000 },
    { type: "integer", maximum: -1 },
    { type: "integer", minimum: 17, maximum: 123456 },
    { type: "number", minimum: 1.5, maximum: 20 },
    { type: "number", minimum: 0.2, maximum: 0.25 },
    { type: "number", minimum: -0.75, maximum: 0.75 },
    { type: "number", minimum: -1000.125, maximum: -2 },
    { type: "number", minimum: 0 },
    { type: "number", maximum: 3.14159 },
    { type: "number", minimum: 1e-7, maximum: 2e-7 },
    { type: "number", minimum: 0, maximum: 1 },
    { type: "integer", minimum: 7, maximum: 7 },
    { type: "integer", minimum: 0.5, maximum: 3.5 },
  ],
  "exclusiveMinimum, exclusiveMaximum": [
    { type: "integer", exclusiveMinimum: 3, exclusiveMaximum: 10 },
    { type: "number", exclusiveMinimum: 0 },
    { type: "number", exclusiveMinimum: 0, exclusiveMaximum: 1 },
    { type: "number", exclusiveMaximum: 100 },
    { type: "integer", exclusiveMinimum: -2, maximum: 0 },
    { type: "number", exclusiveMinimum: 0.1, exclusiveMaximum: 0.11 },
    { type: "number", minimum: -1, exclusiveMaximum: -0.5 },
  ],
  multipleOf: [
    { type: "integer", multipleOf: 5, minimum: 0, maximum: 1000 },
    { type: "integer", multipleOf: 7 },
    { type: "number", multipleOf: 12, minimum: -100, maximum: 100 },
    { type: "integer", allOf: [{ multipleOf: 2 }, { multipleOf: 3 }], minimum: 1, maximum: 600 },
  ],
  "properties, required": [
    object({ name: word, age: small }),
    { type: "object", properties: { a: small, b: small, c: small }, required: ["b"], additionalProperties: false },
    { type: "object", properties: { a: small, b: small }, additionalProperties: false },
    { type: "object", properties: { a: small, b: false }, additionalProperties: false },
    { type: "object", properties: { a: small } },
    { type: "object", required: ["x", "y"], additionalProperties: small },
    object({ "a b": small, 'q"uote': small, é: small, "": small }),
    { properties: { a: small }, type: "object", required: ["a", "b"] },
    object({ deep: object({ deeper: object({ deepest: word }) }) }),
    object({}),
  ],
  additionalProperties: [
    { type: "object", additionalProperties: small, maxProperties: 3 },
    { type: "object", properties: { a: { type: "null" } }, additionalProperties: small, maxProperties: 4 },
    { type: "object", properties: { a: { const: 1 } }, required: ["a"], additionalProperties: { type: "boolean" }, maxProperties: 4 },
    { type: "object", additionalProperties: false },
    { type: "object", properties: { ab: small, abc: small }, additionalProperties: { const: "other" }, maxProperties: 3 },
  ],
  patternProperties: [
    { type: "object", patternProperties: { "^x_": small }, additionalProperties: false, maxProperties: 3 },
    { type: "object", patternProperties: { "^x": small, y$: { minimum: 50 } }, additionalProperties: { type: "null" }, maxProperties: 4 },
    {
      type: "object",
      properties: { xa: { type: "integer" } },
      patternProperties: { "^x": { maximum: 9, minimum: 0 } },
      additionalProperties: false,
      maxProperties: 3,
    },
  ],
  propertyNames: [
    { type: "object", propertyNames: { pattern: "^[a-z]{1,4}$" }, additionalProperties: small, maxProperties: 3 },
    { type: "object", propertyNames: { enum: ["one", "two"] }, additionalProperties: small },
    { type: "object", propertyNames: { minLength: 2, maxLength: 3 }, additionalProperties: { type: "null" }, maxProperties: 2 },
  ],
  "minProperties, maxProperties": [
    { type: "object", properties: { a: small, b: small, c: small }, minProperties: 2, additionalProperties: false },
    { type: "object", properties: { a: small, b: small, c: small }, minProperties: 1, maxProperties: 1, additionalProperties: false },
    { type: "object", additionalProperties: small, minProperties: 1, maxProperties: 2 },
    {
      type: "object",
      properties: { a: small, b: small, c: small, d: small },
      required: ["d"],
      maxProperties: 2,
      additionalProperties: false,
    },
  ],
  items: [
    list(small),
    list(list(word)),
    list(object({ id: small, tags: list(word) })),
    { type: "array", items: false },
    { type: "array", items: { type: "null" }, maxItems: 2 },
  ],
  prefixItems: [
    { type: "array", prefixItems: [word, small], items: false },
    { type: "array", prefixItems: [word, small], items: { type: "boolean" }, minItems: 2, maxItems: 4 },
    { type: "array", prefixItems: [word, false] },
    { type: "array", prefixItems: [small, small, small], minItems: 3, maxItems: 3 },
  ],
  "minItems, maxItems": [
    list(small, { minItems: 2, maxItems: 3 }),
    list(small, { minItems: 4, maxItems: 4 }),
    list(small, { maxItems: 0 }),
    { type: "array", items: { type: "boolean" }, minItems: 12, maxItems: 14 },
  ],
  contains: [
    { type: "array", items: { type: "integer", minimum: 0, maximum: 999 }, contains: { minimum: 500 }, maxItems: 3 },
    { type: "array", contains: { const: "here" }, maxItems: 2 },
    { type: "array", items: word, contains: { pattern: "^a" }, minContains: 2, maxItems: 4 },
  ],
  uniqueItems: [
    list(color, { uniqueItems: true }),
    list(color, { uniqueItems: true, minItems: 2 }),
    list({ enum: [1, 2, 3, 4, 5] }, { uniqueItems: true, maxItems: 3 }),
    list(small, { uniqueItems: true, maxItems: 1 }),
  ],
  anyOf: [
    { anyOf: [word, small] },
    { anyOf: [object({ a: small }), object({ b: word })] },
    { type: "object", properties: { a: small, b: small }, anyOf: [{ required: ["a"] }, { required: ["b"] }], additionalProperties: false },
    { anyOf: [{ type: "string", maxLength: 3 }, { type: "null" }] },
    { anyOf: [false, small] },
    object({ value: { anyOf: [{ type: "null" }, list(small)] } }),
  ],
  oneOf: [
    { oneOf: [{ type: "string", maxLength: 4 }, { type: "integer" }] },
    { oneOf: [object({ kind: { const: "a" }, x: small }), object({ kind: { const: "b" }, y: word })] },
    {
      oneOf: [
        { type: "integer", minimum: 0, maximum: 50 },
        { type: "integer", minimum: 30, maximum: 90 },
      ],
    },
    { oneOf: [{ enum: ["a", "b"] }, { enum: ["b", "c"] }] },
    { oneOf: [{ type: "integer" }, { type: "number" }] },
    { oneOf: [{ type: "integer" }, { type: "number", minimum: 0, maximum: 9 }] },
    {
      oneOf: [
        { type: "string", maxLength: 3 },
        { type: "string", pattern: "^x", maxLength: 6 },
      ],
    },
    { type: "object", properties: { a: small, b: small }, oneOf: [{ required: ["a"] }, { required: ["b"] }], additionalProperties: false },
  ],
  allOf: [
    {
      allOf: [
        { type: "object", properties: { a: small }, required: ["a"] },
        { type: "object", properties: { b: word }, required: ["b"] },
      ],
    },
    { allOf: [{ type: "integer", minimum: 5 }, { maximum: 8 }] },
    { allOf: [{ type: ["string", "integer"] }, { type: ["integer", "null"] }] },
    { allOf: [{ enum: [1, 2, 3] }, { enum: [2, 3, 4] }, { minimum: 3 }] },
    { allOf: [{ type: "string", pattern: "^a", maxLength: 8 }, { pattern: "z$" }] },
    { allOf: [{ type: "array", items: { minimum: 3 }, maxItems: 4 }, { items: { type: "integer", maximum: 5 } }] },
    { type: "object", properties: { a: small }, allOf: [{ properties: { a: { minimum: 50 } }, required: ["a"] }] },
  ],
  not: [
    { type: ["string", "integer", "null"], maxLength: 4, not: { type: "string" } },
    { type: "string", maxLength: 6, not: { enum: ["a", "b", ""] } },
    { type: "string", pattern: "^[a-c]{1,3}$", not: { pattern: "b" } },
    { type: "integer", minimum: 0, maximum: 99, not: { minimum: 20 } },
    { type: "object", properties: { a: small, b: small }, not: { required: ["a"] }, additionalProperties: false },
    { type: "boolean", not: { const: true } },
    { type: "string", maxLength: 5, not: { maxLength: 2 } },
    { enum: [1, 2, 3, 4], not: { enum: [2, 3] } },
  ],
  "if, then, else": [
    {
      ...(object({ kind: { enum: ["circle", "square"] } }) as Record<string, unknown>),
      properties: { kind: { enum: ["circle", "square"] }, radius: small, side: small },
      if: { properties: { kind: { const: "circle" } } },
      then: { required: ["radius"] },
      else: { required: ["side"] },
    },
    { type: ["string", "integer"], if: { type: "string" }, then: { minLength: 2, maxLength: 4 }, else: { minimum: 0, maximum: 9 } },
    { type: "integer", minimum: 0, maximum: 100, if: { minimum: 50 }, then: { multipleOf: 10 } },
  ],
  "dependentRequired, dependentSchemas": [
    { type: "object", properties: { a: small, b: small }, dependentRequired: { a: ["b"] }, additionalProperties: false },
    {
      type: "object",
      properties: { card: small, address: word },
      dependentSchemas: { card: { required: ["address"], properties: { card: { minimum: 10 } } } },
      additionalProperties: false,
    },
  ],
  "unevaluatedProperties, unevaluatedItems": [
    { type: "object", allOf: [{ properties: { a: small }, required: ["a"] }], properties: { b: word }, unevaluatedProperties: false },
    { type: "object", properties: { a: small }, unevaluatedProperties: { type: "boolean" }, maxProperties: 3 },
    { type: "array", prefixItems: [small], unevaluatedItems: false },
  ],
  "$ref, $defs, definitions": [
    {
      $defs: { name: word },
      type: "object",
      properties: { first: { $ref: "#/$defs/name" }, last: { $ref: "#/$defs/name" } },
      required: ["first", "last"],
      additionalProperties: false,
    },
    { $ref: "#/definitions/n", definitions: { n: object({ v: small, next: { anyOf: [{ $ref: "#/definitions/n" }, { type: "null" }] } }) } },
    {
      type: "object",
      properties: { v: small, children: { type: "array", items: { $ref: "#" }, maxItems: 2 } },
      required: ["v"],
      additionalProperties: false,
    },
    {
      $defs: { s: { type: "string", maxLength: 9 } },
      type: "object",
      properties: { a: { $ref: "#/$defs/s", minLength: 3 } },
      required: ["a"],
    },
    { $defs: { here: { $anchor: "spot", type: "integer" } }, type: "array", items: { $ref: "#spot" }, maxItems: 3 },
    {
      $defs: { "a/b": small, "c~d": word },
      type: "array",
      prefixItems: [{ $ref: "#/$defs/a~1b" }, { $ref: "#/$defs/c~0d" }],
      items: false,
      minItems: 2,
    },
  ],
  "title, description, default, examples, $comment": [
    { title: "T", description: "D", default: 1, examples: [2], $comment: "c", deprecated: true, readOnly: false, type: "integer" },
    {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      $id: "https://example.org/a",
      ...(object({ a: { ...(small as object), title: "A" } }) as object),
    },
  ],
};

/** Objects and lists of what the features show. */
export const COMBINED: Schema[] = (() => {
  const all = Object.values(FEATURES).flat();
  const embeddable = all.filter((schema) => !JSON.stringify(schema).includes('"$'));
  return Array.from({ length: 50 }, (_, i): Schema => {
    const pick = (n: number): Schema => embeddable[(i * 37 + n * 61) % embeddable.length] ?? true;
    return i % 2 === 0
      ? object({ first: pick(0), second: pick(1) })
      : { type: "array", prefixItems: [pick(0), pick(1)], items: false, minItems: 1 };
  });
})();

export const REFUSED: [string, Schema][] = [
  ["uniqueItems", { type: "array", items: { type: "integer" }, uniqueItems: true }],
  ["multipleOf", { type: "number", multipleOf: 0.01 }],
  ["maxContains", { type: "array", contains: { type: "integer" }, maxContains: 2 }],
  ["$dynamicRef", { $dynamicRef: "#a" }],
  ["format", { type: "string", format: "idn-email" }],
  ["a $ref that leads out of it", { $ref: "https://example.org/other.json" }],
  ["a $ref to what is not there", { $ref: "#/$defs/none" }],
  ["refers to itself", { $ref: "#" }],
  ["lookaround", { type: "string", pattern: "^(?=a)" }],
  ["a reference back", { type: "string", pattern: "(a)\\1" }],
  ["a word boundary", { type: "string", pattern: "\\bword\\b" }],
  ["minProperties", { type: "object", additionalProperties: { type: "integer" }, minProperties: 2 }],
  ["whose opposite is not supported", { not: { properties: { a: { format: "date" } } } }],
  ["no valid value", { type: "string", enum: [1, 2] }],
  ["no valid value", { allOf: [{ type: "string" }, { type: "integer" }] }],
  ["no valid value", { type: "object", properties: { self: { $ref: "#" } }, required: ["self"] }],
  ["no valid value", false],
  ["no valid value", { enum: ["x", "yy"], format: "date" }],
  ["no valid value", { enum: ["x", "yy"], pattern: "^z" }],
  ["no fragment", { $ref: "#%" }],
  ["a pattern that is no regular expression", { enum: ["a"], pattern: "(" }],
  ["an unknown type", { type: "text" }],
  ["minLenght", { type: "string", minLenght: 3 }],
  ["no number as minimum", { minimum: "3" }],
];
