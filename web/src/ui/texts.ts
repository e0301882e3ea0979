// What the page says, in the language of whoever reads it: one file a language in texts/. English comes with the page, another one
// when it is wanted. A view that calls t() is drawn anew when the language changes. What the engine says stays English.

import { batch, signal } from "@preact/signals";
import { count } from "./format";
import { type Language, language } from "./language";
import { type English, en, type Key, type Text, type Texts } from "./texts/en";

type Names<T> = T extends `${string}{${infer Name}}${infer Rest}` ? Name | Names<Rest> : never;
type NamesOf<K extends Key> = Names<English[K] extends { other: infer Other } ? Other : English[K]>;
/** The values that a text needs, by name; none at all where it has no place for one. */
export type Values<K extends Key, Value> = [NamesOf<K>] extends [never] ? [] : [Readonly<Record<NamesOf<K>, Value>>];

const texts = signal<Texts>(en);

const LOADERS: Record<Exclude<Language, "en">, () => Promise<{ texts: Texts }>> = {
  de: () => import("./texts/de"),
  es: () => import("./texts/es"),
  ja: () => import("./texts/ja"),
  "zh-Hans": () => import("./texts/zh-Hans"),
};

export const textsOf = async (wanted: Language): Promise<Texts> => (wanted === "en" ? en : (await LOADERS[wanted]()).texts);

let last: Language = "en";

/** Speaks this language from now on. @throws Error where its texts cannot be loaded; the page then goes on as it was */
export async function speak(wanted: Language): Promise<void> {
  last = wanted;
  const found = await textsOf(wanted);
  if (last !== wanted) return; // Another one was chosen meanwhile.
  batch(() => {
    texts.value = found;
    language.value = wanted;
  });
}

/** A text with values that are anything, in the order in which they stand in it. */
export function pieces<K extends Key, Value>(key: K, ...[values]: Values<K, Value>): (string | Value)[] {
  const given: Readonly<Record<string, Value>> = values ?? {};
  const text = formOf(texts.value[key], given["n"]);
  return text.split(/\{(\w+)\}/).map((piece, i) => (i % 2 === 0 ? piece : (given[piece] as Value)));
}

/** A text with these values; numbers are written as the language writes them. */
export function t<K extends Key>(key: K, ...values: Values<K, string | number>): string {
  return pieces<K, string | number>(key, ...values)
    .map((piece) => (typeof piece === "number" ? count(piece) : piece))
    .join("");
}

function formOf(text: Text, n: unknown): string {
  if (typeof text === "string") return text;
  return text[new Intl.PluralRules(language.value).select(Number(n))] ?? text.other;
}
