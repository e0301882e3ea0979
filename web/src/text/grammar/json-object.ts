// Objects of a JSON Schema as expressions: named members in the schema's order, then others where it allows them.

import { type Automaton, automatonOf, EVERYTHING, grammarOf, intersect, isEmpty, words } from "./automaton";
import { choice, EMPTY, type Expression, isNever, optional, repeat, rule, sequence, text } from "./expression";
import type { Compiler, Together } from "./schema-compiler";
import { textsOfAll } from "./json-string";
import { AFTER_COLON, CHARACTER, SPACE, spelled } from "./json-text";
import { parseRegex } from "./regex";
import { type AnySchema, DERIVED, mapOf, numberOf, refuse, type Schema, schemaOf, textsOf, typesOf } from "./schema-keywords";

const MOST_PATTERNS = 4;

/** What one schema says of members. */
interface Members {
  named: Map<string, AnySchema>;
  patterns: [string, AnySchema][];
  others: AnySchema;
}

function membersOf(schema: Schema): Members {
  const { properties = {}, patternProperties = {}, additionalProperties } = schema;
  return {
    named: new Map(mapOf(properties, "properties")),
    patterns: mapOf(patternProperties, "patternProperties"),
    others: schemaOf(additionalProperties ?? true, "additionalProperties"),
  };
}

/** Says of others than the named members anything at all. */
function mentionsOthers(schema: Schema): boolean {
  return ["additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"].some(
    (keyword) => schema[keyword] !== undefined,
  );
}

interface Counts {
  least: number;
  most: number;
}

export function objectOf(compiler: Compiler, together: Together): Expression {
  const all = (keyword: string) => together.flatMap((schema) => numberOf(schema, keyword, 0) ?? []);
  const counts: Counts = { least: Math.max(0, ...all("minProperties")), most: Math.min(Infinity, ...all("maxProperties")) };
  const members = together.map(membersOf);
  const required = new Set(together.flatMap((schema) => (schema["required"] === undefined ? [] : textsOf(schema["required"], "required"))));
  const names = [...new Set([...members.flatMap(({ named }) => [...named.keys()]), ...required])];
  const unevaluated = together.flatMap((schema) =>
    schema["unevaluatedProperties"] === undefined ? [] : [schemaOf(schema["unevaluatedProperties"], "unevaluatedProperties")],
  );
  const nameSchemas = together.flatMap((schema) =>
    schema["propertyNames"] === undefined ? [] : [schemaOf(schema["propertyNames"], "propertyNames")],
  );
  const valueOf = (name: string): Expression => {
    if (!nameSchemas.every((schema) => compiler.document.validates(name, schema))) return choice();
    const conditions = members.flatMap((part) => conditionsOf(part, name));
    const evaluated = members.some(
      ({ named, patterns }) => named.has(name) || patterns.some(([pattern]) => new RegExp(pattern, "u").test(name)),
    );
    return compiler.value([...conditions, ...(evaluated ? [] : unevaluated)]);
  };
  const pairs = names.map((name) => ({ name, needed: required.has(name), pair: pairOf(text(JSON.stringify(name)), valueOf(name)) }));
  // Members that nobody spoke of are left out where others are named: answers then end.
  const said = together.filter((schema) => schema[DERIVED] === undefined);
  const naming = said.some((schema) => schema["properties"] !== undefined || schema["required"] !== undefined);
  const closed = naming && counts.least <= names.length && !said.some(mentionsOthers);
  const others = closed ? [] : othersOf(compiler, members, names, nameSchemas, unevaluated);
  return sequence(text("{"), SPACE, membersFrom(compiler, pairs, others, counts), SPACE, text("}"));
}

const pairOf = (name: Expression, value: Expression): Expression => sequence(name, text(":"), AFTER_COLON, value);
const COMMA = sequence(text(","), SPACE);

function conditionsOf({ named, patterns, others }: Members, name: string): AnySchema[] {
  const own = named.get(name);
  const matching = patterns.filter(([pattern]) => new RegExp(pattern, "u").test(name)).map(([, schema]) => schema);
  return own === undefined && matching.length === 0 ? [others] : [...(own === undefined ? [] : [own]), ...matching];
}

/** Pairs of members without a name of their own, a kind for each set of patterns that a name may match. */
function othersOf(
  compiler: Compiler,
  members: readonly Members[],
  names: readonly string[],
  nameSchemas: readonly AnySchema[],
  unevaluated: readonly AnySchema[],
): Expression[] {
  const patterns = [...new Set(members.flatMap((part) => part.patterns.map(([pattern]) => pattern)))];
  if (patterns.length > MOST_PATTERNS) refuse(`more than ${MOST_PATTERNS} patternProperties at a place, which is not supported`, patterns);
  const automata = patterns.map((pattern) => automatonOf(parseRegex(pattern), true));
  const free = patterns.length === 0 && nameSchemas.length === 0 && names.length === 0;
  let possible = nameSchemas.reduce<Automaton>((found, schema) => intersect(found, namesOf(compiler, schema)), EVERYTHING);
  if (names.length > 0) possible = intersect(possible, words(names), true);
  return Array.from({ length: 2 ** patterns.length }, (_, set) => {
    const matches = (pattern: string) => ((set >> patterns.indexOf(pattern)) & 1) === 1;
    const conditions = members.flatMap((part) => {
      const own = part.patterns.filter(([pattern]) => matches(pattern)).map(([, schema]) => schema);
      return own.length === 0 ? [part.others] : own;
    });
    const value = [...conditions, ...(set === 0 ? unevaluated : [])];
    if (value.includes(false)) return choice();
    if (free) return pairOf(sequence(text('"'), repeat(CHARACTER, 0, Infinity), text('"')), compiler.value(value));
    const allowed = automata.reduce((found, automaton, i) => intersect(found, automaton, !matches(patterns[i] ?? "")), possible);
    if (isEmpty(allowed)) return choice();
    return pairOf(sequence(text('"'), grammarOf(allowed, spelled, compiler.add), text('"')), compiler.value(value));
  });
}

/** The names that a schema allows. */
function namesOf(compiler: Compiler, schema: AnySchema): Automaton {
  const alternatives = compiler.alternatives([schema]).filter((together) => together.every((part) => typesOf(part).includes("string")));
  const [together, ...more] = alternatives;
  if (more.length > 0) return refuse("propertyNames of several alternatives, which is not supported", schema);
  if (together === undefined) return words([]);
  const listed = compiler.listed(together);
  return listed === undefined ? textsOfAll(together, []) : words(listed.filter((value) => typeof value === "string"));
}

function membersFrom(
  compiler: Compiler,
  pairs: readonly { needed: boolean; pair: Expression }[],
  others: readonly Expression[],
  { least, most }: Counts,
): Expression {
  const other = choice(...others);
  // So many members make no difference any more.
  const enough = Math.max(1, most === Infinity ? least : most);
  const known = new Map<string, string>();
  const behind = (i: number, count: number): Expression => {
    const comma = count === 0 ? EMPTY : COMMA;
    const entry = pairs[i];
    if (entry === undefined) return lastOf(other, comma, least - count, most - count);
    const key = `${i},${count}`;
    const name =
      known.get(key) ??
      compiler.add((own) => {
        known.set(key, own);
        const taken = count >= most ? choice() : sequence(comma, entry.pair, behind(i + 1, Math.min(enough, count + 1)));
        return entry.needed ? taken : choice(taken, behind(i + 1, count));
      });
    return rule(name);
  };
  return most < least ? choice() : behind(0, 0);
}

/** Members without names of their own, `least` to `most`. */
function lastOf(other: Expression, comma: Expression, least: number, most: number): Expression {
  // Two of them may have the same name, and are one then.
  if (least > 1 && !isNever(other)) refuse("minProperties of more than one member without a name, which is not supported", least);
  if (least > 1) return choice();
  if (most <= 0) return least > 0 ? choice() : EMPTY;
  const more = repeat(sequence(COMMA, other), 0, most - 1);
  const some = sequence(comma, other, more);
  return least > 0 ? some : optional(some);
}
