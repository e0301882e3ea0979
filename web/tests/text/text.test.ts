import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { ChatTemplate, sourceProgram } from "../../src/text/chat-template";
import { ControlTokens } from "../../src/text/contents";
import * as parser from "../../src/text/template-parser";
import { Detokenizer } from "../../src/text/detokenizer";
import { StopStrings } from "../../src/text/stop-strings";
import { Tokenizer } from "../../src/text/tokenizer";
import * as library from "../../src/text/tokenizer-library";
import { onTextWork } from "../../src/text/work";
import { turnWriter } from "../support/scripted-model";

interface Fixture {
  tokenizer: Record<string, unknown>;
  config: Record<string, unknown>;
  encoded: { text: string; ids: number[]; with_special: number[] }[];
  decoded: { ids: number[]; text: string; with_special: string }[];
}

function read(name: string): Fixture {
  return JSON.parse(readFileSync(resolve(import.meta.dirname, "../golden", name), "utf8")) as Fixture;
}

describe.each(["byte_level.json", "byte_fallback.json"])("the tokenizer of %s", (name) => {
  const fixture = read(name);
  const tokenizer = new Tokenizer(fixture.tokenizer, fixture.config, library);

  test.each(fixture.encoded)("encodes $text as Hugging Face's does", ({ text, ids, with_special }) => {
    expect(tokenizer.encode(text, false)).toEqual(ids);
    expect(tokenizer.encode(text, true)).toEqual(with_special);
  });

  test.each(fixture.decoded)("decodes $ids as Hugging Face's does", ({ ids, text, with_special }) => {
    expect(tokenizer.decode(ids, true)).toBe(text);
    expect(tokenizer.decode(ids, false)).toBe(with_special);
  });

  test("knows its special tokens and ids that are none", () => {
    expect(tokenizer.specialTokens).toMatchObject({ bos_token: "<s>", eos_token: "</s>" });
    expect(tokenizer.decode([], true)).toBe("");
    expect(tokenizer.decode([99_999], true)).toBe("");
  });

  test.each(["naïve café 東京 🙂🙃 done, it's fine", "🙂", "x".repeat(500), "a\n\n\tb  c"])(
    "streams %j without splitting a character",
    (text) => {
      const detokenizer = new Detokenizer((ids) => tokenizer.decode(ids, true));
      const pieces = tokenizer.encode(text, false).map((id) => detokenizer.push(id));
      pieces.push(detokenizer.flush());
      expect(pieces.join("")).toBe(text);
      for (const piece of pieces) expect(piece).not.toContain("\ufffd");
    },
  );

  test("decodes a bounded window, however long the answer", () => {
    let longest = 0;
    const detokenizer = new Detokenizer((ids) => {
      longest = Math.max(longest, ids.length);
      return tokenizer.decode(ids, true);
    });
    for (let i = 0; i < 3000; i++) detokenizer.push((i * 7919) % 300);
    expect(longest).toBeLessThan(32);
  });

  test("skips special tokens between words", () => {
    const detokenizer = new Detokenizer((ids) => tokenizer.decode(ids, true));
    const ids = [...tokenizer.encode("the fox", false), 4, 4, 4, ...tokenizer.encode(" dog", false)];
    const text = ids.map((id) => detokenizer.push(id)).join("") + detokenizer.flush();
    expect(text).toBe(tokenizer.decode(ids, true));
  });
});

test("an invalid byte comes out as a replacement character, not never", () => {
  const fixture = read("byte_fallback.json");
  const tokenizer = new Tokenizer(fixture.tokenizer, fixture.config, library);
  const detokenizer = new Detokenizer((ids) => tokenizer.decode(ids, true));
  const half = tokenizer.encode("🙂", false).at(-2) ?? 0;
  const word = tokenizer.encode("the", false);
  const pieces = [half, ...word, ...word].map((id) => detokenizer.push(id));
  expect(pieces.join("") + detokenizer.flush()).toMatch(/\ufffd.*the/);
});

describe("a tokenizer that makes a text longer", () => {
  const fixture = read("byte_level.json");
  const replace = (from: object, content: string) => ({ type: "Replace", pattern: from, content });
  const many = replace({ String: "a" }, "a".repeat(1000));
  const around = replace({ Regex: "[a-z]" }, "$`$'");
  const steps = (key: string, ...them: object[]) => ({ type: "Sequence", [key]: them });
  const tokenizerWith = (parts: object) => new Tokenizer({ ...fixture.tokenizer, ...parts }, fixture.config, library);
  const text = "banana ".repeat(1000);
  const tooLong = /tokenizer\.json: it makes a text too long: got more than 8 times its length and 65536 characters/;

  test.each<[string, object]>([
    ["a normalizer", { normalizer: steps("normalizers", many, many, many, many) }],
    ["one that repeats what stands around", { normalizer: around }],
    ["one that writes before it", { normalizer: steps("normalizers", { type: "Prepend", prepend: "x".repeat(200_000) }) }],
    ["a pre-tokenizer", { pre_tokenizer: steps("pretokenizers", many, many, many, fixture.tokenizer["pre_tokenizer"] as object) }],
  ])("without measure is stopped before the memory is full: %s", (_, parts) => {
    const tokenizer = tokenizerWith(parts);
    expect(() => tokenizer.encode(text, false)).toThrow(tooLong);
    expect(() => tokenizer.encode(text, false)).toThrow(tooLong);
  });

  test("is stopped in what is written, too", () => {
    const ids = tokenizerWith({}).encode(text, false);
    const byteLevel = fixture.tokenizer["decoder"] as object;
    const tokenizer = tokenizerWith({ decoder: steps("decoders", byteLevel, many, many, many) });
    expect(() => tokenizer.decode(ids, false)).toThrow(tooLong);
  });

  test("as published ones do is as it was", () => {
    const ids = tokenizerWith({}).encode(text, false);
    const longer = tokenizerWith({ normalizer: steps("normalizers", replace({ String: "a" }, "aaa"), replace({ Regex: "(a)aa" }, "$1")) });
    expect(longer.encode(text, false)).toEqual(ids);
  });
});

describe("stop strings", () => {
  const run = (stops: string[], pieces: string[]) => {
    const matcher = new StopStrings(stops);
    const out = pieces.map((piece) => matcher.push(piece));
    return { text: out.join("") + matcher.flush(), stopped: matcher.stopped, out };
  };

  test("are found across pieces and never let through in part", () => {
    expect(run(["<end>"], ["hello <", "en", "d> more"])).toMatchObject({ text: "hello ", stopped: true, out: ["hello ", "", ""] });
  });
  test("that almost match are let through", () => {
    expect(run(["<end>"], ["a <en", "tity>"])).toMatchObject({ text: "a <entity>", stopped: false });
  });
  test("that begin again within themselves are found", () => {
    expect(run(["aab"], ["a", "a", "a", "b", "c"])).toMatchObject({ text: "a", stopped: true });
  });
  test("stop at the first of several", () => {
    expect(run(["yz", "x"], ["abxcyz"])).toMatchObject({ text: "ab", stopped: true });
  });
  test("without any, everything passes at once", () => {
    expect(run([], ["a", "b"]).out).toEqual(["a", "b"]);
  });
});

/** As of an artifact that has no syntax tree. */
const fromSource = async (source: string, tokens: Record<string, string> = {}) =>
  new ChatTemplate(await sourceProgram(source, () => Promise.resolve(parser)), tokens, source);

describe("the chat template without a tree", () => {
  const source =
    "{{ bos_token }}{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] %}{{ raise_exception('Only user and assistant') }}{% endif %}" +
    "[{{ m['role'] }}]{{ m['content'] | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
  const template = fromSource(source, { bos_token: "<s>", eos_token: "</s>" });

  const one = (role: string, content: unknown) => [{ role, content }];

  test("sees messages, special tokens and the generation prompt", async () => {
    expect((await template).fill({ messages: one("user", " hi "), add_generation_prompt: true })).toBe("<s>[user]hi</s>[assistant]");
    expect((await template).fill({ messages: one("user", "hi"), add_generation_prompt: false })).toBe("<s>[user]hi</s>");
  });
  test("refuses in its own words", async () => {
    const made = await template;
    expect(() => made.fill({ messages: one("tool", "") })).toThrow(/Only user and assistant/);
  });
});

describe("a control token that somebody wrote is text, also where the vocabulary has it as a piece", () => {
  const special = (id: number, content: string) => ({
    ...{ id, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
  });
  const added = [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")];
  const pieces = ["<unk>", "<s>", "</s>", ...Array.from("</s>hi")].filter((piece, i, all) => all.indexOf(piece) === i);
  const models = {
    Unigram: { type: "Unigram", unk_id: 0, vocab: pieces.map((piece) => [piece, piece.length > 1 ? 0 : -5]), byte_fallback: false },
    BPE: { type: "BPE", unk_token: "<unk>", vocab: Object.fromEntries(pieces.map((p, i) => [p, i])), merges: [], ignore_merges: true },
  };
  test.each(Object.entries(models))("%s", (_, model) => {
    const parts = { version: "1.0", normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
    const tokenizer = new Tokenizer({ ...parts, added_tokens: added, model }, {}, library);
    const marks = new ControlTokens(tokenizer.addedTokens, "").marks('"hi</s>"');
    const ids = tokenizer.encode(marks.typed("hi</s>"), false, marks.originals);
    expect(ids).not.toContain(2);
    expect(ids.map((id) => tokenizer.tokenText(id)).join("")).toBe("hi</s>");
    expect(tokenizer.encode("hi</s>", false)).toContain(2);
  });
});

describe("a Unigram model with byte fallback", () => {
  const bytes = Array.from({ length: 256 }, (_, byte) => [`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, -100]);
  const model = { type: "Unigram", unk_id: 0, byte_fallback: true, vocab: [["<unk>", 0], ...bytes, ["a", -1], ["b", -2]] };
  const parts = { added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null };
  const tokenizer = new Tokenizer({ version: "1.0", ...parts, model, decoder: { type: "ByteFallback" } }, {}, library);

  test("gives the bytes of what no piece holds", () => {
    const ids = [257, ...Array.from(new TextEncoder().encode("é🙂"), (byte) => byte + 1), 258];
    expect(tokenizer.encode("aé🙂b", false)).toEqual(ids);
  });
});

describe("a template without a tree", () => {
  test("with an error of syntax is refused when it is made, as the artifact's", async () => {
    for (const source of ["{% for message in messages %}{{ message }}", "{{ messages[ }}", "{% nonsense %}"])
      await expect(fromSource(source)).rejects.toThrow(
        /^model\.json: chat_template is no template that this page can read: got .+, expected a Jinja template/,
      );
  });

  test("that makes more text than a page can hold says so", async () => {
    const doubled =
      "{% set ns = namespace(text='0123456789abcdef') %}{% for i in range(21) %}{% set ns.text = ns.text + ns.text %}{% endfor %}{{ ns.text }}";
    const template = await fromSource(doubled);
    expect(() => template.fill({ messages: [{ role: "user", content: "hi" }] })).toThrow(
      /it makes 33554432 characters of them, more than 16777216/,
    );
  });

  test("and a tokenizer say when they are at work, and when they have ended", async () => {
    const heard: (string | undefined)[] = [];
    onTextWork((work) => heard.push(work));
    const template = await fromSource("{{ raise_exception('no') }}");
    expect(() => template.fill({ messages: [{ role: "user", content: "hi" }] })).toThrow("no");
    expect(heard).toEqual(["template", undefined, "template", undefined]);
    onTextWork(undefined);
  });
});

test("messages in parts are kept where tools are told and answered in words", async () => {
  const template =
    "{% for message in messages %}<{{ message['role'] }}>{% if message['content'] is string %}{{ message['content'] }}" +
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}";
  const writer = await turnWriter(template);
  const parts = (...texts: string[]) => texts.map((text) => ({ type: "text" as const, text }));
  const given = { variables: {}, addGenerationPrompt: true, continueFinalMessage: undefined };
  const tools = [{ type: "function" as const, function: { name: "f" } }];
  const asked = writer.write(
    {
      ...given,
      tools,
      messages: [
        { role: "system", content: parts("one ", "two") },
        { role: "user", content: "hi" },
      ],
    },
    true,
  );
  expect(asked.text).toContain("one two");
  const call = { id: "1", type: "function" as const, function: { name: "f", arguments: "{}" } };
  const answered = writer.write(
    {
      ...given,
      tools: [],
      messages: [
        { role: "user", content: "q" },
        { role: "assistant", content: parts("so ", "be it"), tool_calls: [call] },
        { role: "tool", tool_call_id: "1", content: parts("three ", "four") },
      ],
    },
    true,
  );
  expect(answered.text).toContain("three four");
  expect(answered.text).toContain("so be it");
});
