// The page in Chinese, in simplified characters.

import type { Texts } from "./en";

export const texts: Texts = {
  // The bar
  "bar.conversations": "对话",
  "bar.start": "Wisp 起始页",
  "bar.variant": "为此设备选择的变体：{variant}",
  "bar.actions": "操作",
  "bar.device": "设备",
  "bar.settings": "设置",
  newChat: "新聊天",
  "page.part-failed": "页面的一部分未能加载。请重新加载页面。",

  // Language
  "language.name": "语言",
  "language.browser": "浏览器语言：{name}",
};
