// Embeddings through the public API and through OpenAI's own client, with no network; and what each kind of model refuses.
import { embedMany } from "ai";
import OpenAI from "openai";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { wispEmbedding } from "../../src/adapters/ai-sdk";
import type { Engine } from "../../src/api/types";
import { createEngine } from "../../src/page/engine";
import { ScriptedModel } from "../support/scripted-model";

const { loading } = vi.hoisted((): { loading: { next: () => Promise<unknown> } } => ({
  loading: { next: () => Promise.reject(new Error()) },
}));
vi.mock("../../src/worker/load/load", () => ({ load: () => loading.next() }));
vi.mock("../../src/page/host", () => import("../support/in-process"));

const SIZE = 4;
/** What the network makes of ids: of any length. */
const hidden = (ids: readonly number[]): number[] => Array.from({ length: SIZE }, (_, i) => ids.length * (i - 1) + (ids[0] ?? 0));
const unit = (vector: readonly number[]): number[] => vector.map((value) => value / Math.hypot(...vector));

const scripted = new ScriptedModel();
const outputs: number[][] = [];
const idsOf = (text: string): number[] => scripted.tokenizer.encode(text, true);

async function embeddingModel() {
  const loaded = await scripted.loaded();
  const manifest = { ...loaded.artifact.manifest, embeddingSize: SIZE };
  const output = async (ids: readonly number[], signal: AbortSignal) => {
    await Promise.resolve();
    outputs.push([...ids]);
    return signal.aborted ? undefined : Float32Array.from(hidden(ids));
  };
  return { ...loaded, artifact: { ...loaded.artifact, manifest, turns: undefined }, session: { counters: {}, output } };
}

let engine: Engine;
let client: OpenAI;

beforeAll(async () => {
  loading.next = embeddingModel;
  engine = await createEngine("http://nowhere.invalid/");
  client = new OpenAI({ apiKey: "none", baseURL: "http://engine.invalid/v1", fetch: engine.fetch, maxRetries: 0 });
});

describe("an embedding", () => {
  test("is of length 1, one for each text", async () => {
    expect(engine.info).toMatchObject({ task: "embedding", embeddingSize: SIZE });
    const [first, second] = await engine.embed(["hello", "a light in the reeds"]);
    expect(first).toBeInstanceOf(Float32Array);
    unit(hidden(idsOf("hello"))).forEach((value, i) => expect(first?.[i]).toBeCloseTo(value, 6));
    unit(hidden(idsOf("a light in the reeds"))).forEach((value, i) => expect(second?.[i]).toBeCloseTo(value, 6));
  });

  test("is a model of the AI SDK's", async () => {
    const values = ["hello", "a light in the reeds"];
    const { embeddings, usage } = await embedMany({ model: wispEmbedding(engine), values });
    expect(embeddings).toEqual((await engine.embed(values)).map((vector) => Array.from(vector)));
    expect(usage.tokens).toBe(values.flatMap(idsOf).length);
  });

  test("of fewer dimensions has length 1 again", async () => {
    const [vector] = await engine.embed("hello", { dimensions: 2 });
    expect(Array.from(vector ?? [])).toHaveLength(2);
    expect(Math.hypot(...(vector ?? []))).toBeCloseTo(1, 6);
    await expect(engine.embed("hello", { dimensions: 5 })).rejects.toThrow("dimensions: got 5, expected an integer from 1 to 4");
  });

  test("takes ids as they are", async () => {
    await engine.embed([[7, 8], [9]]);
    expect(outputs.slice(-2)).toEqual([[7, 8], [9]]);
  });

  test("that nobody waits for ends between two texts", async () => {
    const controller = new AbortController();
    const before = outputs.length;
    const embedding = engine.embed(["a", "b", "c"], { signal: controller.signal });
    controller.abort();
    await expect(embedding).rejects.toThrow("aborted");
    await engine.embed("last");
    expect(outputs.length - before).toBeLessThan(4);
  });

  test.each([[], "", {}, [1, "a"], [["a"]], null, Array.from({ length: 2049 }, () => "a")].map((input) => [input]))(
    "is of texts or of ids, not of %j",
    async (input) => {
      if (input === "") await expect(engine.embed(input)).resolves.toHaveLength(1);
      else await expect(engine.embed(input as string)).rejects.toThrow("input: got");
    },
  );
});

describe("OpenAI's client", () => {
  test.each([undefined, "float", "base64"] as const)("gets the same numbers as %s", async (format) => {
    const [want] = await engine.embed("hello");
    const made = await client.embeddings.create({
      ...{ model: "m", input: ["hello", "x"] },
      ...(format === undefined ? {} : { encoding_format: format }),
    });
    expect(made).toMatchObject({ object: "list", model: "scripted", data: [{ object: "embedding", index: 0 }, { index: 1 }] });
    const count = idsOf("hello").length + idsOf("x").length;
    expect(made.usage).toEqual({ prompt_tokens: count, total_tokens: count });
    const got: unknown = made.data[0]?.embedding;
    const numbers =
      typeof got === "string" ? new Float32Array(Uint8Array.from(atob(got), (c) => c.charCodeAt(0)).buffer) : (got as number[]);
    expect(Array.from(numbers)).toEqual(Array.from(want ?? []));
  });

  test("gets errors as it knows them", async () => {
    await expect(client.embeddings.create({ model: "m", input: "a", encoding_format: "hex" as "float" })).rejects.toMatchObject({
      status: 400,
      param: "encoding_format",
    });
    await expect(client.embeddings.create({ model: "m", input: "a", user: "u", dimensions: 9 })).rejects.toMatchObject({ status: 400 });
    await expect(client.embeddings.create({ model: "m", input: "a", audio: 1 } as never)).rejects.toMatchObject({ param: "audio" });
  });
});

test("a model that gives embeddings generates nothing", async () => {
  const messages = [{ role: "user" as const, content: "hi" }];
  const refusal = "is for models that generate text: got the embedding model scripted";
  await expect(engine.chat.completions.create({ messages })).rejects.toThrow(refusal);
  await expect(engine.completions.create({ prompt: "a" })).rejects.toThrow(refusal);
  await expect(engine.generateIds([1])).rejects.toThrow(refusal);
  await expect(engine.logits([1])).rejects.toThrow(refusal);
  await expect(client.chat.completions.create({ model: "m", messages })).rejects.toMatchObject({ status: 400 });
});

test("a model that generates text gives no embeddings", async () => {
  loading.next = () => scripted.loaded();
  const chats = await createEngine("http://nowhere.invalid/");
  const refusal = "is for models that give embeddings: got the text-generation model scripted";
  await expect(chats.embed("a")).rejects.toThrow(refusal);
  await expect(chats.embeddings.create({ input: "a" })).rejects.toThrow(refusal);
});
