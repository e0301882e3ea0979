// Texts around values of JSON Schemas, one of several: the rest of a call of a function whose beginning is written already.

import type { Alternative } from "../../api/constraint";
import { RequestError } from "../../api/errors";
import { choice, type Expression, type Grammar, ROOT, rule, sequence, text } from "./expression";
import { grammarOfSchema } from "./json-schema";

/** @throws RequestError naming what of a schema is not supported */
export function grammarOfAlternatives(alternatives: readonly Alternative[]): Grammar {
  const rules = new Map<string, Expression>();
  const roots = alternatives.map(({ before, schema, after, otherwise }, i) => {
    const own = (name: string): string => `${i}.${name}`;
    for (const [name, expression] of grammarOfFirst([schema, ...(otherwise === undefined ? [] : [otherwise])]))
      rules.set(own(name), renamed(expression, own));
    return sequence(text(before), rule(own(ROOT)), text(after));
  });
  return new Map([[ROOT, choice(...roots)], ...rules]);
}

function grammarOfFirst([schema, ...others]: readonly unknown[]): Grammar {
  try {
    return grammarOfSchema(schema);
  } catch (error) {
    if (others.length === 0 || !(error instanceof RequestError)) throw error;
    return grammarOfFirst(others);
  }
}

function renamed(expression: Expression, name: (name: string) => string): Expression {
  switch (expression.type) {
    case "text":
    case "class":
      return expression;
    case "sequence":
    case "choice":
      return { type: expression.type, items: expression.items.map((item) => renamed(item, name)) };
    case "repeat":
      return { ...expression, item: renamed(expression.item, name) };
    case "rule":
      return rule(name(expression.name));
  }
}
