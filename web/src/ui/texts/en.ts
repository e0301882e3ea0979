// The page in English, which the other languages are held to: they have the same keys, and the same values in each text.
// `{name}` is where a value stands; a text with plural forms is chosen by the value `n`.

export const en = {
  // The bar
  "bar.conversations": "Conversations",
  "bar.start": "Wisp, start page",
  "bar.variant": "The variant chosen for this device: {variant}",
  "bar.actions": "Actions",
  "bar.device": "Device",
  "bar.settings": "Settings",
  newChat: "New chat",
  "page.part-failed": "A part of the page could not be loaded. Reload the page.",

  // Language
  "language.name": "Language",
  "language.browser": "The browser’s: {name}",
} as const;

/** A text, or one for each of a language's plural forms. */
export type Text = string | Readonly<{ other: string } & Partial<Record<Intl.LDMLPluralRule, string>>>;

export type English = typeof en;
export type Key = keyof English;
export type Texts = Readonly<Record<Key, Text>>;
