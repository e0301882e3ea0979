// What an answer's tokens must be, told as they come: the interface between what knows a meaning (a grammar, a tool's arguments)
// and the session, which knows tokens. No code.

/** A text, a value of a schema, a text. */
export interface Alternative {
  before: string;
  schema: unknown;
  after: string;
  /** Taken in its place where a grammar cannot hold all that it says. */
  otherwise?: unknown;
}

/** What an answer has to be, as a request says it. */
export type AnswerFormat =
  | { type: "json_object" }
  | { type: "json_schema"; schema: unknown }
  | { type: "grammar"; grammar: string }
  | { type: "regex"; regex: string }
  | { type: "alternatives"; alternatives: readonly Alternative[] };

export type Next =
  /** Any token may come. */
  | { kind: "any" }
  /** One of these: bit v % 32 of word v / 32 is token v. Stop tokens are among them where the answer may end. */
  | { kind: "some"; mask: Uint32Array<ArrayBuffer> }
  /** These have to come, in order. */
  | { kind: "forced"; tokens: readonly number[] }
  /** The answer is whole, and nothing may follow. */
  | { kind: "ended" };

export interface Constraint {
  next(): Next | Promise<Next>;
  /** `token` has come: one that the last next() allowed, or its next forced one. */
  accept(token: number): void;
}
