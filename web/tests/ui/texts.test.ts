// The page's languages: each has every text, with the same values in it.
import { afterEach, describe, expect, it } from "vitest";
import { bytes, count, speed } from "../../src/ui/format";
import { directionOf, firstSpoken, isLanguage, type Language, language, LANGUAGES } from "../../src/ui/language";
import { pieces, speak, t, textsOf } from "../../src/ui/texts";
import { en, type Text } from "../../src/ui/texts/en";

const OTHERS = Object.keys(LANGUAGES).filter((tag): tag is Language => isLanguage(tag) && tag !== "en");
const forms = (text: Text): string[] => (typeof text === "string" ? [text] : Object.values(text));
const valuesIn = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => name).toSorted();

afterEach(() => speak("en"));

describe.each(OTHERS)("%s", (tag) => {
  it("has the texts that English has, with the same values", async () => {
    const texts = await textsOf(tag);
    expect(Object.keys(texts).toSorted()).toEqual(Object.keys(en).toSorted());
    for (const [key, english] of Object.entries(en) as [keyof typeof en, Text][]) {
      const values = valuesIn(forms(english).at(-1) ?? "");
      for (const form of forms(texts[key]))
        expect(
          valuesIn(form).filter((name) => name !== "n"),
          key,
        ).toEqual(values.filter((name) => name !== "n"));
      expect(
        forms(texts[key]).every((form) => form.trim() !== ""),
        key,
      ).toBe(true);
    }
  });

  it("has each plural form that it has, and no other", async () => {
    const { pluralCategories } = new Intl.PluralRules(tag).resolvedOptions();
    // "many" of the Romance languages is for millions, which read as other numbers do here.
    const needed = pluralCategories.filter((form) => form !== "many").toSorted();
    for (const [key, text] of Object.entries(await textsOf(tag)) as [keyof typeof en, Text][]) {
      const plural = typeof en[key] !== "string";
      expect(typeof text !== "string" || needed.length === 1, key).toBe(plural || needed.length === 1);
      if (typeof text !== "string") expect(Object.keys(text).toSorted(), key).toEqual(needed);
    }
  });

  it("is another language", async () => {
    const texts = await textsOf(tag);
    const keys = Object.keys(en) as (keyof typeof en)[];
    const same = keys.filter((key) => JSON.stringify(texts[key]) === JSON.stringify(en[key]));
    expect(same.length, String(same)).toBeLessThan(keys.length / 8);
  });
});

it("the language is the first that the page speaks", () => {
  expect(firstSpoken(["fr-FR", "de-AT", "es"])).toBe("de");
  expect(firstSpoken(["zh-CN"])).toBe("zh-Hans");
  expect(firstSpoken(["ja"])).toBe("ja");
  expect(firstSpoken(["fr"])).toBe("en");
  expect(firstSpoken([])).toBe("en");
  expect(isLanguage("toString")).toBe(false);
});

it("texts and numbers change together, and the last choice counts", async () => {
  const first = speak("de");
  const second = speak("es");
  await Promise.all([first, second]);
  expect(language.value).toBe("es");
  await speak("de");
  expect(t("bar.settings")).toBe("Einstellungen");
  expect(bytes(2_812_345)).toBe("2,8 MB");
  expect(count(12_345)).toBe("12.345");
  expect(speed(8.254)).toBe("8,25");
});

it("a text holds what it is given, where the text says", async () => {
  const node = { type: "code" };
  expect(pieces("bar.variant", { variant: node })).toEqual(["The variant chosen for this device: ", node, ""]);
  await speak("zh-Hans");
  expect(t("bar.variant", { variant: "{n}" })).toBe("为此设备选择的变体：{n}");
});

it("lines run to the left where the script does", () => {
  expect(directionOf("ar-EG")).toBe("rtl");
  expect(directionOf("zh-Hans")).toBe("ltr");
});
