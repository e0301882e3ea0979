// The page in Japanese.

import type { Texts } from "./en";

export const texts: Texts = {
  // The bar
  "bar.conversations": "会話",
  "bar.start": "Wisp、スタートページ",
  "bar.variant": "このデバイス用に選ばれたバリアント: {variant}",
  "bar.actions": "操作",
  "bar.device": "デバイス",
  "bar.settings": "設定",
  newChat: "新しいチャット",
  "page.part-failed": "ページの一部を読み込めませんでした。再読み込みしてください。",

  // Language
  "language.name": "言語",
  "language.browser": "ブラウザーの言語: {name}",
};
