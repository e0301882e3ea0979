// Conversations as text: JSON that holds everything, checked when it is read, and Markdown for people. Knows no storage.

import type { FinishReason, ToolCall, Usage } from "../../api/types";
import { t } from "../texts";
import { readChoices } from "./choices";
import { childrenOf, type Conversation, leafAfter, type Message, pathTo } from "./conversation";
import { readPicture } from "./picture";

export interface Exported {
  conversation: Conversation;
  messages: readonly Message[];
}

const FORMAT = "wisp.conversations";
const VERSION = 1;

type Fields = Partial<Record<string, unknown>>;
const isObject = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);
const isId = (value: unknown): value is string => typeof value === "string" && /^[\w-]{1,64}$/.test(value);
const time = (value: unknown): number => (typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : 0);
const text = (value: unknown): string => (typeof value === "string" ? value : "");

const LONGEST_GOT = 60; // characters

/** In JSON's terms, which are the same in every language. */
function unexpected(field: string, found: Fields, expected: string): string {
  const got = found[field] === undefined ? "–" : JSON.stringify(found[field]).slice(0, LONGEST_GOT);
  return t("fault.expected", { field: JSON.stringify(field), got, expected });
}

/** A file that holds these conversations whole, branches and settings too. */
export function fileOf(exported: readonly Exported[]): string {
  const conversations = exported.map(({ conversation, messages }) => ({ ...conversation, messages }));
  return `${JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1)}\n`;
}

/** What such a file holds. @throws Error that names the file and what is wrong with it */
export function readFile(content: string, name: string): Exported[] {
  const refuse = (what: string): never => {
    throw new Error(t("transfer.refused", { name, why: what }));
  };
  let found: unknown;
  try {
    found = JSON.parse(content);
  } catch {
    return refuse(t("fault.json"));
  }
  if (!isObject(found)) return refuse(t("fault.json"));
  if (found["format"] !== FORMAT) return refuse(unexpected("format", found, JSON.stringify(FORMAT)));
  if (found["version"] !== VERSION) return refuse(unexpected("version", found, String(VERSION)));
  const list = found["conversations"];
  if (!Array.isArray(list)) return refuse(unexpected("conversations", found, "[…]"));
  return list.map((each: unknown, i) => readOne(each, (what) => refuse(t("fault.conversation", { number: i + 1, why: what }))));
}

/** The same with message ids of its own, so that it replaces nobody else's messages. */
export function withNewIds({ conversation, messages }: Exported): Exported {
  const ids = new Map(messages.map(({ id }) => [id, crypto.randomUUID()]));
  const renamed = (id: string | null) => (id === null ? null : (ids.get(id) ?? null));
  return {
    conversation: { ...conversation, leaf: renamed(conversation.leaf), forgotten: renamed(conversation.forgotten) },
    messages: messages.map((message) => ({ ...message, id: renamed(message.id) ?? message.id, parent: renamed(message.parent) })),
  };
}

function readOne(found: unknown, refuse: (what: string) => never): Exported {
  if (!isObject(found) || !isId(found["id"])) return refuse(t("fault.no-id"));
  const { id, messages: list } = found;
  if (!Array.isArray(list)) return refuse(unexpected("messages", found, "[…]"));
  const messages = list.map((each: unknown, i) =>
    readMessage(each, id, (what) => refuse(t("fault.message", { number: i + 1, why: what }))),
  );
  const byId = new Map(messages.map((message) => [message.id, message]));
  if (byId.size !== messages.length) return refuse(t("fault.same-id"));
  for (const { id: own, parent } of messages) {
    if (parent !== null && !byId.has(parent)) return refuse(t("fault.orphan", { id: own, parent }));
    const path = pathTo(byId, own);
    if (path[0]?.parent !== null) return refuse(t("fault.circle", { id: own }));
  }
  const children = childrenOf(byId);
  const newest = children.get(null)?.at(-1)?.id;
  const leaf = isId(found["leaf"]) && byId.has(found["leaf"]) ? found["leaf"] : newest === undefined ? null : leafAfter(children, newest);
  const conversation: Conversation = {
    ...{ id, title: text(found["title"]), named: found["named"] === true, pinned: found["pinned"] === true },
    ...{ created: time(found["created"]), updated: time(found["updated"]), deleted: null, leaf },
    model: typeof found["model"] === "string" ? found["model"] : null,
    persona: readPersonaOf(found["persona"]),
    choices: readChoices(found["choices"]),
    forgotten: isId(found["forgotten"]) && byId.has(found["forgotten"]) ? found["forgotten"] : null,
  };
  return { conversation, messages };
}

function readMessage(found: unknown, conversation: string, refuse: (what: string) => never): Message {
  if (!isObject(found) || !isId(found["id"])) return refuse(t("fault.no-id"));
  const { id, parent, role, content, reason } = found;
  if (parent !== null && !isId(parent)) return refuse(unexpected("parent", found, "id | null"));
  if (role !== "user" && role !== "assistant") return refuse(unexpected("role", found, '"user" | "assistant"'));
  if (typeof content !== "string") return refuse(unexpected("content", found, '"…"'));
  const message: Message = { id, conversation, parent, role, content, created: time(found["created"]) };
  if (role === "user") return message;
  const reasons: readonly unknown[] = ["stop", "length", "tool_calls", "abort"] satisfies FinishReason[];
  message.reason = reasons.includes(reason) ? (reason as FinishReason) : null;
  for (const field of ["thoughts", "problem", "model"] as const)
    if (typeof found[field] === "string" && found[field] !== "") message[field] = found[field];
  if (time(found["thoughtSeconds"]) > 0) message.thoughtSeconds = time(found["thoughtSeconds"]);
  const usage = readUsage(found["usage"]);
  if (usage !== null) message.usage = usage;
  const calls = Array.isArray(found["toolCalls"]) ? found["toolCalls"].flatMap(readCall) : [];
  if (calls.length > 0) message.toolCalls = calls;
  return message;
}

function readUsage(found: unknown): Usage | null {
  const details = isObject(found) ? found["prompt_tokens_details"] : undefined;
  const extra = isObject(found) ? found["extra"] : undefined;
  if (!isObject(found) || !isObject(extra)) return null;
  return {
    prompt_tokens: time(found["prompt_tokens"]),
    completion_tokens: time(found["completion_tokens"]),
    total_tokens: time(found["total_tokens"]),
    prompt_tokens_details: { cached_tokens: time(isObject(details) ? details["cached_tokens"] : 0) },
    extra: {
      prefill_tokens_per_second: time(extra["prefill_tokens_per_second"]),
      decode_tokens_per_second: time(extra["decode_tokens_per_second"]),
      time_to_first_token_s: time(extra["time_to_first_token_s"]),
      reused_tokens: time(extra["reused_tokens"]),
    },
  };
}

function readCall(found: unknown): ToolCall[] {
  const called = isObject(found) ? found["function"] : undefined;
  if (!isObject(found) || !isObject(called)) return [];
  return [{ id: text(found["id"]), type: "function", function: { name: text(called["name"]), arguments: text(called["arguments"]) } }];
}

function readPersonaOf(found: unknown): Conversation["persona"] {
  if (!isObject(found) || text(found["name"]) === "") return null;
  return { name: text(found["name"]), picture: readPicture(found["picture"]) };
}

/** What is shown of a conversation, for people and for other programs. */
export function asMarkdown({ title, leaf, choices, persona }: Conversation, messages: readonly Message[]): string {
  const path = pathTo(new Map(messages.map((message) => [message.id, message])), leaf);
  const system = choices.systemPrompt.trim();
  const parts = [`# ${title}`];
  if (system !== "") parts.push(`> ${system.replaceAll("\n", "\n> ")}`);
  for (const { role, content, model = "" } of path) {
    const who = role === "user" ? t("message.you") : (persona?.name ?? (model === "" ? t("message.model") : model));
    parts.push(`**${who}**`, content.trim());
  }
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}
