// OpenAI's own client against the engine, with no network: chat, streams, tools, text and errors as programs written for it see them.
import OpenAI from "openai";
import { beforeAll, describe, expect, test, vi } from "vitest";
import type { Engine } from "../../src/api/types";
import { RequestError } from "../../src/api/errors";
import { createEngine } from "../../src/page/engine";
import { scripted } from "../support/scripted-model";

vi.mock("../../src/worker/load/load", async () => ({ load: (await import("../support/scripted-model")).load }));
vi.mock("../../src/worker/grammar-file", () => ({ loadGrammars: () => import("../../src/text/grammar/engine") }));
vi.mock("../../src/page/host", () => import("../support/in-process"));

let engine: Engine;
let client: OpenAI;

beforeAll(async () => {
  engine = await createEngine("http://nowhere.invalid/");
  client = new OpenAI({ apiKey: "none", baseURL: "http://engine.invalid/v1", fetch: engine.fetch, maxRetries: 0 });
});

const says = (...answers: string[]) => {
  scripted.answers = answers;
};
const prompt = () => scripted.prompts.at(-1);
const HI = [{ role: "user" as const, content: "hi" }];
const weather = (name = "get_weather"): OpenAI.ChatCompletionFunctionTool => ({
  type: "function",
  function: { name, parameters: { type: "object", properties: { city: { type: "string" } } } },
});
const ask = (more: Partial<OpenAI.ChatCompletionCreateParamsNonStreaming> & Record<string, unknown> = {}) =>
  client.chat.completions.create({ model: "scripted", messages: HI, ...more });

describe("a chat", () => {
  test("is answered", async () => {
    says("hello there");
    const answer = await ask({ temperature: 0, store: true, metadata: { a: "b" }, user: "u" });
    expect(answer).toMatchObject({
      object: "chat.completion",
      model: "scripted",
      choices: [{ index: 0, message: { role: "assistant", content: "hello there", refusal: null }, finish_reason: "stop", logprobs: null }],
      usage: { prompt_tokens_details: { cached_tokens: 2 } },
    });
    expect(prompt()).toBe("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  });

  test("is streamed, with the usage at the end", async () => {
    says("one two three");
    const stream = await client.chat.completions.create({
      model: "m",
      messages: HI,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe("one two three");
    expect(chunks.length).toBeGreaterThan(5);
    expect(chunks[0]?.choices[0]?.delta.role).toBe("assistant");
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe("stop");
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: expect.any(Number) as number } });
  });

  test("has as many answers as were asked for, with seeds that count up", async () => {
    says("a", "b", "c");
    const answer = await ask({ n: 3, seed: 7 });
    expect(answer.choices.map(({ index, message }) => [index, message.content])).toEqual([
      [0, "a"],
      [1, "b"],
      [2, "c"],
    ]);
    expect(scripted.requests.slice(-3).map(({ sampling }) => sampling.seed)).toEqual([7, 8, 9]);
    says("d", "e");
    const stream = await client.chat.completions.create({ model: "m", messages: HI, n: 2, stream: true });
    const texts = ["", ""];
    for await (const { choices } of stream)
      for (const { index, delta } of choices) texts[index] = (texts[index] ?? "") + (delta.content ?? "");
    expect(texts).toEqual(["d", "e"]);
  });

  test("ends at a stop string, also where that is a special token or a thought's", async () => {
    says("one two three");
    expect((await ask({ stop: [" three"] })).choices[0]?.message.content).toBe("one two");
    says("one<|im_start|>two");
    expect((await ask()).choices[0]?.message.content).toBe("onetwo");
    expect((await ask({ stop: ["<|im_start|>"] })).choices[0]).toMatchObject({ message: { content: "one" }, finish_reason: "stop" });
  });

  test("goes on with the assistant's last message, or begins anew", async () => {
    says("!");
    const begun = [...HI, { role: "assistant" as const, content: "Well, " }];
    await ask({ messages: begun });
    expect(prompt()).toBe("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWell, ");
    await ask({ messages: begun, continue_final_message: false });
    expect(prompt()).toBe("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWell, <|im_end|>\n<|im_start|>assistant\n");
  });

  test("goes on with a form that the last message began, or says that it did not", async () => {
    says("c");
    const begun = (content: string) => [...HI, { role: "assistant" as const, content }];
    const response_format = { type: "regex", regex: "a{3}b+c" } as unknown as OpenAI.ResponseFormatText;
    const answer = await ask({ messages: begun("aaab"), response_format, logprobs: true, logit_bias: { 5002: 1 } });
    expect(answer.choices[0]?.message.content).toBe("c");
    await expect(ask({ messages: begun("aac"), response_format })).rejects.toThrow(/"aac".*Leave the response_format out/s);
    expect((await ask({ messages: begun("aac"), response_format, continue_final_message: false })).choices).toHaveLength(1);
  });

  test("may be thought about, and that is apart", async () => {
    says("<think>\nwhy not\n</think>\n\nyes");
    expect((await ask()).choices[0]?.message).toMatchObject({ content: "yes", reasoning_content: "why not" });
    await ask({ chat_template_kwargs: { enable_thinking: false } });
    expect(prompt()).toMatch(/<think>\n\n<\/think>\n\n$/);
    await ask({ extra_body: { enable_thinking: false } });
    expect(prompt()).toMatch(/<think>\n\n<\/think>\n\n$/);
  });
});

describe("tools", () => {
  const call = (city: string) => `<tool_call>\n{"name": "get_weather", "arguments": {"city": "${city}"}}\n</tool_call>`;

  test("are told, called, answered: the whole way", async () => {
    says(`Let me see.\n${call("Rome")}\n${call("Oslo")}`, "Sunny in Rome.");
    const first = await ask({ tools: [weather()], tool_choice: "auto" });
    const [choice] = first.choices;
    expect(prompt()).toContain('<tools>{"type": "function", "function": {"name": "get_weather"');
    expect(choice).toMatchObject({ finish_reason: "tool_calls", message: { content: "Let me see." } });
    const calls = choice?.message.tool_calls ?? [];
    expect(calls.map((each) => "function" in each && each.function)).toEqual([
      { name: "get_weather", arguments: '{"city": "Rome"}' },
      { name: "get_weather", arguments: '{"city": "Oslo"}' },
    ]);
    expect(new Set(calls.map(({ id }) => id)).size).toBe(2);
    if (choice === undefined) throw new Error("no choice");
    const results = calls.map(({ id }) => ({ role: "tool" as const, tool_call_id: id, content: "sunny" }));
    const second = await ask({ messages: [...HI, choice.message, ...results], tools: [weather()] });
    expect(second.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: "Sunny in Rome." } });
    expect(prompt()).toContain(`assistant\nLet me see.${call("Rome")}${call("Oslo")}<|im_end|>\n`);
    expect(prompt()).toContain("<tool_response>\nsunny\n</tool_response>");
  });

  test("are streamed as OpenAI's helper reads them", async () => {
    says(call("Rome") + call("Oslo"));
    const runner = client.chat.completions.stream({ model: "m", messages: HI, tools: [weather()] });
    const pieces: string[] = [];
    runner.on("tool_calls.function.arguments.delta", ({ arguments_delta: delta }) => pieces.push(delta));
    const [choice] = (await runner.finalChatCompletion()).choices;
    expect(choice?.finish_reason).toBe("tool_calls");
    expect(choice?.message.tool_calls?.map((each) => each.function.arguments)).toEqual(['{"city": "Rome"}', '{"city": "Oslo"}']);
    expect(pieces.length).toBeGreaterThan(8);
    expect(pieces.join("")).toBe('{"city": "Rome"}{"city": "Oslo"}');
  });

  test("that are required or named begin the answer", async () => {
    says('f", "arguments": {"a": 1}}\n</tool_call>');
    const required = await ask({ tools: [weather("f")], tool_choice: "required" });
    expect(prompt()).toMatch(/assistant\n<tool_call>\n\{"name": "$/);
    expect(required.choices[0]).toMatchObject({
      finish_reason: "tool_calls",
      message: { content: null, tool_calls: [{ function: { name: "f", arguments: '{"a": 1}' } }] },
    });
    says('{"b": 2}}\n</tool_call> and more');
    const named = await ask({ tools: [weather("f"), weather("g")], tool_choice: { type: "function", function: { name: "g" } } });
    expect(prompt()).toMatch(/assistant\n<tool_call>\n\{"name": "g", "arguments": $/);
    expect(named.choices[0]).toMatchObject({
      finish_reason: "tool_calls",
      message: { content: null, tool_calls: [{ function: { name: "g", arguments: '{"b": 2}' } }] },
    });
  });

  test("that are not to be called are not told, and one is enough if there may be no two", async () => {
    says(call("Rome") + call("Oslo"));
    const none = await ask({ tools: [weather()], tool_choice: "none" });
    expect(prompt()).not.toContain("get_weather");
    expect(none.choices[0]?.message.tool_calls).toBeUndefined();
    const one = await ask({ tools: [weather()], parallel_tool_calls: false });
    expect(one.choices[0]?.message.tool_calls).toHaveLength(1);
  });
});

describe("the logits of each token", () => {
  test("are told as OpenAI tells them", async () => {
    says("hi 🙂");
    const [choice] = (await ask({ logprobs: true, top_logprobs: 2, temperature: 0 })).choices;
    const tokens = choice?.logprobs?.content ?? [];
    expect(new TextDecoder().decode(Uint8Array.from(tokens.flatMap(({ bytes }) => bytes ?? [])))).toBe("hi 🙂");
    const total = Math.exp(8) + Math.exp(7) + 5998;
    for (const { token, logprob, top_logprobs: top } of tokens) {
      expect(logprob).toBeCloseTo(8 - Math.log(total), 4);
      expect(top.map((other) => other.logprob)).toEqual([logprob, expect.closeTo(logprob - 1, 4)]);
      expect(top[0]?.token).toBe(token);
    }
    const streamed: OpenAI.ChatCompletionTokenLogprob[] = [];
    const stream = await client.chat.completions.create({ model: "m", messages: HI, stream: true, logprobs: true });
    for await (const { choices } of stream) streamed.push(...(choices[0]?.logprobs?.content ?? []));
    expect(streamed).toEqual(tokens.map((token) => ({ ...token, top_logprobs: [] })));
    expect((await ask({ logprobs: true, stop: ["<|im_end|>"] })).choices[0]?.logprobs?.content).toHaveLength(tokens.length);
    const text = await client.completions.create({ model: "m", prompt: "Once", logprobs: 1 });
    expect(text.choices[0]?.logprobs?.tokens?.[0]).toBe(tokens[0]?.token);
    expect(text.choices[0]?.logprobs?.text_offset?.[0]).toBe(0);
  });

  test("are biased, and the token is drawn from what they are then", async () => {
    says("hello");
    const [first = 0] = scripted.tokenizer.encode("hello", false);
    const biased = await ask({ temperature: 0, max_tokens: 1, logit_bias: { [first]: -2 } });
    expect(biased.choices[0]?.message.content).toBe(scripted.tokenizer.decode([first + 1], true));
    await expect(ask({ logit_bias: { 6000: 1 } })).rejects.toMatchObject({ status: 400, param: "logit_bias" });
  });

  test("are changed by the page's own function", async () => {
    says("hello");
    const [wanted = 0] = scripted.tokenizer.encode(" there", false);
    const seen: number[] = [];
    const answer = await engine.chat.completions.create({
      messages: HI,
      temperature: 0,
      max_tokens: 3,
      logits_processor: (logits, ids) => {
        seen.push(ids.length);
        logits.fill(-Infinity);
        logits[wanted] = 0;
        return undefined;
      },
    });
    expect(answer.choices[0].message.content).toBe(scripted.tokenizer.decode([wanted, wanted, wanted], true));
    expect(seen.map((length) => length - (seen[0] ?? 0))).toEqual([0, 1, 2]);
    const failing = engine.chat.completions.create({
      messages: HI,
      logits_processor: () => {
        throw new RangeError("of my own");
      },
    });
    await expect(failing).rejects.toThrow("of my own");
  });
});

describe("an answer that is held to a format", () => {
  const said = (token: string) => ({ token, logprob: 0 });
  const regex = { type: "regex", regex: "(?:yes|no)!" } as never;

  test("has logprobs: of what the format allows", async () => {
    says("maybe");
    const { choices } = await ask({ response_format: regex, logprobs: true, top_logprobs: 2, temperature: 0 });
    const [{ message, logprobs, finish_reason: reason } = { message: { content: "" }, logprobs: null, finish_reason: "" }] = choices;
    expect([["yes!", "no!"].includes(message.content ?? ""), reason]).toEqual([true, "stop"]);
    const tokens = logprobs?.content ?? [];
    expect(tokens.map(({ token }) => token).join("")).toBe(message.content);
    expect(tokens[0]?.logprob).toBeLessThan(0); // there was a choice
    expect(tokens.at(-1)).toMatchObject({ ...said("!"), top_logprobs: [said("!")] });
    for (const { top_logprobs: top } of tokens) for (const { logprob } of top) expect(logprob).toBeGreaterThan(-99);
  });

  test("may be biased and processed, and is of the format all the same", async () => {
    says("maybe");
    const first = async (more: object) => (await ask({ response_format: regex, temperature: 0, ...more })).choices[0]?.message.content;
    const ids = (text: string) => scripted.tokenizer.encode(text, false).slice(0, 1);
    for (const word of ["yes", "no"]) {
      const bias = Object.fromEntries(
        ["y", "ye", "yes", "n", "no"].filter((it) => word.startsWith(it)).map((it) => [String(ids(it)[0]), 50]),
      );
      expect(await first({ logit_bias: bias })).toBe(`${word}!`);
    }
    const nothing = engine.chat.completions.create({
      messages: HI,
      response_format: regex,
      logits_processor: (logits) => logits.fill(-Infinity),
    });
    await expect(nothing).rejects.toThrow(/logits_processor.*response_format/);
  });
});

describe("a text", () => {
  test("is gone on with", async () => {
    says(" upon a time");
    expect(await client.completions.create({ model: "m", prompt: "Once", max_tokens: 100 })).toMatchObject({
      object: "text_completion",
      choices: [{ text: " upon a time", finish_reason: "stop", logprobs: null }],
    });
    expect(prompt()).toMatch(/Once$/);
    const echoed = await client.completions.create({ model: "m", prompt: "Once", echo: true, logprobs: 0 });
    expect(echoed.choices[0]?.text).toBe("Once upon a time");
    const { tokens = [], text_offset: offsets = [] } = echoed.choices[0]?.logprobs ?? {};
    expect(tokens.map((token, i) => echoed.choices[0]?.text.startsWith(token, offsets[i]))).toEqual(tokens.map(() => true));
    expect(offsets[0]).toBe("Once".length);
    let text = "";
    for await (const { choices } of await client.completions.create({ model: "m", prompt: "Once", stream: true }))
      text += choices[0]?.text ?? "";
    expect(text).toBe(" upon a time");
  });
});

describe("what is wrong", () => {
  test("has OpenAI's shape and status", async () => {
    await expect(ask({ audio: { voice: "alloy", format: "wav" } })).rejects.toMatchObject({
      ...{ status: 400, type: "invalid_request_error", param: "audio", code: null },
      message: expect.stringContaining("The parameter audio is not supported") as string,
    });
    await expect(ask({ messages: [{ role: "critic", content: "no" } as never] })).rejects.toMatchObject({
      status: 400,
      type: "invalid_request_error",
    });
    const stream = client.chat.completions.create({ model: "m", messages: [], stream: true });
    await expect(stream).rejects.toBeInstanceOf(OpenAI.BadRequestError);
    await expect(client.moderations.create({ input: "a" })).rejects.toBeInstanceOf(OpenAI.NotFoundError);
  });
  test("is an error of the engine's own in its own API", async () => {
    await expect(engine.chat.completions.create({ messages: [] })).rejects.toBeInstanceOf(RequestError);
    const stream = engine.chat.completions.create({ messages: [], stream: true });
    await expect(stream[Symbol.asyncIterator]().next()).rejects.toBeInstanceOf(RequestError);
  });
});

test("the models are the one that is loaded", async () => {
  expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["scripted"]);
});

test("a reader that leaves ends the answer", async () => {
  says("word ".repeat(200));
  const stream = await client.chat.completions.create({ model: "m", messages: HI, stream: true });
  for await (const { choices } of stream) if (choices[0]?.delta.content !== undefined && choices[0].delta.content !== "") break;
  await vi.waitFor(() => expect(scripted.requests.at(-1)?.signal.aborted).toBe(true));
});
