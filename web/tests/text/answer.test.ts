// Answers taken apart while they come: each format whole, letter by letter and in pieces gives the same calls.
import { describe, expect, test } from "vitest";
import type { ToolCallDelta } from "../../src/api/types";
import { type AnswerFormat, AnswerReader } from "../../src/text/answer";
import { toolSupport } from "../../src/text/tools";

const HERMES = toolSupport("{% if tools %}<tool_call>{% endif %}").format;
const MISTRAL = toolSupport("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]").format;
const LLAMA = toolSupport("{% if tools is defined %}Environment: ipython{% endif %}").format;
const LIST = toolSupport("{% if tools %}<|tool_call|>{% endif %}").format;

function read(text: string, format: Partial<AnswerFormat>, size = 1000) {
  let count = 0;
  const reader = new AnswerReader({
    thinks: "none",
    tools: undefined,
    names: ["f", "g"],
    single: false,
    newId: () => `id${count++}`,
    ...format,
  });
  const out = { content: "", reasoning: "", calls: [] as ToolCallDelta[] };
  const take = ({ content, reasoning, calls }: typeof out) => {
    out.content += content;
    out.reasoning += reasoning;
    out.calls.push(...structuredClone(calls));
  };
  for (let at = 0; at < text.length && !reader.ended; at += size) take(reader.push(text.slice(at, at + size)));
  take(reader.flush());
  // What was streamed is what there is in the end.
  const joined = new Map<number, { name: string; arguments: string }>();
  for (const { index, id, function: piece } of out.calls) {
    if (id !== undefined) joined.set(index, { name: piece.name ?? "", arguments: "" });
    const call = joined.get(index);
    if (call !== undefined) call.arguments += piece.arguments ?? "";
  }
  expect([...joined.values()]).toEqual(reader.calls.map((call) => call.function));
  return {
    content: out.content,
    reasoning: out.reasoning,
    calls: reader.calls.map((call) => [call.function.name, call.function.arguments]),
    ended: reader.ended,
  };
}

const A = '{"city": "Köln } \\" {", "days": [1, {"a": null}]}';
const hermes = (name: string, given: string) => `<tool_call>\n{"name": "${name}", "arguments": ${given}}\n</tool_call>`;

const ANSWERS: [string, string, Partial<AnswerFormat>, { content?: string; reasoning?: string; calls?: string[][] }][] = [
  ["words", "Hello <b>you</b>. ", {}, { content: "Hello <b>you</b>. " }],
  ["words with tools", " a < b\n\n", { tools: HERMES }, { content: " a < b\n\n" }],
  ["a call", hermes("f", A), { tools: HERMES }, { calls: [["f", A]] }],
  [
    "words, then two calls",
    `Let me see.\n${hermes("f", A)}\n${hermes("g", "{}")}\n`,
    { tools: HERMES },
    {
      content: "Let me see.",
      calls: [
        ["f", A],
        ["g", "{}"],
      ],
    },
  ],
  ["a call, then words", `${hermes("f", A)}\nDone.`, { tools: HERMES }, { content: "Done.", calls: [["f", A]] }],
  [
    "calls in one pair of tags",
    `<tool_call>[{"name": "f", "arguments": {}}, {"name": "g", "arguments": ${A}}]</tool_call>`,
    { tools: HERMES },
    {
      calls: [
        ["f", "{}"],
        ["g", A],
      ],
    },
  ],
  [
    "arguments before the name",
    `<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>`,
    { tools: HERMES },
    { calls: [["f", '{"a":1}']] },
  ],
  [
    "arguments as text",
    `<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>`,
    { tools: HERMES },
    { calls: [["f", '{"a": 1}']] },
  ],
  ["a call without arguments", `<tool_call>{"name": "f"}</tool_call>`, { tools: HERMES }, { calls: [["f", "{}"]] }],
  [
    "OpenAI's own form",
    `<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}</tool_call>`,
    { tools: HERMES },
    { calls: [["f", '{"a":1}']] },
  ],
  [
    "tags of XML",
    "<tool_call>\n<function=f>\n<parameter=city>\nKöln\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    { tools: HERMES },
    { calls: [["f", '{"city":"Köln","days":3}']] },
  ],
  ["a tag without a call", "<tool_call>oh no", { tools: HERMES }, { content: "<tool_call>oh no" }],
  ["a tag with broken JSON", '<tool_call>{"name": 7}</tool_call>', { tools: HERMES }, { content: '<tool_call>{"name": 7}</tool_call>' }],
  ["a call that is cut off", `<tool_call>\n{"name": "f", "arguments": {"city": "Kö`, { tools: HERMES }, { calls: [["f", '{"city": "Kö']] }],
  [
    "Mistral's list",
    `[TOOL_CALLS][{"name": "f", "arguments": ${A}, "id": "abcdefghi"}, {"name": "g", "arguments": {}}]`,
    { tools: MISTRAL },
    {
      calls: [
        ["f", A],
        ["g", "{}"],
      ],
    },
  ],
  [
    "Mistral's names",
    `[TOOL_CALLS]f[ARGS]${A}[TOOL_CALLS]g[CALL_ID]abc123def[ARGS]{}`,
    { tools: MISTRAL },
    {
      calls: [
        ["f", A],
        ["g", "{}"],
      ],
    },
  ],
  ["Llama's bare object", `{"name": "f", "parameters": ${A}}`, { tools: LLAMA }, { calls: [["f", A]] }],
  [
    "Llama's two objects",
    `{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": 1}}`,
    { tools: LLAMA },
    {
      calls: [
        ["f", "{}"],
        ["g", '{"a": 1}'],
      ],
    },
  ],
  ["Llama's tag", `<|python_tag|>{"type": "function", "name": "f", "parameters": ${A}}`, { tools: LLAMA }, { calls: [["f", A]] }],
  [
    "Llama's built-in function",
    '<|python_tag|>brave_search.call(query="a, b", count=3)',
    { tools: LLAMA },
    { calls: [["brave_search", '{"query":"a, b","count":3}']] },
  ],
  ["JSON that is no call", '{"name": "Ada", "age": 36}', { tools: LLAMA }, { content: '{"name": "Ada", "age": 36}' }],
  [
    "an object of an unknown name",
    '{"name": "h", "parameters": {}} it is',
    { tools: LLAMA },
    { content: '{"name": "h", "parameters": {}} it is' },
  ],
  ["Granite's and Phi's list", `<|tool_call|>[{"name": "f", "arguments": ${A}}]<|/tool_call|>`, { tools: LIST }, { calls: [["f", A]] }],
  ["Phi's word", `functools[{"name": "f", "arguments": ${A}}]`, { tools: LIST }, { calls: [["f", A]] }],
  ["thoughts", "<think>\nwhy </thin\n</think>\n\nso", { thinks: "maybe" }, { reasoning: "why </thin", content: "so" }],
  ["thoughts that the prompt began", "why\n</think>\n\nso it is \n", { thinks: "open" }, { reasoning: "why", content: "so it is \n" }],
  ["no thoughts", "<b>so</b>", { thinks: "maybe" }, { content: "<b>so</b>" }],
  ["empty thoughts", "<think>\n\n</think>\n\nso", { thinks: "maybe" }, { content: "so" }],
  ["only thoughts", "<think>\nwhy\nwhy", { thinks: "maybe" }, { reasoning: "why\nwhy" }],
  [
    "thoughts, then a call",
    `<think>\nwhy\n</think>\n\n${hermes("f", A)}`,
    { thinks: "maybe", tools: HERMES },
    { reasoning: "why", calls: [["f", A]] },
  ],
  [
    "thoughts of a call",
    `<think>\n${hermes("f", "{}")}\n</think>\n\nno`,
    { thinks: "maybe", tools: HERMES },
    { reasoning: hermes("f", "{}"), content: "no" },
  ],
  ["a tag where no tools are", hermes("f", A), {}, { content: hermes("f", A) }],
];

describe.each([1000, 1, 3, 7])("in pieces of %i characters", (size) => {
  test.each(ANSWERS)("%s", (_, text, format, expected) => {
    const { content, reasoning, calls } = read(text, format, size);
    expect({ content, reasoning, calls }).toEqual({ content: "", reasoning: "", calls: [], ...expected });
  });
});

test("arguments are passed on as they come", () => {
  const reader = new AnswerReader({ thinks: "none", tools: HERMES, names: ["f"], single: false, newId: () => "id" });
  expect(reader.push('<tool_call>{"name": "f", "arguments": {"ci').calls).toEqual([
    { index: 0, id: "id", type: "function", function: { name: "f", arguments: "" } },
    { index: 0, function: { arguments: '{"ci' } },
  ]);
  expect(reader.push('ty": 1').calls).toEqual([{ index: 0, function: { arguments: 'ty": 1' } }]);
  expect(reader.push("}}").calls).toEqual([{ index: 0, function: { arguments: "}" } }]);
});

test("nothing follows a single call", () => {
  expect(read(hermes("f", A) + hermes("g", "{}"), { tools: HERMES, single: true }, 4)).toMatchObject({
    calls: [["f", A]],
    ended: true,
    content: "",
  });
});

test.each([
  ["hermes", "{%- if tools %}<tools></tools>{% endif %}{{ '<tool_call>' }}"],
  ["mistral", "{{ '[AVAILABLE_TOOLS]' + tools|tojson }}{{ '[TOOL_CALLS]' }}"],
  ["llama", "{%- if not tools is defined %}{% endif %}{{ 'Environment: ipython' }}"],
  ["list", "{% if tools %}{{ '<|tool_call|>' }}{% endif %}"],
  ["list", "{% if 'tools' in message %}{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}{% endif %}"],
])("a template shows that its calls are of the kind %s", (name, source) => {
  expect(toolSupport(source).format.name).toBe(name);
});

describe("what begins like a call and is none", () => {
  test.each([
    ["a list's word in a sentence", "Use functools, itertools and functools.lru_cache here.", LIST],
    ["a mark in a sentence", "The tag <tool_call> opens, and </tool_call> ends.", HERMES],
    ["a name that is no JSON", 'So: <tool_call>{"name": "get\\_weather", "arguments": {}} it is', HERMES],
  ])("%s", (_, text, tools) => {
    for (const size of [1, 3, 7, 1000]) {
      const { content, calls } = read(text, { tools }, size);
      expect(calls).toEqual([]);
      expect(content.replaceAll("</tool_call>", "")).toBe(text.replaceAll("</tool_call>", ""));
    }
  });
});
