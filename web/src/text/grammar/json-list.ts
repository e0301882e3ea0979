// Lists of a JSON Schema as expressions.

import { choice, EMPTY, type Expression, optional, repeat, rule, sequence, text } from "./expression";
import type { Compiler, Together } from "./schema-compiler";
import { SPACE } from "./json-text";
import { type AnySchema, numberOf, refuse, same, type Schema, schemaOf, schemasOf } from "./schema-keywords";

const COMMA = sequence(text(","), SPACE);
const MOST_UNIQUE = 7;

/** What a list's first items have to be, and what all behind them. */
function itemsOf(schema: Schema): { prefix: AnySchema[]; rest: AnySchema } {
  const { items, prefixItems, additionalItems, unevaluatedItems } = schema;
  if (unevaluatedItems !== undefined && unevaluatedItems !== true && unevaluatedItems !== false)
    refuse("a schema as unevaluatedItems, which is not supported", unevaluatedItems);
  const behind = unevaluatedItems === false ? false : true;
  if (Array.isArray(items)) return { prefix: schemasOf(items, "items"), rest: schemaOf(additionalItems ?? behind, "additionalItems") };
  const prefix = prefixItems === undefined ? [] : schemasOf(prefixItems, "prefixItems");
  return { prefix, rest: schemaOf(items ?? behind, "items") };
}

export function listOf(compiler: Compiler, together: Together): Expression {
  const all = (keyword: string) => together.flatMap((schema) => numberOf(schema, keyword, 0) ?? []);
  const least = Math.max(0, ...all("minItems"));
  const most = Math.min(Infinity, ...all("maxItems"));
  const parts = together.map(itemsOf);
  if (together.some((schema) => schema["unevaluatedItems"] === false) && parts.filter(({ prefix }) => prefix.length > 0).length > 1)
    refuse("unevaluatedItems beside several prefixItems, which is not supported");
  const containing = together.flatMap((schema) => contained(schema));
  const first = Math.max(containing.length, ...parts.map(({ prefix }) => prefix.length));
  const conditions = (i: number) => parts.map(({ prefix, rest }) => prefix[i] ?? rest);
  const rest = conditions(first);
  const heads = Array.from({ length: first }, (_, i) => compiler.value([...conditions(i), ...(containing[i] ?? [])]));
  const needed = Math.max(least, containing.length);
  const unique = together.some((schema) => schema["uniqueItems"] === true) && Math.min(most, rest.includes(false) ? first : Infinity) > 1;
  if (unique) {
    if (first > 0) return refuse("uniqueItems beside prefixItems or contains, which is not supported");
    return brackets(uniqueList(compiler, rest, needed, most));
  }
  return brackets(listFrom(heads, compiler.value(rest), needed, most));
}

const brackets = (inner: Expression): Expression => sequence(text("["), SPACE, inner, SPACE, text("]"));

/** Items that `contains` asks for, as what is asked of the first items of the list: a list may hold them anywhere, ours does there. */
function contained(schema: Schema): AnySchema[][] {
  if (schema["contains"] === undefined) return [];
  const count = numberOf(schema, "minContains", 0) ?? 1;
  return Array.from({ length: count }, () => [schemaOf(schema["contains"], "contains")]);
}

function listFrom(heads: readonly Expression[], rest: Expression, least: number, most: number): Expression {
  const comma = (i: number) => (i === 0 ? EMPTY : COMMA);
  const behind = (i: number): Expression => {
    if (i >= most) return EMPTY;
    const head = heads[i];
    if (head === undefined) {
      const more = sequence(COMMA, rest);
      if (i > 0) return repeat(more, Math.max(0, least - i), most - i);
      const some = sequence(rest, repeat(more, Math.max(0, least - 1), most - 1));
      return least > 0 ? some : optional(some);
    }
    const item = sequence(comma(i), head, behind(i + 1));
    return i < least ? item : optional(item);
  };
  return most < least ? choice() : behind(0);
}

/** Of listed values each at most once: a rule for each set of those that are left. */
function uniqueList(compiler: Compiler, schemas: readonly AnySchema[], least: number, most: number): Expression {
  const alternatives = compiler.alternatives(schemas.filter((schema) => schema !== true));
  const listed = alternatives.flatMap(
    (together) => compiler.listed(together) ?? refuse("uniqueItems of items that are not listed by enum or const, which is not supported"),
  );
  // Objects whose members stand in another order are the same.
  const apart = listed.filter((value, i) => !listed.slice(0, i).some((other) => same(value, other)));
  const values = new Set(apart.map((value) => JSON.stringify(value)));
  if (values.size > MOST_UNIQUE) refuse(`uniqueItems of more than ${MOST_UNIQUE} listed values, which is not supported`);
  if (least > values.size) return choice();
  const known = new Map<string, string>();
  const behind = (left: readonly string[]): Expression => {
    const taken = values.size - left.length;
    if (taken >= most || left.length === 0) return EMPTY;
    const key = left.join();
    const name =
      known.get(key) ??
      compiler.add(() =>
        choice(...left.map((value) => sequence(taken === 0 ? EMPTY : COMMA, text(value), behind(left.filter((other) => other !== value))))),
      );
    known.set(key, name);
    return taken < least ? rule(name) : optional(rule(name));
  };
  return behind([...values]);
}
