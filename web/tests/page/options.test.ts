// The table of OpenAI's fields in options.md against the types of OpenAI's package, and against what becomes of such a request.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { beforeAll, describe, expect, test, vi } from "vitest";
import type { Engine } from "../../src/api/types";
import { createEngine } from "../../src/page/engine";
import { toCall, toCompletionCall } from "../../src/page/request";
import { scripted } from "../support/scripted-model";

vi.mock("../../src/worker/load/load", async () => ({ load: (await import("../support/scripted-model")).load }));
vi.mock("../../src/page/host", () => import("../support/in-process"));

const web = resolve(import.meta.dirname, "../..");
const read = (path: string) => readFileSync(resolve(web, path), "utf8");

/** The fields of an interface, as a declaration file writes them. */
function fieldsOf(file: string, name: string): string[] {
  const source = read(`node_modules/openai/resources/${file}`);
  const body = source.slice(source.indexOf(`export interface ${name} {`)).split("\n}")[0] ?? "";
  return [...body.matchAll(/^ {4}([a-z_]+)\??:/gm)].map(([, field = ""]) => field).sort();
}

const APIS = ["chat", "text", "embeddings"] as const;
const FIELDS = {
  chat: fieldsOf("chat/completions/completions.d.ts", "ChatCompletionCreateParamsBase"),
  text: fieldsOf("completions.d.ts", "CompletionCreateParamsBase"),
  embeddings: fieldsOf("embeddings.d.ts", "EmbeddingCreateParams"),
};

const section = read("options.md").split("\n## ")[1] ?? "";
const ROWS = [...section.matchAll(/^\| `(\w+)` \| (\w*) ?\| (\w*) ?\| (\w*) ?\|/gm)].map(([, field = "", ...does]) => ({ field, does }));
const rowsOf = (api: (typeof APIS)[number]) =>
  ROWS.flatMap(({ field, does }) => {
    const what = does[APIS.indexOf(api)] ?? "";
    return what === "" ? [] : [[field, what] as const];
  });

/** A value that means something. */
const VALUES: Record<string, unknown> = {
  ...{ model: "other", messages: [{ role: "user", content: "hi" }], prompt: "hi", input: "hi", user: "u", stream: true },
  ...{ audio: { voice: "alloy", format: "wav" }, best_of: 3, dimensions: 2, echo: true, encoding_format: "base64" },
  ...{ frequency_penalty: 1, presence_penalty: 1, function_call: { name: "f" }, functions: [{ name: "f" }], logit_bias: { 5: 1 } },
  ...{ logprobs: true, top_logprobs: 2, max_completion_tokens: 3, max_tokens: 3, metadata: { a: "b" }, modalities: ["audio"] },
  ...{ moderation: { model: "m" }, n: 2, parallel_tool_calls: false, prediction: { type: "content", content: "a" } },
  ...{ prompt_cache_key: "k", prompt_cache_options: { a: 1 }, prompt_cache_retention: "24h", reasoning_effort: "none" },
  ...{ response_format: { type: "json_object" }, safety_identifier: "s", seed: 7, service_tier: "flex", stop: ["x"], store: true },
  ...{ stream_options: { include_usage: true }, suffix: "s", temperature: 0.5, tool_choice: "none", top_p: 0.5, verbosity: "low" },
  ...{ tools: [{ type: "function", function: { name: "f" } }], web_search_options: { a: 1 } },
};
const BASE = { chat: { messages: [{ role: "user", content: "yo" }] }, text: { prompt: "yo" } };
/** What else a field needs to be one that is meant. */
const BESIDE: Record<string, object> = { top_logprobs: { logprobs: true } };

function callOf(api: "chat" | "text", request: object): unknown {
  return api === "chat" ? toCall({ ...BASE.chat, ...request }) : toCompletionCall({ ...BASE.text, ...request });
}

describe.each(APIS)("%s", (api) => {
  test("has a row for each of OpenAI's fields, and for no other", () => {
    expect(FIELDS[api].length).toBeGreaterThan(4);
    expect(
      rowsOf(api)
        .map(([field]) => field)
        .sort(),
    ).toEqual(FIELDS[api]);
  });
});

describe.each(["chat", "text"] as const)("a field of %s", (api) => {
  test.each(rowsOf(api))("%s is %s", (field, what) => {
    const value = api === "text" && field === "logprobs" ? 3 : VALUES[field];
    const beside = BESIDE[field] ?? {};
    const ask = () => callOf(api, { ...beside, [field]: value });
    if (what === "refused") expect(ask).toThrow(field);
    else if (what === "ignored") expect(ask()).toEqual(callOf(api, {}));
    else if (["n", "stream_options"].includes(field))
      ask(); // the page's own, not the call's
    else expect(ask()).not.toEqual(callOf(api, beside));
  });
});

describe("an answer", () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine("http://nowhere.invalid/");
  });
  const messages = [{ role: "user", content: "hi" }];

  test("goes on behind its end where that is to be ignored", async () => {
    await engine.chat.completions.create({ messages, ignore_eos: true, max_tokens: 5 });
    expect([...(scripted.requests.at(-1)?.stopTokenIds ?? [])]).toEqual([]);
  });

  test("is thought about as much as the effort says", async () => {
    await engine.chat.completions.create({ messages, reasoning_effort: "none" });
    expect(scripted.prompts.at(-1)).toContain("<think>\n\n</think>");
    await engine.chat.completions.create({ messages, reasoning_effort: "high" });
    expect(scripted.prompts.at(-1)).not.toContain("<think>");
    expect(toCall({ messages, reasoning_effort: "low" }).variables).toEqual({ enable_thinking: true, reasoning_effort: "low" });
  });
});
