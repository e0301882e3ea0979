import { describe, expect, test } from "vitest";
import type { ChatRequest } from "../../src/api/types";
import { chunk, completion, newEnvelope, PushStream, toCall } from "../../src/page/chat";
import { ArtifactError, DeviceError, deserializeError, NetworkError, RequestError, serializeError } from "../../src/api/errors";

const messages = [{ role: "user", content: "hi" }];

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
      messages: [{ role: "user", content: "ab" }],
      sampling: { temperature: 0.5, topP: 0.9 },
      seed: 4,
      maxTokens: 7,
      stop: ["x"],
      stream: true,
    });
  });
  test.each([
    ["n", { n: 2 }],
    ["tools", { tools: [{ type: "function", function: { name: "f" } }] }],
    ["tool_choice", { tool_choice: "required" }],
    ["logit_bias", { logit_bias: { 5: 1 } }],
    ["modalities", { modalities: ["text", "audio"] }],
    ["response_format", { response_format: { type: "json_object" } }],
    ["stop", { stop: ["a", ""] }],
    ["messages", { messages: [] }],
    ["role", { messages: [{ content: "x" }] }],
    ["content", { messages: [{ role: "user", content: null }] }],
    ["messages\\[0\\].content", { messages: [{ role: "user", content: [null] }] }],
    ["messages\\[1\\]", { messages: [messages[0], null] }],
    ["messages\\[0\\]", { messages: ["hi"] }],
    ["messages\\[0\\]", { messages: [["user", "hi"]] }],
    ["messages\\[0\\].name", { messages: [{ role: "user", content: "hi", name: "Ada" }] }],
    ["messages\\[1\\].tool_calls", { messages: [messages[0], { role: "assistant", content: "", tool_calls: [{ id: "1" }] }] }],
  ])("with an unsupported %s is refused by that name", (name, extra) => {
    expect(() => toCall({ messages, ...extra } as ChatRequest)).toThrow(new RegExp(`${name}.*got .*expected`));
  });
  test("may name what is off anyway", () => {
    const off = {
      ...{ n: 1, logprobs: false, top_logprobs: 0, tools: [], functions: null, tool_choice: "auto", function_call: "none" },
      ...{
        parallel_tool_calls: false,
        logit_bias: {},
        response_format: { type: "text" },
        modalities: ["text"],
        store: true,
        metadata: { a: "b" },
      },
    };
    const answer = { role: "assistant", content: "hello", refusal: null, annotations: [], tool_calls: [], name: undefined };
    expect(toCall({ messages: [...messages, answer], ...off })).toEqual(
      toCall({ messages: [...messages, { role: "assistant", content: "hello" }] }),
    );
  });
});

test("a completion and its chunks share an id", () => {
  const envelope = newEnvelope("m");
  const result = {
    text: "hello",
    finishReason: "stop" as const,
    promptTokens: 10,
    completionTokens: 5,
    reusedTokens: 4,
    prefillMs: 500,
    decodeMs: 2000,
    decodedTokens: 4,
  };
  const whole = completion(envelope, result);
  expect(whole.id).toBe(chunk(envelope, {}).id);
  expect(whole.usage).toEqual({
    prompt_tokens: 10,
    completion_tokens: 5,
    total_tokens: 15,
    extra: { prefill_tokens_per_second: 12, decode_tokens_per_second: 2, time_to_first_token_s: 0.5, reused_tokens: 4 },
  });
});

describe("a push stream", () => {
  test("gives values in order, then ends", async () => {
    const stream = new PushStream<number>(() => undefined);
    stream.push(1);
    setTimeout(() => {
      stream.push(2);
      stream.end();
    }, 1);
    const out: number[] = [];
    for await (const value of stream) out.push(value);
    expect(out).toEqual([1, 2]);
  });
  test("tells when its reader leaves", async () => {
    let left = 0;
    const stream = new PushStream<number>(() => (left += 1));
    stream.push(1);
    for await (const value of stream) if (value === 1) break;
    expect(left).toBe(1);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });
  test("gives what came before an error, then the error", async () => {
    const stream = new PushStream<number>(() => undefined);
    stream.push(1);
    stream.fail(new Error("lost"));
    expect(await stream.next()).toEqual({ done: false, value: 1 });
    await expect(stream.next()).rejects.toThrow("lost");
    expect((await stream.next()).done).toBe(true);
  });
});

test.each([
  new ArtifactError({ file: "model.json", what: "context", got: '"1"', expected: "an integer" }),
  new NetworkError({ file: "x.bin", what: "HTTP status", got: "404", expected: "200", remedy: "Look." }),
  new DeviceError("out-of-memory", { what: "memory" }),
  new RequestError({ what: "too long" }, "context-overflow"),
])("errors cross the worker boundary: $name", (error) => {
  const copy = deserializeError(structuredClone(serializeError(error)));
  expect(copy).toBeInstanceOf(error.constructor);
  expect(copy).toMatchObject({
    name: error.name,
    kind: error.kind,
    message: error.message,
    file: error.file,
    got: error.got,
    expected: error.expected,
  });
});
