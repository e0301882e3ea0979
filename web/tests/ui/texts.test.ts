// The page's languages: each has every text, with the same values in it; and no text stands where it could not be translated.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
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

// ------------------------------------------------------------------------------------------------ texts outside of texts/

const UI = join(import.meta.dirname, "../../src/ui");
/** Code that looks like words. */
const NO_TEXTS = ["Wisp", "id | null", "(pointer: fine)", "(min-width: 64rem)", "(min-width: 80rem)", "wisp compile configs/demo"];
/** Names of languages, what is for the console and for models, lists of elements. */
const FILES_WITH_ENGLISH = [
  "texts/",
  "language.ts",
  "markdown",
  "state/request.ts",
  "check.ts",
  "highlight.ts",
  "state/persona.ts",
  "state/card.ts",
];

/** Words, by the look of it: two of them apart, or one with a capital letter that is no name of code. */
function isText(text: string): boolean {
  return /\p{L}{2,}[^\p{L}<>="/]*\s[^\p{L}<>="/]*\p{L}{2,}/u.test(text) || /^\p{Lu}\p{Ll}+[.…:]?$/u.test(text.trim());
}

/** Elsewhere than in imports, types, classes, thrown errors of programmers and comparisons. */
function isCode(node: ts.Node): boolean {
  const { parent } = node;
  if (ts.isImportDeclaration(parent) || ts.isLiteralTypeNode(parent) || (ts.isPropertyAssignment(parent) && parent.name === node))
    return true;
  if (ts.isBinaryExpression(parent)) return /^[=!]==$/.test(parent.operatorToken.getText());
  if (ts.isElementAccessExpression(parent) || ts.isCaseClause(parent)) return true;
  for (let at: ts.Node = node; !ts.isStatement(at); at = at.parent) {
    if (ts.isNewExpression(at) && at.expression.getText() === "Error") return true;
    if (ts.isJsxAttribute(at)) return !/^(?:title|label|placeholder|alt|aria-(?:label|description|valuetext))$/.test(at.name.getText());
  }
  return false;
}

function textsIn(source: ts.SourceFile): string[] {
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isJsxText(node) && /\p{L}{2,}/u.test(node.text)) found.push(node.text.trim());
    const template = ts.isTemplateExpression(node)
      ? [node.head, ...node.templateSpans.map(({ literal }) => literal)].map(({ text }) => text).join("{}")
      : null;
    const text = ts.isStringLiteralLike(node) ? node.text : template;
    if (text !== null && isText(text) && !isCode(node)) found.push(text);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found.filter((text) => !NO_TEXTS.includes(text));
}

const parsed = (name: string, text: string) => ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true, ts.ScriptKind.TSX);

it("no text stands outside of the files of texts", () => {
  const names = (readdirSync(UI, { recursive: true }) as string[]).filter((name) => /\.tsx?$/.test(name));
  const held = names.filter((name) => !FILES_WITH_ENGLISH.some((other) => name.startsWith(other)));
  expect(held.length).toBeGreaterThan(30);
  const found = held.flatMap((name) => textsIn(parsed(name, readFileSync(join(UI, name), "utf8"))).map((text) => `${name}: ${text}`));
  expect(found).toEqual([]);
});

it("and would be seen there", () => {
  const view = `const View = () => <p class="a b" title={\`For \${name} alone\`} aria-label="Close">Some words{x ? "Copied" : "none"}</p>; show("Not now.");`;
  expect(textsIn(parsed("view.tsx", view))).toEqual(["For {} alone", "Close", "Some words", "Copied", "Not now."]);
  expect(
    textsIn(
      parsed("state.ts", 'notices.show("It is gone."); const key = "start.title"; if (kind === "Some kind") go("context-overflow");'),
    ),
  ).toEqual(["It is gone."]);
});

it("every text is used", () => {
  const names = (readdirSync(UI, { recursive: true }) as string[]).filter((name) => /\.tsx?$/.test(name) && !name.startsWith("texts/"));
  const code = names.map((name) => readFileSync(join(UI, name), "utf8")).join("\n");
  // Keys that are put together: their beginning stands there with the value behind it.
  const built = [...code.matchAll(/`([\w.-]+[.-])\$\{/g)].map(([, start = ""]) => start);
  const unused = Object.keys(en).filter(
    (key) =>
      !code.includes(`"${key}"`) &&
      !built.some((start) => key.startsWith(start)) &&
      !(key.endsWith("-why") && code.includes(`"${key.slice(0, -4)}"`)),
  );
  expect(unused).toEqual([]);
});
