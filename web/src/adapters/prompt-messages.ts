// What the Prompt API's callers pass, checked and turned into the engine's own requests; what goes wrong, as DOMExceptions. No session.

import type { ChatMessage, ChatRequest, ResponseFormat } from "../api/types";

export interface LanguageModelMessageContent {
  /** Models read text only. */
  type: "text" | "image" | "audio";
  value: unknown;
}

export interface LanguageModelMessage {
  role: "system" | "user" | "assistant";
  content: string | LanguageModelMessageContent[];
  /** Of the last one, the assistant's: the answer goes on behind it. */
  prefix?: boolean;
}

export type LanguageModelPrompt = string | LanguageModelMessage[];

/** A JSON schema, or an expression that the whole answer matches. */
export type ResponseConstraint = RegExp | Record<string, unknown>;

/** As sessions keep them: text. */
export type Said = ChatMessage & { content: string };

export interface Prompt {
  messages: Said[];
  /** The last message is the beginning of the answer. */
  continues: boolean;
}

export class QuotaExceeded extends DOMException {
  constructor(
    message: string,
    readonly requested: number,
    readonly quota: number,
  ) {
    super(message, "QuotaExceededError");
  }
}

/** @param initial of create(): the first may be what the system says */
export function checkPrompt(input: unknown, initial = false): Prompt {
  const list: unknown[] = Array.isArray(input) ? input : [{ role: "user", content: input }];
  if (list.length === 0 && !initial) throw new TypeError("prompt: got no message, expected at least one");
  const prefix = list.map((item) => (item as Partial<LanguageModelMessage> | null)?.prefix === true);
  const messages = list.map((item, i): Said => {
    const { role, content } = (item ?? {}) as { role?: unknown; content?: unknown };
    if (role !== "user" && role !== "assistant" && !(role === "system" && initial && i === 0))
      throw new TypeError(`role: got ${String(role)}, expected user or assistant, or system first in initialPrompts`);
    if (prefix[i] === true && (initial || role !== "assistant" || i < list.length - 1))
      throw new DOMException("prefix: expected of a prompt's last message alone, the assistant's", "SyntaxError");
    return { role, content: textOf(content) };
  });
  return { messages, continues: prefix.at(-1) === true };
}

function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) throw new TypeError(`content: got ${typeof content}, expected a string or a list of parts`);
  return content
    .map((part: Partial<LanguageModelMessageContent> | null) => {
      const { type, value } = part ?? {};
      if (type !== "text")
        throw new DOMException(
          `content: got a part of type ${String(type)}, expected text: the model reads text only`,
          "NotSupportedError",
        );
      if (typeof value !== "string") throw new TypeError(`content: got a text of type ${typeof value}, expected a string`);
      return value;
    })
    .join("");
}

export function formatOf(constraint: unknown): ResponseFormat | null {
  if (constraint === null || constraint === undefined) return null;
  if (constraint instanceof RegExp) {
    const meant = constraint.flags.replace(/[dgyuv]/g, ""); // the others ask for nothing of a whole answer
    if (meant !== "")
      throw new DOMException(`responseConstraint: got the flag ${meant}, expected an expression without`, "NotSupportedError");
    return { type: "regex", regex: constraint.source };
  }
  if (typeof constraint !== "object") throw new TypeError("responseConstraint: expected a JSON schema or a RegExp");
  return { type: "json_schema", json_schema: { name: "answer", schema: constraint, strict: true } };
}

/** The messages with a word on the constraint, at the end of the latest question. */
export function explained(messages: readonly Said[], format: ResponseFormat): Said[] {
  const text =
    format.type === "regex"
      ? `Answer with a text that this regular expression matches, and nothing else: ${format.regex}`
      : `Answer with JSON of this schema, and nothing else: ${JSON.stringify("json_schema" in format ? format.json_schema.schema : {})}`;
  const last = messages.findLastIndex(({ role }) => role === "user");
  return messages.map((message, i) => (i === last ? { ...message, content: `${message.content}\n\n${text}` } : message));
}

/** Ranges are the Prompt API's: what is too high is lowered. */
export function samplingOf({ temperature, topK }: { temperature?: number; topK?: number }): Pick<ChatRequest, "temperature" | "top_k"> {
  if (temperature !== undefined && !(temperature >= 0)) throw new RangeError(`temperature: got ${temperature}, expected at least 0`);
  if (topK !== undefined && !(topK >= 1)) throw new RangeError(`topK: got ${topK}, expected at least 1`);
  return {
    temperature: temperature === undefined ? null : Math.min(temperature, MAX_TEMPERATURE),
    top_k: topK === undefined ? null : Math.floor(Math.min(topK, MAX_TOP_K)),
  };
}

export const MAX_TEMPERATURE = 2;
export const MAX_TOP_K = 2 ** 31 - 1;

/** An engine's error by the names that the Prompt API has for it. */
export function domError(error: unknown): unknown {
  if (!(error instanceof Error) || !("kind" in error)) return error;
  const name = { request: "NotSupportedError", disposed: "InvalidStateError" }[String(error.kind)] ?? "OperationError";
  return Object.assign(new DOMException(error.message, name), { cause: error });
}
