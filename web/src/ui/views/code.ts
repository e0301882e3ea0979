// What the code in a complete answer is given: a button that copies it, and colours where it names a language.

import { t } from "../texts";

const COPIED_MS = 1600;

function copyButton(code: Element): HTMLButtonElement {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy-code";
  button.textContent = t("copy");
  button.dataset["testid"] = "copy-code";
  button.addEventListener("click", () => {
    navigator.clipboard.writeText(code.textContent).then(
      () => (button.textContent = t("copied")),
      () => (button.textContent = t("copy.denied")),
    );
    setTimeout(() => (button.textContent = t("copy")), COPIED_MS);
  });
  return button;
}

async function colour(code: HTMLElement, language: string): Promise<void> {
  const { highlight } = await import("../highlight");
  const coloured = highlight(code.textContent, language);
  if (coloured !== null) code.replaceChildren(coloured);
}

/** Once for each block of code below `root`. */
export function dressCode(root: Element): void {
  for (const code of root.querySelectorAll<HTMLElement>("pre > code")) {
    const pre = code.parentElement;
    if (pre === null || pre.querySelector(".copy-code") !== null) continue;
    pre.append(copyButton(code));
    const { language = "" } = code.dataset;
    // Colours are an extra: code is readable without them.
    if (language !== "") colour(code, language).catch(() => undefined);
  }
}
