// Requests of OpenAI's shape: what is understood, what passes because it changes nothing, what is refused and by which name.
import { describe, expect, test } from "vitest";
import type { ChatRequest, CompletionRequest } from "../../src/api/types";
import { countOf, toCall, toCompletionCall } from "../../src/page/request";

const messages = [{ role: "user", content: "hi" }];
const weather = { type: "function" as const, function: { name: "get_weather", parameters: { type: "object" } } };
const ask = (more: object) => toCall({ messages, ...more });

describe("a chat request", () => {
  test("is translated", () => {
    const request: ChatRequest = {
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "a" },
            { type: "text", text: "b" },
          ],
        },
      ],
      temperature: 0.5,
      top_p: 0.9,
      seed: 4,
      max_tokens: 7,
      stop: "x",
      presence_penalty: null,
      stream: true,
    };
    expect(toCall(request)).toEqual({
      messages: request.messages,
      sampling: { temperature: 0.5, topP: 0.9 },
      seed: 4,
      maxTokens: 7,
      stop: ["x"],
      format: undefined,
      stream: true,
      logprobs: undefined,
      bias: [],
      ignoreEos: false,
      processed: false,
      slides: false,
      tools: [],
      toolChoice: "auto",
      parallelToolCalls: true,
      variables: {},
      addGenerationPrompt: undefined,
      continueFinalMessage: undefined,
      contentsAsText: true,
    });
  });
  test.each([
    [
      { n: 2, tools: [weather], tool_choice: "required" },
      { toolChoice: "required", tools: [weather] },
    ],
    [{ tools: [weather], tool_choice: { type: "function", function: { name: "get_weather" } } }, { toolChoice: { name: "get_weather" } }],
    [{ logprobs: true }, { logprobs: 0 }],
    [{ response_format: { type: "json_object" } }, { format: { type: "json_object" } }],
    [
      { response_format: { type: "json_schema", json_schema: { name: "a", strict: true, schema: { type: "integer" } } } },
      { format: { type: "json_schema", schema: { type: "integer" } } },
    ],
    [{ response_format: { type: "grammar", grammar: "g" } }, { format: { type: "grammar", grammar: "g" } }],
    [{ response_format: { type: "regex", regex: "a+" } }, { format: { type: "regex", regex: "a+" } }],
    [{ logprobs: true, top_logprobs: 20 }, { logprobs: 20 }],
    [
      { logit_bias: { 5: 1, 70: -100 } },
      {
        bias: [
          [5, 1],
          [70, -100],
        ],
      },
    ],
    [{ max_tokens: 3, max_completion_tokens: 4 }, { maxTokens: 4 }],
    [{ extra_body: { enable_thinking: false, top_k: 3 } }, { variables: { enable_thinking: false }, sampling: { topK: 3 } }],
    [
      { chat_template_kwargs: { enable_thinking: true, documents: [{ text: "t" }] } },
      { variables: { enable_thinking: true, documents: [{ text: "t" }] } },
    ],
    [
      { continue_final_message: false, add_generation_prompt: true },
      { continueFinalMessage: false, addGenerationPrompt: true },
    ],
    [{ special_tokens_in_content: "allow" }, { contentsAsText: false }],
    [{ stop: Array.from({ length: 16 }, (_, i) => `stop ${i}`) }, {}],
    [{ logits_processor: () => undefined }, { processed: true }],
  ])("with %j is understood", (more, expected) => {
    expect(ask(more)).toMatchObject(expected);
  });
  test.each([
    ["n", { n: 0 }],
    ["n", { n: 1.5 }],
    ["tool_choice", { tool_choice: "required" }],
    ["tool_choice", { tools: [weather], tool_choice: { type: "function", function: { name: "other" } } }],
    ["tools\\[0\\]", { tools: [{ type: "retrieval" }] }],
    ["tools\\[0\\].function.name", { tools: [{ type: "function", function: { name: "two words" } }] }],
    ["tools\\[0\\].function.parameters", { tools: [{ type: "function", function: { name: "f", parameters: "none" } }] }],
    ["logit_bias", { logit_bias: { 5: 101 } }],
    ["logit_bias", { logit_bias: { the: 1 } }],
    ["response_format", { response_format: { type: "xml" } }],
    ["response_format", { response_format: "json" }],
    ["response_format", { response_format: { type: "json_schema", json_schema: { name: "a" } } }],
    ["response_format", { response_format: { type: "regex" } }],
    ["top_logprobs", { logprobs: true, top_logprobs: 21 }],
    ["top_logprobs", { top_logprobs: 2 }],
    ["modalities", { modalities: ["text", "audio"] }],
    ["audio", { audio: { voice: "a" } }],
    ["reasoning_effort", { reasoning_effort: "immense" }],
    ["stop", { stop: ["a", ""] }],
    ["stop", { stop: Array.from({ length: 17 }, () => "a") }],
    ["stream", { stream: "yes" }],
    ["chat_template_kwargs", { chat_template_kwargs: ["x"] }],
    ["chat_template_kwargs.messages", { chat_template_kwargs: { messages: [] } }],
    ["special_tokens_in_content", { special_tokens_in_content: "maybe" }],
    ["enable_thinking", { enable_thinking: "no" }],
    ["messages", { messages: [] }],
    ["role", { messages: [{ content: "x" }] }],
    ["content", { messages: [{ role: "user", content: null }] }],
    ["content", { messages: [{ role: "assistant", content: null }] }],
    ["content", { messages: [{ role: "user", content: [] }] }],
    ["messages\\[0\\].content", { messages: [{ role: "user", content: [null] }] }],
    ["messages\\[0\\].content", { messages: [{ role: "user", content: [{ type: "image_url" }] }] }],
    ["messages\\[1\\]", { messages: [messages[0], null] }],
    ["messages\\[0\\]", { messages: ["hi"] }],
    ["messages\\[0\\]", { messages: [["user", "hi"]] }],
    ["messages\\[0\\].audio", { messages: [{ role: "user", content: "hi", audio: { id: "1" } }] }],
    ["messages\\[1\\].tool_calls", { messages: [messages[0], { role: "assistant", content: "", tool_calls: [{ id: "1" }] }] }],
    ["messages\\[0\\].tool_calls", { messages: [{ role: "user", content: "", tool_calls: [{ function: { name: "f", arguments: "" } }] }] }],
  ])("with a wrong or unsupported %s is refused by that name", (name, more) => {
    const refused = () => {
      const request = { messages, ...more } as ChatRequest;
      countOf(request);
      return toCall(request);
    };
    expect(refused).toThrow(new RegExp(`${name}.*got .*expected`));
  });
  test("may name what is off anyway", () => {
    const off = {
      ...{ n: 1, logprobs: false, top_logprobs: 0, tools: [], functions: null, tool_choice: "auto", function_call: "none" },
      ...{ logit_bias: {}, response_format: { type: "text" as const }, modalities: ["text"], store: true, metadata: { a: "b" } },
      ...{ service_tier: "auto", safety_identifier: "x", prompt_cache_key: "y", user: "u", parallel_tool_calls: true },
      ...{ stream_options: null, chat_template_kwargs: {}, extra_body: {}, continue_final_message: null, special_tokens_in_content: null },
    };
    const answer = { role: "assistant", content: "hello", refusal: null, annotations: [], tool_calls: [], name: undefined, audio: null };
    expect(ask({ ...off, messages: [...messages, answer] })).toEqual(
      ask({ messages: [...messages, { role: "assistant", content: "hello" }] }),
    );
  });
  test("takes an assistant's message without content where it calls tools, and their results", () => {
    const call = { id: "a", type: "function" as const, function: { name: "get_weather", arguments: '{"city": "Köln"}' } };
    const turns = [
      ...messages,
      { role: "assistant", content: null, tool_calls: [call] },
      { role: "tool", content: "sunny", tool_call_id: "a", name: "get_weather" },
    ];
    expect(ask({ messages: turns }).messages).toEqual([...messages, { role: "assistant", tool_calls: [call] }, turns[2]]);
  });
  test("with one part is that text", () => {
    expect(ask({ messages: [{ role: "user", content: [{ type: "text", text: "hi" }] }] }).messages).toEqual(messages);
  });
});

describe("a completion request", () => {
  test("is translated", () => {
    expect(toCompletionCall({ prompt: "Once", max_tokens: 3, echo: true, logprobs: 2 })).toMatchObject({
      ...{ prompt: "Once", maxTokens: 3, echo: true, logprobs: 2 },
    });
    expect(toCompletionCall({ prompt: [1, 2] })).toMatchObject({ prompt: [1, 2], echo: false, logprobs: undefined });
  });
  test.each([
    ["prompt", {}],
    ["prompt", { prompt: ["a"] }],
    ["prompt", { prompt: [] }],
    ["suffix", { prompt: "a", suffix: "b" }],
    ["best_of", { prompt: "a", best_of: 2 }],
    ["messages", { prompt: "a", messages: [{}] }],
    ["logprobs", { prompt: "a", logprobs: 21 }],
  ])("with a wrong or unsupported %s is refused by that name", (name, request) => {
    expect(() => toCompletionCall(request as unknown as CompletionRequest)).toThrow(new RegExp(`${name}.*got .*expected`));
  });
});
