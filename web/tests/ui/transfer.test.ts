// Conversations as files: whole there and back, refused by name when they are not, and nothing of a file taken as it comes.
import { expect, test } from "vitest";
import { NOTHING_CHOSEN } from "../../src/ui/state/choices";
import type { Conversation, Message } from "../../src/ui/state/conversation";
import { readPicture } from "../../src/ui/state/picture";
import { asMarkdown, fileOf, readFile, withNewIds } from "../../src/ui/state/transfer";

const conversation: Conversation = {
  ...{ id: "c", title: "Rain", named: true, pinned: true, created: 1, updated: 9, deleted: null, model: "demo", leaf: "b2" },
  persona: { name: "Ada", picture: "🌧" },
  choices: { ...NOTHING_CHOSEN, systemPrompt: "Be\nbrief.", sampling: { temperature: 0.5, seed: 7 }, stop: ["END"], schema: "{}" },
  forgotten: "a",
};
const usage = {
  ...{ prompt_tokens: 3, completion_tokens: 4, total_tokens: 7, prompt_tokens_details: { cached_tokens: 1 } },
  extra: { prefill_tokens_per_second: 10, decode_tokens_per_second: 20, time_to_first_token_s: 0.5, reused_tokens: 1 },
};
const messages: Message[] = [
  { id: "a", conversation: "c", parent: null, role: "user", content: "What is <b>rain</b>?", created: 1 },
  { id: "b1", conversation: "c", parent: "a", role: "assistant", content: "Water.", created: 2, reason: "stop", model: "Demo", usage },
  {
    id: "b2",
    conversation: "c",
    parent: "a",
    role: "assistant",
    content: "Wet.",
    created: 3,
    reason: "abort",
    thoughts: "hm",
    thoughtSeconds: 2,
  },
];
const file = (change: (parsed: { conversations: Record<string, unknown>[] }) => void): string => {
  const parsed = JSON.parse(fileOf([{ conversation, messages }])) as { conversations: Record<string, unknown>[] };
  change(parsed);
  return JSON.stringify(parsed);
};
const message = (parsed: { conversations: Record<string, unknown>[] }, i: number) =>
  (parsed.conversations[0]?.["messages"] as Record<string, unknown>[])[i] ?? {};

test("all of it comes back", () => {
  expect(readFile(fileOf([{ conversation, messages }]), "f")).toEqual([{ conversation, messages }]);
});

test("ids of an import are its own, and lead where they led", () => {
  const read = withNewIds({ conversation, messages });
  const ids = read.messages.map(({ id }) => id);
  expect(new Set([...ids, ...messages.map(({ id }) => id)]).size).toBe(6);
  expect(read.messages.map(({ parent }) => parent)).toEqual([null, ids[0], ids[0]]);
  expect(read.conversation).toMatchObject({ leaf: ids[2], forgotten: ids[0] });
});

test.each([
  ["it is not JSON", "{"],
  ['"format" is "other", expected "wisp.conversations"', JSON.stringify({ format: "other" })],
  ['"version" is 2, expected 1', JSON.stringify({ format: "wisp.conversations", version: 2 })],
  ['"conversations" is –, expected […]', JSON.stringify({ format: "wisp.conversations", version: 1 })],
  ["conversation 1: it has no id", file(({ conversations }) => (conversations[0] = {}))],
  [
    'conversation 1: message 2: "role" is "system", expected "user" | "assistant"',
    file((parsed) => (message(parsed, 1)["role"] = "system")),
  ],
  ['message 1: "content" is ["x"], expected "…"', file((parsed) => (message(parsed, 0)["content"] = ["x"]))],
  ["message b1 comes after z", file((parsed) => (message(parsed, 1)["parent"] = "z"))],
  ["comes after itself", file((parsed) => (message(parsed, 0)["parent"] = "b1"))],
  ["two messages have the same id", file((parsed) => (message(parsed, 1)["id"] = "b2"))],
])("a file is refused by name: %s", (what, content) => {
  expect(() => readFile(content, "mine.json")).toThrow(`mine.json holds no conversations of Wisp: ${what}`.slice(0, 20));
  expect(() => readFile(content, "mine.json")).toThrow(what);
});

test("what is not known of a file is left out, and values out of range are nobody's choice", () => {
  const [read] = readFile(
    file((parsed) => {
      Object.assign(parsed.conversations[0] ?? {}, {
        leaf: "nowhere",
        choices: { systemPrompt: 3, sampling: { temperature: 99, top_k: 5 }, stop: ["", 4, "x"], other: true },
        persona: { name: "x", picture: "data:text/html,<script>" },
        deleted: 5,
      });
      Object.assign(message(parsed, 1), { usage: { total_tokens: "many" }, reason: "boredom", evil: true });
    }),
    "f",
  );
  expect(read?.conversation).toMatchObject({ leaf: "b2", deleted: null, persona: { name: "x", picture: "" } });
  expect(read?.conversation.choices).toEqual({ systemPrompt: "", sampling: { top_k: 5 }, stop: ["x"], schema: "" });
  expect(read?.messages[1]).toEqual({ ...messages[1], reason: null, usage: undefined });
});

test("pictures are letters or small images", () => {
  expect(readPicture("🐙")).toBe("🐙");
  expect(readPicture("data:image/png;base64,AAAA")).toBe("data:image/png;base64,AAAA");
  expect(readPicture("data:image/svg+xml;base64,AAAA")).toBe("");
  expect(readPicture(`data:image/png;base64,${"A".repeat(500_000)}`)).toBe("");
});

test("Markdown is what is shown", () => {
  expect(asMarkdown(conversation, messages)).toBe("# Rain\n\n> Be\n> brief.\n\n**You**\n\nWhat is <b>rain</b>?\n\n**Ada**\n\nWet.\n");
});
