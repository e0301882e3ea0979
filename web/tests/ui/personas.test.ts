// Personas and the files they come from: character cards as other programs write them, in JSON and in pictures.
import { expect, test } from "vitest";
import { NOTHING_CHOSEN } from "../../src/ui/state/choices";
import { cardOf, readCard } from "../../src/ui/state/card";
import { type Persona, shipped } from "../../src/ui/state/persona";
import { pngTexts } from "../../src/ui/state/png";

const bytes = (text: string) => new TextEncoder().encode(text);
const CARD = {
  spec: "chara_card_v2",
  spec_version: "2.0",
  data: {
    name: "Mira",
    description: "{{char}} keeps the lighthouse. She knows {{user}}.",
    personality: "dry",
    scenario: "",
    first_mes: "Hello, {{user}}. I am {{Char}}.",
    mes_example: "{{user}}: hi\n{{char}}: Mm.",
    system_prompt: "{{original}} Stay in the scene.",
    post_history_instructions: "Be short.",
    extensions: { other: 1 },
  },
};

function chunk(type: string, data: Uint8Array): number[] {
  const { length } = data;
  return [length >>> 24, (length >>> 16) & 255, (length >>> 8) & 255, length & 255, ...bytes(type), ...data, 0, 0, 0, 0];
}

/** A PNG file of these chunks; nobody decodes its picture. */
function png(...chunks: number[][]): Uint8Array {
  return new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, ...chunks.flat()]);
}

const textChunk = (keyword: string, text: string) => chunk("tEXt", bytes(`${keyword}\0${text}`));
const base64 = (text: string) => btoa(String.fromCharCode(...bytes(text)));

test("a card of version 2 becomes a system prompt and a greeting", () => {
  const persona = readCard(bytes(JSON.stringify(CARD)), "mira.json");
  expect(persona).toMatchObject({ name: "Mira", picture: "", greeting: "Hello, the user. I am Mira." });
  expect(persona.choices.systemPrompt).toBe(
    "Stay in the scene.\n\nAbout Mira:\nMira keeps the lighthouse. She knows the user.\n\nMira's personality:\ndry\n\n" +
      "How Mira talks:\nthe user: hi\nMira: Mm.\n\nBe short.",
  );
});

test("so does one of version 1, which has no envelope", () => {
  expect(readCard(bytes(JSON.stringify({ name: "Old", description: "x", first_mes: "y" })), "f")).toMatchObject({
    name: "Old",
    greeting: "y",
    choices: { systemPrompt: "About Old:\nx" },
  });
});

test("a picture carries its card, in any language", () => {
  const card = { ...CARD, data: { ...CARD.data, name: "ミラ", first_mes: "灯台へようこそ" } };
  const file = png(
    chunk("IHDR", new Uint8Array(13)),
    textChunk("Software", "x"),
    textChunk("chara", base64(JSON.stringify(card))),
    chunk("IEND", new Uint8Array()),
  );
  expect(pngTexts(file).get("Software")).toBe("x");
  expect(readCard(file, "mira.png")).toMatchObject({ name: "ミラ", greeting: "灯台へようこそ" });
});

test.each([
  ["it is not JSON", bytes("hello")],
  ["it has no name", bytes(JSON.stringify({ data: { name: "  " } }))],
  ["it has no name", bytes("[]")],
  ["carries no text called “chara”", png(chunk("IHDR", new Uint8Array(13)))],
  ["carries no text called “chara”", png([255, 255, 255, 255, ...bytes("tEXt")])],
  ["its text is not UTF-8", png(textChunk("chara", btoa("\xff\xfe")))],
  ["its text is not UTF-8", png(textChunk("chara", "no base64 at all!"))],
  ["its text is not UTF-8", new Uint8Array([0xff, 0xfe])],
])("what is none is refused by name: %s", (what, file) => {
  expect(() => readCard(file, "x.bin")).toThrow("x.bin is no character card: ");
  expect(() => readCard(file, "x.bin")).toThrow(what);
});

test("what is exported comes back whole, and is a card for others", () => {
  const persona: Persona = {
    id: "1",
    name: "Ada",
    picture: "data:image/png;base64,AAAA",
    greeting: "Hi.",
    choices: { ...NOTHING_CHOSEN, systemPrompt: "Be brief.\n\nAlways.", sampling: { temperature: 0.2 }, stop: ["END"] },
  };
  const { id, ...rest } = persona;
  expect(id).toBe("1");
  expect(readCard(bytes(cardOf(persona)), "f")).toEqual(rest);
  const card = JSON.parse(cardOf(persona)) as typeof CARD;
  expect(card).toMatchObject({ spec: "chara_card_v2", spec_version: "2.0", data: { name: "Ada", first_mes: "Hi." } });
  expect(card.data.system_prompt).toBe("Be brief.\n\nAlways.");
});

test("a card cannot bring a picture from elsewhere, nor settings out of range", () => {
  const extensions = { wisp: { picture: "data:text/html,x", choices: { sampling: { temperature: 50, top_k: 3 }, stop: "END" } } };
  const read = readCard(bytes(JSON.stringify({ data: { ...CARD.data, extensions } })), "f");
  expect(read.picture).toBe("");
  expect(read.choices).toMatchObject({ sampling: { top_k: 3 }, stop: [] });
});

test("those that ship are whole", () => {
  expect(shipped()).toHaveLength(3);
  for (const { name, greeting, choices, picture } of shipped()) expect([name, greeting, choices.systemPrompt, picture]).not.toContain("");
});
