import { describe, expect, test } from "vitest";
import { chunk, completion, newEnvelope, usageOf } from "../../src/page/chat";
import { PushStream } from "../../src/page/push-stream";
import { ArtifactError, DeviceError, deserializeError, NetworkError, RequestError, serializeError } from "../../src/api/errors";

test("a completion and its chunks share an id", () => {
  const envelope = newEnvelope("m");
  const result = {
    text: "hello",
    reasoning: "",
    toolCalls: [],
    logprobs: [],
    finishReason: "stop" as const,
    promptTokens: 10,
    completionTokens: 5,
    acceptedTokens: 3,
    rejectedTokens: 1,
    reusedTokens: 4,
    openingLength: 0,
    prefillMs: 500,
    decodeMs: 2000,
    decodedTokens: 4,
  };
  const whole = completion(envelope, [result], false);
  expect(whole.id).toBe(chunk(envelope, 0, {}).id);
  expect(whole.choices).toEqual([
    { index: 0, message: { role: "assistant", content: "hello", refusal: null }, finish_reason: "stop", logprobs: null },
  ]);
  expect(whole.usage).toEqual({
    prompt_tokens: 10,
    completion_tokens: 5,
    total_tokens: 15,
    prompt_tokens_details: { cached_tokens: 4 },
    completion_tokens_details: { accepted_prediction_tokens: 3, rejected_prediction_tokens: 1 },
    extra: { prefill_tokens_per_second: 12, decode_tokens_per_second: 2, time_to_first_token_s: 0.5, reused_tokens: 4 },
  });
});

test("a prompt counts once, however many answers it has", () => {
  const of = (completionTokens: number) => ({
    ...{ text: "", reasoning: "", toolCalls: [], logprobs: [], finishReason: "stop" as const },
    ...{ promptTokens: 10, completionTokens, reusedTokens: 0, openingLength: 0, prefillMs: 1, decodeMs: 1, decodedTokens: 1 },
    ...{ acceptedTokens: 0, rejectedTokens: 0 },
  });
  expect(usageOf([of(3), of(4)])).toMatchObject({ prompt_tokens: 10, completion_tokens: 7, total_tokens: 17 });
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

/** Of a file that is built apart: no class of it is one of ours. */
function foreign(): Error {
  const { name, message, ...fields } = new RequestError({ what: "The grammar", got: "x", expected: "GBNF", remedy: "Write it." });
  return Object.assign(new Error(message), { name, ...fields });
}

test("errors of a file that is built apart keep what they say", () => {
  const copy = deserializeError(structuredClone(serializeError(foreign())));
  expect(copy).toBeInstanceOf(RequestError);
  expect(copy).toMatchObject({ kind: "request", what: "The grammar", got: "x", expected: "GBNF", remedy: "Write it." });
  expect(serializeError(Object.assign(new Error("no"), { kind: "request", what: "no" }))).toMatchObject({ kind: "internal" });
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
