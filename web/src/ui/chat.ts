// The conversation: one request at a time to the engine, and the messages, notices and buttons around it.

import type { ChatMessage, Engine, FinishReason, Usage } from "../api/types";
import { byId, el } from "./dom";
import { count } from "./format";
import { AnswerView, userMessage } from "./messages";
import { ContextMeter } from "./meter";
import { AutoScroll } from "./scroll";
import type { Settings } from "./settings";

interface Turn {
  role: "user" | "assistant";
  content: string;
  element: HTMLElement;
}

export interface NoticeAction {
  label: string;
  run: () => void;
}

const FALLBACK_SUGGESTIONS = [
  "Tell me a short story.",
  "What can you help me with?",
  "Explain rain to a child.",
  "Write four lines about the sea.",
];

function kindOf(error: unknown): string | null {
  return error instanceof Error && "kind" in error && typeof error.kind === "string" ? error.kind : null;
}

export class Chat {
  readonly #log = byId("log", HTMLElement);
  readonly #welcome = byId("welcome", HTMLElement);
  readonly #prompt = byId("prompt", HTMLTextAreaElement);
  readonly #send = byId("send", HTMLButtonElement);
  readonly #stop = byId("stop", HTMLButtonElement);
  readonly #notice = byId("notice", HTMLElement);
  readonly #status = byId("status", HTMLElement);
  readonly #meter = new ContextMeter();
  readonly #scroll = new AutoScroll(byId("scroller", HTMLElement), byId("jump", HTMLButtonElement));
  readonly #settings: Settings;
  #engine: Engine | null = null;
  #turns: Turn[] = [];
  #lastAnswer: AnswerView | null = null;
  #running: Promise<void> | null = null;

  constructor(settings: Settings) {
    this.#settings = settings;
    byId("composer", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#prompt.addEventListener("input", () => this.#onInput());
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    this.#stop.addEventListener("click", () => this.stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && document.querySelector("dialog[open]") === null) this.stop();
    });
    byId("new-chat", HTMLButtonElement).addEventListener("click", () => void this.newChat());
  }

  /** Use this engine from now on. What was said stays; `newChat` forgets it. */
  attach(engine: Engine, suggestions: string[]): void {
    this.#engine = engine;
    this.#meter.reset(engine.info.contextLength);
    this.hideNotice();
    const chips = (suggestions.length > 0 ? suggestions : FALLBACK_SUGGESTIONS).slice(0, 6).map((text) => {
      const chip = el("button", { type: "button", class: "suggestion", "data-testid": "suggestion" }, text);
      chip.addEventListener("click", () => this.#ask(text));
      return chip;
    });
    byId("suggestions", HTMLElement).replaceChildren(...chips);
    this.#onInput();
    this.#focusPrompt();
  }

  detach(): void {
    this.#engine = null;
    this.#onInput();
  }

  stop(): void {
    if (this.#running === null) return;
    this.#engine?.interrupt();
    this.#focusPrompt();
  }

  async newChat(): Promise<void> {
    this.stop();
    await this.#running;
    this.#turns = [];
    this.#lastAnswer = null;
    this.#log.replaceChildren();
    this.#welcome.hidden = false;
    this.#meter.show(0);
    this.hideNotice();
    this.#scroll.toEnd();
    this.#announce("New chat");
    this.#focusPrompt();
  }

  showNotice(text: string, actions: NoticeAction[] = [], bad = false): void {
    const buttons = actions.map(({ label, run }) => {
      const action = el("button", { type: "button", class: "plain" }, label);
      action.addEventListener("click", () => {
        this.hideNotice();
        run();
      });
      return action;
    });
    this.#notice.replaceChildren(el("p", {}, text), ...(buttons.length > 0 ? [el("div", { class: "notice-actions" }, ...buttons)] : []));
    this.#notice.classList.toggle("bad", bad);
    this.#notice.hidden = false;
  }

  hideNotice(): void {
    this.#notice.hidden = true;
    this.#notice.replaceChildren();
  }

  #submit(): void {
    const text = this.#prompt.value.trim();
    if (text === "" || this.#engine === null) return;
    if (this.#running !== null) {
      this.showNotice("One answer at a time: wait for this one to end, or stop it with Esc. Your message stays in the box.");
      return;
    }
    this.#prompt.value = "";
    this.#ask(text);
  }

  #ask(text: string): void {
    if (this.#running !== null) return;
    const element = userMessage(text);
    this.#turns.push({ role: "user", content: text, element });
    this.#log.append(element);
    this.#start();
  }

  #regenerate(): void {
    if (this.#running !== null || this.#engine === null || this.#turns.at(-1)?.role !== "assistant") return;
    this.#turns.pop()?.element.remove();
    this.#start();
  }

  #start(): void {
    this.hideNotice();
    this.#welcome.hidden = true;
    this.#running = this.#generate().finally(() => {
      this.#running = null;
      this.#setBusy(false);
    });
    this.#setBusy(true);
    this.#focusPrompt();
  }

  async #generate(): Promise<void> {
    const engine = this.#engine;
    if (engine === null) return;
    const answer = new AnswerView({ onRegenerate: () => this.#regenerate(), onGrow: () => this.#scroll.follow() });
    const previous = this.#lastAnswer;
    if (previous !== null) previous.isLast = false;
    this.#lastAnswer = answer;
    this.#log.append(answer.root);
    this.#scroll.toEnd();
    let usage: Usage | null = null;
    let reason: FinishReason | null = null;
    let problem: string | undefined;
    const { used } = this.#meter;
    const stream = engine.chat.completions.create({
      ...this.#settings.sampling,
      messages: this.#messages(),
      stream: true,
      stream_options: { include_usage: true },
    });
    const meter = this.#follow(engine); // Behind the request: what hangs there is not asked first for the meter.
    try {
      for await (const chunk of stream) {
        const choice = chunk.choices[0];
        const thought = choice?.delta.reasoning_content ?? "";
        if (thought !== "") answer.think(thought);
        answer.append(choice?.delta.content ?? "");
        meter.grow();
        reason = choice?.finish_reason ?? reason;
        usage = chunk.usage ?? usage;
      }
    } catch (error) {
      if (kindOf(error) === "context-overflow" && answer.text === "") {
        meter.end();
        this.#meter.show(used);
        this.#takeBack(answer, previous);
        return;
      }
      problem = error instanceof Error ? error.message : String(error);
    }
    meter.end();
    this.#turns.push({ role: "assistant", content: answer.text, element: answer.root });
    answer.finish(usage, reason, problem);
    if (usage !== null) this.#afterAnswer(usage, engine.info.contextLength);
    this.#announce(problem === undefined ? "Answer complete" : "The answer failed");
    this.#scroll.follow();
  }

  /** Shows what the conversation takes while its answer grows, until `end`. */
  #follow(engine: Engine): { grow: () => void; end: () => void } {
    const before = engine.stats();
    const counting = new AbortController();
    let shown = 0;
    const show = (used: number) => {
      if (used <= shown) return;
      shown = used;
      this.#meter.show(used);
    };
    // A long prompt takes a while until its first piece. What is wrong with it the request itself says.
    this.#countTokens(engine, counting.signal).then(show, () => undefined);
    return {
      grow: () => {
        const { promptTokens, tokens } = engine.stats();
        show(promptTokens + tokens - before.promptTokens - before.tokens);
      },
      end: () => {
        shown = Infinity;
        counting.abort();
      },
    };
  }

  #messages(): ChatMessage[] {
    const system: ChatMessage[] = this.#settings.systemPrompt === "" ? [] : [{ role: "system", content: this.#settings.systemPrompt }];
    return [...system, ...this.#turns.map(({ role, content }) => ({ role, content }))];
  }

  #afterAnswer(usage: Usage, capacity: number): void {
    this.#meter.show(usage.total_tokens);
    if (usage.total_tokens >= capacity - 1) {
      this.showNotice(`The conversation fills the model’s context of ${count(capacity)} tokens.`, this.#overflowActions());
    }
  }

  /** The conversation does not fit: give the message back to be sent again, and say what can be done. */
  #takeBack(answer: AnswerView, previous: AnswerView | null): void {
    answer.root.remove();
    this.#lastAnswer = previous;
    if (previous !== null) previous.isLast = true;
    const turn = this.#turns.at(-1);
    if (turn?.role === "user") {
      this.#turns.pop();
      turn.element.remove();
      if (this.#prompt.value === "") this.#prompt.value = turn.content;
    }
    this.#welcome.hidden = this.#log.childElementCount > 0;
    const capacity = this.#engine?.info.contextLength ?? 0;
    const lead = this.#turns.length > 0 ? "With this message the conversation no longer fits" : "This message is longer than";
    const actions = this.#turns.length > 0 ? this.#overflowActions() : [];
    const advice = this.#turns.length > 0 ? "" : " Shorten it, or the system prompt.";
    this.showNotice(`${lead} the model’s context of ${count(capacity)} tokens.${advice}`, actions, true);
  }

  #overflowActions(): NoticeAction[] {
    return [
      { label: "Forget the oldest messages", run: () => void this.#forgetOldest() },
      { label: "New chat", run: () => void this.newChat() },
    ];
  }

  /** Drops exchanges from the start until half of the context is free. They stay in view, marked. */
  async #forgetOldest(): Promise<void> {
    const engine = this.#engine;
    if (engine === null || this.#running !== null) return;
    let used: number;
    do {
      const dropped = this.#turns.splice(0, 2);
      for (const { element } of dropped) element.classList.add("forgotten");
      used = this.#turns.length === 0 ? 0 : await this.#countTokens(engine);
    } while (used > engine.info.contextLength / 2 && this.#turns.length > 0);
    this.#log.querySelector(".divider")?.remove();
    const last = [...this.#log.querySelectorAll(".forgotten")].at(-1);
    last?.after(el("p", { class: "divider" }, "The model no longer sees the messages above"));
    this.#meter.show(used);
    this.#focusPrompt();
  }

  async #countTokens(engine: Engine, signal?: AbortSignal): Promise<number> {
    const text = await engine.applyChatTemplate(this.#messages(), { signal });
    return (await engine.tokenize(text, { addSpecialTokens: false, signal })).length;
  }

  #setBusy(busy: boolean): void {
    this.#log.setAttribute("aria-busy", String(busy));
    this.#stop.hidden = !busy;
    this.#send.hidden = busy;
    if (busy) this.#announce("The model is answering");
    this.#onInput();
  }

  #onInput(): void {
    this.#send.disabled = this.#prompt.value.trim() === "" || this.#engine === null;
    this.#prompt.style.blockSize = "auto";
    this.#prompt.style.blockSize = `${this.#prompt.scrollHeight}px`;
  }

  #announce(text: string): void {
    this.#status.textContent = text;
  }

  /** Not on touch screens, where focus opens the keyboard over half of the answer. */
  #focusPrompt(): void {
    if (matchMedia("(pointer: fine)").matches) this.#prompt.focus({ preventScroll: true });
  }
}
