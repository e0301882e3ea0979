// Templates as trees, against what transformers makes of them (tests/golden/write_templates.py), and their budget.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { checkTree, type Tree } from "../../src/artifact/template-tree";
import { ChatTemplate } from "../../src/text/chat-template";
import { treeProgram } from "../../src/text/tree-program";
import { startBudget, TemplateError } from "../../src/text/jinja/budget";

interface Construct {
  source: string;
  messages?: unknown[];
  expected: string | null;
  tree: unknown;
}
interface Golden {
  messages: unknown[];
  constructs: Record<string, Construct>;
  hostile: Record<string, { source: string; tree: unknown }>;
}

const golden = JSON.parse(readFileSync(resolve(import.meta.dirname, "../../../tests/golden/templates.json"), "utf8")) as Golden;
const CLOCK = new Date(2026, 10, 3, 14, 5, 9);

function checked(tree: unknown): Tree {
  return checkTree(tree, "tree", (path, got, expected) => {
    throw new Error(`${path}: got ${JSON.stringify(got)}, expected ${expected}`);
  });
}

function render(tree: unknown, messages: unknown[] = golden.messages): string {
  const given = { tools: null, documents: null, add_generation_prompt: false, bos_token: "<s>", eos_token: "</s>" };
  return treeProgram(checked(tree), undefined, () => CLOCK)({ ...given, messages });
}

describe("a construct renders as in transformers", () => {
  test.each(Object.entries(golden.constructs))("%s", (_, { tree, messages, expected }) => {
    // No template at all is refused when it is compiled.
    if (tree === null) expect(expected).toBeNull();
    else if (expected === null) expect(() => render(tree, messages)).toThrow(TemplateError);
    else expect(render(tree, messages)).toBe(expected);
  });
});

describe("a hostile template is ended", () => {
  test.each(Object.entries(golden.hostile))("%s", (_, { tree }) => {
    const template = new ChatTemplate(treeProgram(checked(tree)), {}, "");
    expect(() => template.fill({ messages: [] })).toThrow(TemplateError);
  });
});

test("each template begins with a whole budget", () => {
  startBudget({ steps: 1, characters: 1 });
  const { tree } = golden.constructs["join_attr"] ?? {};
  expect(render(tree)).toBe(golden.constructs["join_attr"]?.expected);
});

test("reasoning goes by every name that templates read", () => {
  const tree = checked([["Output", [["Filter", ["Name", "messages"], "tojson", [], [], null, null]]]]);
  const template = new ChatTemplate(treeProgram(tree), {}, "");
  const messages = [
    { role: "assistant", reasoning: "so", content: "x" },
    { role: "assistant", content: "y" },
  ];
  expect(template.fill({ messages })).toBe(
    '[{"thinking": "so", "role": "assistant", "reasoning": "so", "content": "x", "reasoning_content": "so"}, {"role": "assistant", "content": "y"}]',
  );
});
