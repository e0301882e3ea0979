// Vercel's AI SDK on the engine: its own functions over the provider, with a scripted model behind a real engine.
import { generateObject, generateText, isStepCount, jsonSchema, Output, streamText, tool } from "ai";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { wisp } from "../../src/adapters/ai-sdk";
import { DeviceError } from "../../src/api/errors";
import type { Engine } from "../../src/api/types";
import { createEngine } from "../../src/page/engine";
import { scripted } from "../support/scripted-model";

vi.mock("../../src/worker/load/load", async () => ({ load: (await import("../support/scripted-model")).load }));
vi.mock("../../src/worker/grammar-file", () => ({ loadGrammars: () => import("../../src/text/grammar/engine") }));
vi.mock("../../src/page/host", () => import("../support/in-process"));

let engine: Engine;
let model: ReturnType<typeof wisp>;

beforeAll(async () => {
  engine = await createEngine("http://nowhere.invalid/");
  model = wisp(engine);
});

const says = (...answers: string[]) => {
  scripted.answers = answers;
};
const CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>';
const weather = (asked: string[] = []) =>
  tool({
    description: "The weather of a city",
    inputSchema: jsonSchema<{ city: string }>({
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    }),
    execute: ({ city }) => {
      asked.push(city);
      return { celsius: 21 };
    },
  });

describe("an engine that is made for it", () => {
  function made() {
    const engines: Engine[] = [];
    const lose: (() => void)[] = [];
    const making = wisp(async ({ onDeviceLost }) => {
      lose.push(onDeviceLost);
      const one = await createEngine("http://nowhere.invalid/");
      engines.push(one);
      return one;
    });
    says("hello");
    const answer = async () => (await generateText({ model: making, prompt: "hi", maxRetries: 0 })).text;
    return { engines, lose, answer, making };
  }

  test("is made anew when it was lost or disposed of", async () => {
    const { engines, lose, answer } = made();
    expect([await answer(), await answer(), engines.length]).toEqual(["hello", "hello", 1]);
    lose[0]?.();
    await vi.waitFor(() => expect(() => engines[0]?.stats()).toThrow(/disposed/));
    expect([await answer(), engines.length]).toEqual(["hello", 2]);
    lose[0]?.(); // Of one that is not in use any more.
    expect([await answer(), engines.length]).toEqual(["hello", 2]);
    await engines[1]?.dispose();
    expect([await answer(), engines.length]).toEqual(["hello", 3]);
    await engines[2]?.dispose();
  });

  test.each(["generate", "stream"])("is made anew after a call that failed with its loss: %s", async (how) => {
    const { engines, answer, making } = made();
    await answer();
    const lost = new DeviceError("device-lost", { what: "gone" });
    const failing = new ReadableStream({ start: (controller) => controller.error(lost) });
    const create = () => (how === "generate" ? Promise.reject(lost) : Promise.resolve(failing.values()));
    Object.assign(engines[0]?.chat.completions ?? {}, { create });
    if (how === "generate") await expect(answer()).rejects.toThrow("gone");
    else await streamText({ model: making, prompt: "hi", maxRetries: 0, onError: () => undefined }).consumeStream();
    expect([await answer(), engines.length]).toEqual(["hello", 2]);
    await engines[1]?.dispose();
  });
});

describe("a text", () => {
  test("is generated, with what it cost", async () => {
    says("hello there");
    const { text, finishReason, usage, finalStep, warnings } = await generateText({ model, instructions: "Be brief.", prompt: "hi" });
    expect([text, finishReason, finalStep.response.modelId, warnings]).toEqual(["hello there", "stop", "scripted", []]);
    expect(usage).toMatchObject({ inputTokenDetails: { cacheReadTokens: 2 }, outputTokens: scripted.tokenizer.encode(text, false).length });
    expect(usage.inputTokens).toBeGreaterThan(5);
    expect(scripted.prompts.at(-1)).toBe(
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    );
  });

  test("is streamed as it comes, its thoughts apart", async () => {
    says("<think>one two</think>three four");
    const { stream, text, finalStep, usage } = streamText({ model, prompt: "hi", reasoning: "high" });
    const types: string[] = [];
    for await (const { type } of stream) if (types.at(-1) !== type) types.push(type);
    expect(types).toEqual(
      ["start", "start-step", "reasoning-start", "reasoning-delta", "reasoning-end", "text-start", "text-delta", "text-end"].concat(
        "finish-step",
        "finish",
      ),
    );
    expect([(await finalStep).reasoningText, await text]).toEqual(["one two", "three four"]);
    expect((await usage).outputTokens).toBeGreaterThan(3);
  });

  test("is made by the settings given, and by the engine's own", async () => {
    says("a");
    const settings = { temperature: 0.5, topP: 0.9, topK: 7, presencePenalty: 0.25, frequencyPenalty: 0.125, seed: 9, maxOutputTokens: 4 };
    await generateText({ model, prompt: "hi", ...settings, stopSequences: ["x"], providerOptions: { wisp: { min_p: 0.5 } } });
    const { sampling, maxTokens } = scripted.requests.at(-1) ?? {};
    expect(sampling).toMatchObject({
      ...{ temperature: 0.5, topP: 0.9, topK: 7, minP: 0.5, seed: 9 },
      ...{ presencePenalty: 0.25, frequencyPenalty: 0.125 },
    });
    expect(maxTokens).toBe(4);
    await generateText({ model, prompt: "hi", reasoning: "none" });
    expect(scripted.prompts.at(-1)).toMatch(/<think>\n\n<\/think>\n\n$/);
    const { warnings } = await generateText({ model, prompt: "hi", reasoning: "low" });
    expect(warnings).toMatchObject([{ type: "compatibility", feature: "reasoning" }]);
  });

  test("is cut where the signal says so", async () => {
    says("word ".repeat(300));
    const controller = new AbortController();
    const parts: string[] = [];
    for await (const { type } of streamText({ model, prompt: "hi", abortSignal: controller.signal }).stream) {
      parts.push(type);
      if (type === "text-delta") controller.abort();
    }
    expect(parts.at(-1)).toBe("abort");
    await vi.waitFor(() => expect(scripted.requests.at(-1)?.signal.aborted).toBe(true));
    await expect(generateText({ model, prompt: "hi", abortSignal: AbortSignal.abort() })).rejects.toMatchObject({ name: "AbortError" });
  });

  test("that cannot be is refused with the engine's own words", async () => {
    const image = { type: "file" as const, mediaType: "image/png", data: new Uint8Array([137, 80, 78, 71]) };
    const asked = generateText({ model, messages: [{ role: "user", content: [image] }] });
    await expect(asked).rejects.toThrow(/messages\[0\]\.content: got .*image\/png.* reads text only/);
    const errors: unknown[] = [];
    await streamText({ model, prompt: "hi", temperature: -1, onError: ({ error }) => void errors.push(error) }).consumeStream();
    expect(String(errors[0])).toMatch(/temperature/);
  });
});

describe("a tool", () => {
  test("is called, and its result answered to", async () => {
    says(CALL, "It is mild.");
    const asked: string[] = [];
    const { text, steps } = await generateText({
      ...{ model, prompt: "How is Paris?", tools: { weather: weather(asked) }, stopWhen: isStepCount(3) },
    });
    expect([text, asked, steps[0]?.finishReason]).toEqual(["It is mild.", ["Paris"], "tool-calls"]);
    const sent = scripted.prompts.at(-1);
    expect(sent).toContain('{"name": "weather", "arguments": {"city": "Paris"}}');
    expect(sent).toContain('<tool_response>\n{"celsius":21}\n</tool_response>');
    expect(sent).toContain("The weather of a city");
  });

  test("is streamed, its input in pieces", async () => {
    says(CALL, "Mild.");
    const seen: string[] = [];
    let input = "";
    const answer = streamText({ model, prompt: "How is Paris?", tools: { weather: weather() }, stopWhen: isStepCount(2) });
    for await (const part of answer.stream) {
      if (part.type === "tool-input-delta") input += part.delta;
      if (part.type.startsWith("tool-") && seen.at(-1) !== part.type) seen.push(part.type);
    }
    expect(seen).toEqual(["tool-input-start", "tool-input-delta", "tool-input-end", "tool-call", "tool-result"]);
    expect(JSON.parse(input)).toEqual({ city: "Paris" });
    expect(await answer.text).toBe("Mild.");
  });

  test("may be chosen", async () => {
    says("none of it");
    await generateText({ model, prompt: "hi", tools: { weather: weather() }, toolChoice: "none" });
    expect(scripted.prompts.at(-1)).not.toContain("<tools>");
    says('{"city": "Rome"}}\n</tool_call>');
    const named = await generateText({
      ...{ model, prompt: "hi", tools: { weather: weather() }, toolChoice: { type: "tool", toolName: "weather" } },
    });
    expect(named.toolCalls).toMatchObject([{ toolName: "weather", input: { city: "Rome" } }]);
  });
});

describe("an object", () => {
  const schema = jsonSchema<{ name: string }>({ type: "object", properties: { name: { type: "string" } }, required: ["name"] });

  test("is what the answer is held to", async () => {
    says('{"name":"Ada"}');
    // eslint-disable-next-line @typescript-eslint/no-deprecated -- apps have it, and will for long
    expect((await generateObject({ model, prompt: "Who?", schema })).object).toEqual({ name: "Ada" });
    expect(await scripted.requests.at(-1)?.constraint?.next()).toMatchObject({ kind: "forced" });
    const { output } = await generateText({ model, prompt: "Who?", output: Output.object({ schema }) });
    expect(output).toEqual({ name: "Ada" });
    await generateText({ model, prompt: "Who?", output: Output.json() });
    expect((await scripted.requests.at(-1)?.constraint?.next())?.kind).not.toBe("any");
  });
});

test("an engine may come when it is asked for, and is asked for again where it did not", async () => {
  says("late");
  let tries = 0;
  const later = wisp(() => (tries++ === 0 ? Promise.reject(new Error("offline")) : Promise.resolve(engine)));
  expect([later.modelId, tries]).toEqual(["wisp", 0]);
  await expect(generateText({ model: later, prompt: "hi" })).rejects.toThrow("offline");
  expect((await generateText({ model: later, prompt: "hi" })).text).toBe("late");
  await generateText({ model: later, prompt: "hi" });
  expect([later.modelId, tries]).toEqual(["scripted", 2]);
});
