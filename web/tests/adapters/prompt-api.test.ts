// The Prompt API's LanguageModel on the engine, with a scripted model behind a real one: what a page written for the browser's own sees.
import { beforeEach, describe, expect, test, vi } from "vitest";
import { type LanguageModelSession, promptApi } from "../../src/adapters/prompt-api";
import type { Engine } from "../../src/api/types";
import { createEngine } from "../../src/page/engine";
import { scripted } from "../support/scripted-model";

vi.mock("../../src/worker/load/load", async () => ({ load: (await import("../support/scripted-model")).load }));
vi.mock("../../src/worker/grammar-file", () => ({ loadGrammars: () => import("../../src/text/grammar/engine") }));
vi.mock("../../src/page/host", () => import("../support/in-process"));

const making = () => createEngine("http://nowhere.invalid/");
const says = (...answers: string[]) => {
  scripted.answers = answers;
};
const sent = () => scripted.prompts.at(-1) ?? "";
const turn = (role: string, content: string) => `<|im_start|>${role}\n${content}<|im_end|>\n`;
const ASSISTANT = "<|im_start|>assistant\n";
const named = (name: string) => expect.objectContaining({ name }) as Error;

let LanguageModel = promptApi(making);
beforeEach(() => {
  LanguageModel = promptApi(making);
  scripted.capacity = 4096;
  says("hello");
});

describe("an engine", () => {
  test("that was lost or disposed of is made anew for the next session", async () => {
    const engines: Engine[] = [];
    const lose: (() => void)[] = [];
    LanguageModel = promptApi(async ({ onDeviceLost }) => {
      lose.push(onDeviceLost);
      const engine = await making();
      engines.push(engine);
      return engine;
    });
    const session = await LanguageModel.create();
    await LanguageModel.create();
    expect([await LanguageModel.availability(), engines.length]).toEqual(["available", 1]);
    lose[0]?.();
    expect(await LanguageModel.availability()).toBe("downloadable");
    await expect(session.prompt("hi")).rejects.toThrow(/disposed/);
    expect(await (await LanguageModel.create()).prompt("hi")).toBe("hello");
    await engines[1]?.dispose();
    expect(await LanguageModel.availability()).toBe("downloadable");
    expect(await (await LanguageModel.create()).prompt("hi")).toBe("hello");
    expect(engines).toHaveLength(3);
  });

  test("that comes when nobody waits for it any more is disposed of", async () => {
    const engine = await making();
    let arrive: (() => void) | undefined;
    LanguageModel = promptApi(() => new Promise((resolve) => (arrive = () => resolve(engine)))); // Hears of no signal.
    const controller = new AbortController();
    const creating = LanguageModel.create({ signal: controller.signal });
    controller.abort();
    await expect(creating).rejects.toEqual(named("AbortError"));
    arrive?.();
    await vi.waitFor(() => expect(() => engine.stats()).toThrow(/disposed/));
    expect(await LanguageModel.availability()).toBe("downloadable");
  });
});

describe("a session", () => {
  test("remembers what was said", async () => {
    const session = await LanguageModel.create({ initialPrompts: [{ role: "system", content: "Be brief." }] });
    const before = session.inputUsage;
    expect(before).toBeGreaterThan(0);
    expect(await session.prompt("hi")).toBe("hello");
    says("again");
    expect(await session.prompt([{ role: "user", content: [{ type: "text", value: "and?" }] }])).toBe("again");
    const said = turn("system", "Be brief.") + turn("user", "hi") + turn("assistant", "hello") + turn("user", "and?");
    expect(sent()).toBe(said + ASSISTANT);
    expect(session.inputUsage).toBeGreaterThan(before);
    expect([session.inputQuota, session.contextWindow]).toEqual([4096, 4096]);
    await session.append("one more");
    await session.prompt("now");
    expect(sent()).toContain(turn("user", "one more") + turn("user", "now"));
  });

  test("streams", async () => {
    says("one two three");
    const session = await LanguageModel.create();
    const pieces: string[] = [];
    for await (const piece of session.promptStreaming("hi")) pieces.push(piece);
    expect(pieces.join("")).toBe("one two three");
    expect(pieces.length).toBeGreaterThan(1);
  });

  test("may be cloned, and its clone goes another way", async () => {
    const session = await LanguageModel.create();
    await session.prompt("hi");
    const other = await session.clone();
    expect(other).toBeInstanceOf(LanguageModel);
    expect(other.inputUsage).toBe(session.inputUsage);
    await other.prompt("left");
    await session.prompt("right");
    expect(sent()).not.toContain("left");
    session.destroy();
    await expect(session.prompt("hi")).rejects.toEqual(named("InvalidStateError"));
    await expect(session.clone()).rejects.toEqual(named("InvalidStateError"));
    expect(await other.prompt("still")).toBe("hello");
  });

  test("has its own sampling, within the model's", async () => {
    expect(await LanguageModel.params()).toBeNull();
    const session = await LanguageModel.create({ temperature: 99, topK: 3.5 });
    await session.prompt("hi");
    expect(scripted.requests.at(-1)?.sampling).toMatchObject({ temperature: 2, topK: 3 });
    expect([session.temperature, session.topK]).toEqual([2, 3]);
    const params = await LanguageModel.params();
    expect(params).toEqual({ defaultTemperature: 0, defaultTopK: 6000, maxTemperature: 2, maxTopK: 6000 });
    const plain = await LanguageModel.create();
    expect([plain.temperature, plain.topK]).toEqual([0, 6000]);
    await expect(LanguageModel.create({ temperature: -1 })).rejects.toBeInstanceOf(RangeError);
    await expect(LanguageModel.create({ topK: 0 })).rejects.toBeInstanceOf(RangeError);
  });

  test("goes on with a prefix", async () => {
    const session = await LanguageModel.create();
    says("Ada");
    const prefix = { role: "assistant" as const, content: "Her name is ", prefix: true };
    expect(await session.prompt([{ role: "user", content: "Who?" }, prefix])).toBe("Ada");
    expect(sent()).toBe(turn("user", "Who?") + ASSISTANT + "Her name is ");
    await session.prompt("and?");
    expect(sent()).toContain(turn("assistant", "Her name is Ada"));
    await expect(session.prompt([{ ...prefix, role: "user" }])).rejects.toEqual(named("SyntaxError"));
    await expect(session.prompt([prefix, { role: "user", content: "?" }])).rejects.toEqual(named("SyntaxError"));
  });

  test("calls tools", async () => {
    const asked: unknown[] = [];
    const execute = (input: { city: string }) => {
      asked.push(input);
      return Promise.resolve("21 degrees");
    };
    const tool = { name: "weather", description: "Of a city", inputSchema: { type: "object" }, execute };
    const session = await LanguageModel.create({ tools: [tool] });
    says('<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', "Mild.");
    expect(await session.prompt("How is Paris?")).toBe("Mild.");
    expect(asked).toEqual([{ city: "Paris" }]);
    expect(sent()).toContain("<tool_response>\n21 degrees\n</tool_response>");
  });
});

describe("an answer", () => {
  const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"] };

  test("may be held to a schema or an expression, which the model is told of", async () => {
    const session = await LanguageModel.create();
    says('{"ok":true}');
    await session.prompt("Well?", { responseConstraint: schema });
    expect(sent()).toContain(JSON.stringify(schema));
    expect((await scripted.requests.at(-1)?.constraint?.next())?.kind).toBe("forced");
    await session.prompt("Well?", { responseConstraint: /yes|no/, omitResponseConstraintInput: true });
    expect(sent()).not.toContain("yes|no");
    expect((await scripted.requests.at(-1)?.constraint?.next())?.kind).toBe("some");
    await expect(session.prompt("?", { responseConstraint: /yes/i })).rejects.toEqual(named("NotSupportedError"));
    const strange = { type: "string", format: "idn-email" };
    await expect(session.prompt("?", { responseConstraint: strange })).rejects.toEqual(named("NotSupportedError"));
  });

  test("may be given up, and was never asked for then", async () => {
    const session = await LanguageModel.create();
    says("word ".repeat(300));
    const controller = new AbortController();
    for await (const piece of session.promptStreaming("hi", { signal: controller.signal })) if (piece !== "") break; // the reader leaves
    await vi.waitFor(() => expect(scripted.requests.at(-1)?.signal.aborted).toBe(true));
    const asked = session.prompt("ho", { signal: controller.signal });
    controller.abort();
    await expect(asked).rejects.toEqual(named("AbortError"));
    says("hello");
    await session.prompt("now");
    expect(sent()).toBe(turn("user", "now") + ASSISTANT);
    says("word ".repeat(300));
    const ended = session.prompt("again");
    session.destroy();
    await expect(ended).rejects.toEqual(named("AbortError"));
  });

  test("is of what was asked before it", async () => {
    const session = await LanguageModel.create();
    says("a", "b");
    expect(await Promise.all([session.prompt("one"), session.prompt("two")])).toEqual(["a", "b"]);
    expect(sent()).toBe(turn("user", "one") + turn("assistant", "a") + turn("user", "two") + ASSISTANT);
  });
});

test("a conversation that grows too long loses its oldest turns, not the initial ones", async () => {
  scripted.capacity = 120;
  const session = await LanguageModel.create({ initialPrompts: [{ role: "system", content: "Be brief." }] });
  const seen: string[] = [];
  session.onquotaoverflow = ({ type }) => seen.push(type);
  session.addEventListener("contextoverflow", ({ type }) => seen.push(type));
  await session.prompt("first question of some length");
  while (seen.length === 0) await session.prompt("another question of some length");
  expect(seen).toEqual(["quotaoverflow", "contextoverflow"]);
  expect(sent()).not.toContain("first");
  expect(sent()).toContain("Be brief.");
  const added = await session.measureInputUsage("word ".repeat(200));
  expect(added).toBeGreaterThan(200);
  const before = session.inputUsage;
  const long = session.prompt("word ".repeat(200));
  await expect(long).rejects.toMatchObject({ name: "QuotaExceededError", quota: 120 });
  expect(session.inputUsage).toBe(before);
  const initialPrompts = [{ role: "user" as const, content: "word ".repeat(200) }];
  await expect(LanguageModel.create({ initialPrompts })).rejects.toEqual(named("QuotaExceededError"));
});

describe("what cannot be read", () => {
  test.each([
    [{ role: "critic", content: "a" }, TypeError],
    [{ role: "system", content: "a" }, TypeError],
    [{ role: "user", content: 5 }, TypeError],
    [{ role: "user", content: [{ type: "text", value: 5 }] }, TypeError],
    [{ role: "user", content: [{ type: "image", value: "a" }] }, DOMException],
  ])("is refused: %j", async (message, error) => {
    const session = await LanguageModel.create();
    await expect(session.prompt([message as never])).rejects.toBeInstanceOf(error);
    await expect(session.prompt([])).rejects.toBeInstanceOf(TypeError);
  });
});

describe("the model", () => {
  test("is loaded by the first session, once for all that wait", async () => {
    let finish = (): void => undefined;
    let tries = 0;
    const progress: number[][] = [[], []];
    const api = promptApi(async ({ onProgress }) => {
      tries++;
      onProgress({ phase: "weights", loadedBytes: 5, totalBytes: 10, cachedBytes: 0, waiting: null });
      await new Promise<void>((resolve) => (finish = resolve));
      return making();
    });
    expect(await api.availability()).toBe("downloadable");
    const sessions = progress.map((list) =>
      api.create({
        monitor: (m) => m.addEventListener("downloadprogress", (event) => list.push((event as unknown as { loaded: number }).loaded)),
      }),
    );
    expect(await api.availability()).toBe("downloading");
    finish();
    const [first, second] = (await Promise.all(sessions)) as [LanguageModelSession, LanguageModelSession];
    expect(await api.availability()).toBe("available");
    expect(tries).toBe(1);
    expect(progress).toEqual([
      [0, 0.5, 1],
      [0, 1],
    ]);
    first.destroy();
    expect(await second.prompt("hi")).toBe("hello");
    expect(await api.availability({ expectedInputs: [{ type: "audio" }] })).toBe("unavailable");
    await expect(api.create({ expectedInputs: [{ type: "audio" }] })).rejects.toEqual(named("NotSupportedError"));
    expect(await api.availability({ expectedInputs: [{ type: "text", languages: ["en"] }] })).toBe("available");
    expect(await promptApi(making, { isStored: () => Promise.resolve(true) }).availability()).toBe("available");
  });

  test("is not loaded on when nobody waits, and is asked for again", async () => {
    const signals: AbortSignal[] = [];
    const api = promptApi(({ signal }) => {
      signals.push(signal);
      return signals.length > 1
        ? making()
        : new Promise<Engine>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));
    });
    const controllers = [new AbortController(), new AbortController()] as const;
    const asked = controllers.map(({ signal }) => api.create({ signal }));
    controllers[0].abort();
    await expect(asked[0]).rejects.toEqual(named("AbortError"));
    expect(signals[0]?.aborted).toBe(false);
    controllers[1].abort();
    await expect(asked[1]).rejects.toEqual(named("AbortError"));
    expect([signals[0]?.aborted, await api.availability()]).toEqual([true, "downloadable"]);
    const controller = new AbortController();
    const session = await api.create({ signal: controller.signal });
    controller.abort();
    await expect(session.prompt("hi")).rejects.toEqual(named("InvalidStateError"));
  });
});
