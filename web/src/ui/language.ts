// The languages that the page speaks, and the one it speaks now. Knows no texts and no document.

import { signal } from "@preact/signals";

/** By BCP 47, with the names that their speakers give them. */
export const LANGUAGES = { en: "English", de: "Deutsch", es: "Español", ja: "日本語", "zh-Hans": "简体中文" } as const;

export type Language = keyof typeof LANGUAGES;

/** What numbers and texts are written in. */
export const language = signal<Language>("en");

export const isLanguage = (found: unknown): found is Language => typeof found === "string" && Object.hasOwn(LANGUAGES, found);

const family = (tag: string): string => tag.toLowerCase().split("-")[0] ?? "";

/** The first of these tags (such as `de-AT`) that the page speaks, whatever its region; English where it speaks none. */
export function firstSpoken(tags: readonly string[]): Language {
  const all = Object.keys(LANGUAGES) as Language[];
  for (const tag of tags) {
    const found = all.find((each) => family(each) === family(tag));
    if (found !== undefined) return found;
  }
  return "en";
}

const RIGHT_TO_LEFT: ReadonlySet<string> = new Set(["ar", "fa", "he", "ur"]);

export const directionOf = (tag: string): "ltr" | "rtl" => (RIGHT_TO_LEFT.has(family(tag)) ? "rtl" : "ltr");
