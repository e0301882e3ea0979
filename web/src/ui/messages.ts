// How one message of the conversation looks, and what can be done with it. Knows no engine.

import type { FinishReason, Usage } from "../api/types";
import { el, icon } from "./dom";
import { count, latency, plural, speed } from "./format";
import { MarkdownView } from "./markdown";

export function userMessage(text: string): HTMLElement {
  return el("article", { class: "message user", "data-testid": "message-user", "aria-label": "You" }, el("p", {}, text));
}

interface AnswerActions {
  onRegenerate: () => void;
  onGrow: () => void;
}

/** An answer that streams in: text, then what it cost and its buttons. */
export class AnswerView {
  readonly root: HTMLElement;
  readonly #body: HTMLElement;
  readonly #foot: HTMLElement;
  readonly #regenerate: HTMLButtonElement;
  readonly #markdown: MarkdownView;
  readonly #onGrow: () => void;
  #thoughts: ThoughtsView | undefined;

  constructor(actions: AnswerActions) {
    this.#onGrow = actions.onGrow;
    this.#body = el("div", { class: "prose", "data-testid": "answer-text" });
    this.#foot = el("footer", { class: "answer-foot", hidden: true });
    this.root = el(
      "article",
      { class: "message answer streaming", "data-testid": "message-answer", "aria-label": "Answer", "aria-busy": "true" },
      this.#body,
      this.#foot,
    );
    this.#markdown = new MarkdownView(this.#body, actions.onGrow);
    this.#regenerate = button("again", "Regenerate", "regenerate", actions.onRegenerate);
  }

  get text(): string {
    return this.#markdown.text;
  }

  append(text: string): void {
    if (text !== "") this.#thoughts?.end();
    this.#markdown.append(text);
  }

  /** What the model thinks before it answers: in sight while it grows, then folded. */
  think(text: string): void {
    if (this.#thoughts === undefined) {
      this.#thoughts = new ThoughtsView();
      this.#body.before(this.#thoughts.root);
    }
    this.#thoughts.append(text);
    this.#onGrow();
  }

  /** Ends the streaming. `usage` is null when the engine gave none; `problem` is shown under the text. */
  finish(usage: Usage | null, reason: FinishReason | null, problem?: string): void {
    this.#markdown.flush();
    this.#thoughts?.end();
    this.root.classList.remove("streaming");
    this.root.setAttribute("aria-busy", "false");
    const note = problem ?? noteFor(reason, this.text);
    if (note !== null) {
      this.#foot.before(el("p", { class: problem === undefined ? "note" : "note bad", "data-testid": "answer-note" }, note));
    }
    const copy = button("copy", "Copy", "copy", () => void this.#copy(copy));
    this.#foot.append(el("div", { class: "answer-actions" }, copy, this.#regenerate));
    if (usage !== null) this.#foot.append(stats(usage));
    this.#foot.hidden = false;
  }

  /** Only the last answer can be asked for again. */
  set isLast(last: boolean) {
    this.#regenerate.hidden = !last;
  }

  async #copy(control: HTMLButtonElement): Promise<void> {
    const label = control.querySelector("span");
    let result = "Copied";
    try {
      await navigator.clipboard.writeText(this.text);
      control.querySelector("svg")?.replaceWith(icon("check"));
    } catch {
      result = "Not allowed here";
    }
    if (label !== null) label.textContent = result;
    setTimeout(() => {
      control.querySelector("svg")?.replaceWith(icon("copy"));
      if (label !== null) label.textContent = "Copy";
    }, 1600);
  }
}

/** Thoughts are plain text: they are nobody's to format. */
class ThoughtsView {
  readonly root: HTMLDetailsElement;
  readonly #title = el("summary", {}, "Thinking…");
  readonly #text = el("p", { dir: "auto" });
  readonly #startedAt = performance.now();
  #ended = false;

  constructor() {
    this.root = el("details", { class: "thoughts", "data-testid": "answer-thoughts", open: true }, this.#title, this.#text);
  }

  append(text: string): void {
    this.#text.append(text);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#title.textContent = `Thought for ${latency((performance.now() - this.#startedAt) / 1000)}`;
    this.root.open = false;
  }
}

function button(iconName: string, label: string, testId: string, onClick: () => void): HTMLButtonElement {
  const made = el("button", { type: "button", class: "quiet small", "data-testid": testId }, icon(iconName), el("span", {}, label));
  made.addEventListener("click", onClick);
  return made;
}

function noteFor(reason: FinishReason | null, text: string): string | null {
  if (reason === "abort") return text === "" ? "Stopped before the first word." : "Stopped.";
  if (reason === "length") return "Cut off: the answer reached its longest length or the end of the context.";
  return text === "" ? "The model had nothing to say." : null;
}

function stats(usage: Usage): HTMLElement {
  const { extra } = usage;
  const reused = extra.reused_tokens > 0 ? `, ${count(extra.reused_tokens)} of them kept from before` : "";
  const value = (id: string, text: string, title?: string): HTMLElement => el("dd", { "data-testid": id, title }, text);
  return el(
    "dl",
    { class: "stats number", "data-testid": "answer-stats" },
    el(
      "div",
      {},
      el("dt", {}, "Prompt"),
      " ",
      value("prompt-tokens", plural(usage.prompt_tokens, "token"), `Tokens of the conversation${reused}`),
      " ",
      value("prefill-rate", `${speed(extra.prefill_tokens_per_second)} tok/s`, "How fast the new part of the prompt was read"),
    ),
    el("div", {}, el("dt", {}, "First token"), " ", value("first-token", latency(extra.time_to_first_token_s))),
    el(
      "div",
      {},
      el("dt", {}, "Answer"),
      " ",
      value("answer-tokens", plural(usage.completion_tokens, "token")),
      " ",
      value("decode-rate", `${speed(extra.decode_tokens_per_second)} tok/s`),
    ),
  );
}
