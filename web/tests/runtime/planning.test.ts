import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import type { Plan, TensorCache } from "../../src/artifact/schema";
import { ChunkPace, commonPrefix, coverPrompt } from "../../src/runtime/prefill";
import { SAMPLING } from "../../src/api/sampling";
import { penalizes, resolveSampling, samplingWords } from "../../src/runtime/sampling";
import { planUploads } from "../../src/runtime/upload";

describe("covering a prompt", () => {
  const sizes = [16, 64, 256];

  test("takes every token once, with padding in the last chunk only", () => {
    for (let count = 0; count < 600; count++) {
      const chunks = coverPrompt(count, sizes);
      expect(chunks.reduce((sum, { length }) => sum + length, 0)).toBe(count);
      expect(chunks.slice(0, -1).every(({ size, length }) => length === size)).toBe(true);
      expect(chunks.every(({ size, length }) => length > 0 && length <= size)).toBe(true);
    }
  });

  test("takes the cheapest programs", () => {
    const chosen = (count: number) => coverPrompt(count, sizes).map(({ size }) => size);
    expect(chosen(0)).toEqual([]);
    expect(chosen(1)).toEqual([16]);
    expect(chosen(17)).toEqual([16, 16]);
    expect(chosen(60)).toEqual([64]);
    expect(chosen(65)).toEqual([64, 16]);
    expect(chosen(250)).toEqual([256]);
    expect(chosen(10_000).length).toBeLessThan(42);
  });
});

test("chunks that end soon follow the speed of the runner", () => {
  const after = (ms: number) => {
    const pace = new ChunkPace();
    for (let i = 0; i < 10; i++) pace.observe(ms * 32, 32);
    return pace.next(1000, [16, 64, 256]);
  };
  expect(new ChunkPace().next(1000, [256])).toEqual({ size: 256, length: 16 });
  expect(new ChunkPace().next(3, [16, 64])).toEqual({ size: 16, length: 3 });
  expect(after(1)).toEqual({ size: 256, length: 80 });
  expect(after(40)).toEqual({ size: 16, length: 8 }); // not less: a tile of tokens shares what it reads
  expect(after(0.01)).toEqual({ size: 256, length: 256 });
});

test("the common prefix", () => {
  expect(commonPrefix([], [1])).toBe(0);
  expect(commonPrefix([1, 2, 3], [1, 2, 4])).toBe(2);
  expect(commonPrefix([1, 2], [1, 2, 3])).toBe(2);
});

describe("sampling parameters", () => {
  const defaults = { temperature: 0.7, topK: 0, topP: 0.95, minP: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0 };

  test("lie in the state buffer where the format says", () => {
    const sampling = resolveSampling({ topK: 40, presencePenalty: 0.5, frequencyPenalty: 0.25, minP: 0.125 }, defaults, -2);
    const view = new DataView(samplingWords(sampling).buffer);
    const word = (i: number) => view.getUint32(4 * (i - 3), true);
    const float = (i: number) => view.getFloat32(4 * (i - 3), true);
    expect([word(3), word(5)]).toEqual([0xfffffffe, 40]);
    expect([float(4), float(6), float(7), float(8), float(9), float(10)].map((x) => Number(x.toFixed(4)))).toEqual([
      0.7, 0.95, 0.125, 1, 0.5, 0.25,
    ]);
    expect(view.byteLength).toBe(4 * 13);
    expect([11, 12, 13, 14, 15].map(word)).toEqual([0, 0, 0, 0, 0]);
  });
  test.each([
    { temperature: -1 },
    { temperature: NaN },
    { topK: 1.5 },
    { topK: -2 },
    { topP: -0.1 },
    { topP: 1.1 },
    { minP: 2 },
    { repetitionPenalty: 0 },
    { presencePenalty: Infinity },
  ])("out of range are refused: %j", (options) => {
    const [name = ""] = Object.keys(options);
    expect(() => resolveSampling(options, defaults, 1)).toThrow(new RegExp(`${name}: got .*, expected`));
  });
  test("have the ranges of the compiler", () => {
    const path = resolve(import.meta.dirname, "../../../tests/golden/sampling.json");
    const { ranges } = JSON.parse(readFileSync(path, "utf8")) as { ranges: unknown };
    const rows = Object.values(SAMPLING).map((row) => [row.request, [row.least, row.most, "integer" in row]]);
    expect(Object.fromEntries(rows)).toEqual(ranges);
  });
  test.each([{ temperature: 1e-38 }, { topP: 0 }, { temperature: 0, topK: -1 }])(
    "that mean the most probable token are greedy: %j",
    (options) => {
      expect(resolveSampling({ temperature: 1, ...options }, defaults, 1)).toMatchObject({ temperature: 0, topK: 0 });
    },
  );
  test("without a seed take a random one", () => {
    for (const none of [undefined, -1]) {
      const seeds = new Set(Array.from({ length: 8 }, () => resolveSampling({}, defaults, none).seed));
      expect(seeds.size).toBeGreaterThan(1);
    }
    expect(() => resolveSampling({}, defaults, 0.5)).toThrow(/seed/);
  });
  test("need the counts when a penalty is on", () => {
    expect(penalizes(resolveSampling({}, defaults, 1))).toBe(false);
    expect(penalizes(resolveSampling({ frequencyPenalty: 0.1 }, defaults, 1))).toBe(true);
  });
});

test("rows go from any split of shards to any split of buffers", () => {
  const dtype = "uint32" as const;
  const part = (rowOffset: number, rows: number) => ({ name: "w", dtype, shape: [rows, 2], rowOffset, byteOffset: 8, nbytes: rows * 8 });
  const shards = [part(0, 64), part(64, 64), part(128, 72)].map((record, i) => ({
    path: `${i}`,
    nbytes: record.nbytes + 8,
    records: [record],
  }));
  const unused = { path: "unused", nbytes: 4, records: [{ name: "x", dtype, shape: [1], rowOffset: 0, byteOffset: 0, nbytes: 4 }] };
  const weights: TensorCache = { shards: [...shards, unused], tensors: new Map() };
  const rows: [number, number][] = [
    [0, 96],
    [96, 200],
  ];
  const buffers = rows.map((range) => ({
    kind: "weight" as const,
    name: "w",
    dtype,
    shape: [200, 2],
    rows: range,
    bytes: (range[1] - range[0]) * 8,
  }));
  const uploads = planUploads({ buffers } as Partial<Plan> as Plan, weights);
  expect([...uploads.keys()].map(({ path }) => path)).toEqual(["0", "1", "2"]);
  expect([...uploads.values()]).toEqual([
    [{ buffer: 0, offset: 0, from: 8, to: 8 + 512 }],
    [
      { buffer: 0, offset: 512, from: 8, to: 8 + 256 },
      { buffer: 1, offset: 0, from: 8 + 256, to: 8 + 512 },
    ],
    [{ buffer: 1, offset: 256, from: 8, to: 8 + 576 }],
  ]);
});
