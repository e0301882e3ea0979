// Before the page's own code, which older browsers may not be able to read: a script of its own, in the oldest syntax, that
// says in their place what they are asked to do. Built as check.js.

import { tooOld } from "../api/browsers";

const sentence = tooOld();
const notice = document.getElementById("old-browser");
if (sentence !== undefined && notice !== null) {
  notice.textContent = `${sentence}. Update it, or open this page in another one.`;
  notice.hidden = false;
  document.documentElement.setAttribute("data-old-browser", "");
}
