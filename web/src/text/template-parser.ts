// A file of its own, template.js, which only artifacts without a syntax tree need: a parser of chat templates in JavaScript.

import { Template } from "@huggingface/jinja";

/** @throws Error when the source is no template */
export function parseTemplate(source: string): (variables: Record<string, unknown>) => string {
  const template = new Template(source);
  return (variables) => template.render(variables);
}
