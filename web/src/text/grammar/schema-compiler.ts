// What the parts of the compiler of JSON Schemas need of the whole. Types only.

import type { Expression } from "./expression";
import type { AnySchema, Document, Json, Schema } from "./schema-keywords";

/** Plain schemas that hold together. */
export type Together = readonly Schema[];

export interface Compiler {
  readonly document: Document;
  /** A new rule, whose name is known while its body is made. */
  readonly add: (make: (name: string) => Expression) => string;
  /** What is valid against all of `schemas`: a rule, made once. */
  value(schemas: readonly AnySchema[]): Expression;
  alternatives(schemas: readonly AnySchema[]): Together[];
  /** The values of enum and const that are valid; undefined where there is neither. */
  listed(together: Together): Json[] | undefined;
}
