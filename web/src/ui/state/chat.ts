// Answers: one request at a time to the engine, from the open conversation and into it. Knows no document.

import { computed, effect, signal } from "@preact/signals";
import type { ChatCompletionChunk, ChatMessage, Engine, FinishReason, Usage } from "../../api/types";
import { t } from "../texts";
import { requestOf } from "./choices";
import { type Message, pathTo } from "./conversation";
import type { History } from "./history";
import { Live } from "./live";
import type { Models } from "./models";
import type { NoticeAction, Notices } from "./notices";
import type { Persona } from "./persona";
import { countTokens, firstSeen, followContext, messagesOf } from "./request";
import type { Settings } from "./settings";

/** How often an answer that is being written is kept, for when the page goes away. */
const KEEP_MS = 1000;
const FALLBACK_SUGGESTIONS = ["chat.story", "chat.help", "chat.rain", "chat.sea"] as const;
const MOST_SUGGESTIONS = 6;

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function kindOf(error: unknown): string | null {
  return error instanceof Error && "kind" in error && typeof error.kind === "string" ? error.kind : null;
}

const usedBy = (path: readonly Message[]) => path.findLast(({ usage }) => usage != null)?.usage?.total_tokens ?? 0;

export class Chat {
  readonly live = signal<Live | null>(null);
  readonly busy = signal(false);
  /** What is in the box. */
  readonly draft = signal("");
  /** Counts up when the box is to have the focus. */
  readonly focus = signal(0);
  /** Tokens of the context that the conversation takes. */
  readonly used = signal(0);
  /** Tokens a second of the answer that is being written; null while there is none. */
  readonly rate = signal<number | null>(null);
  readonly capacity = computed(() => this.models.loaded.value?.info.contextLength ?? 1);
  readonly ready = computed(() => this.models.loaded.value?.lost === false);
  /** Who a new chat is to be with. */
  readonly persona = signal<Persona | null>(null);
  readonly suggestions = computed(() => {
    const own = this.models.loaded.value?.model.suggestions ?? [];
    return (own.length > 0 ? own : FALLBACK_SUGGESTIONS.map((key) => t(key))).slice(0, MOST_SUGGESTIONS);
  });
  #running: Promise<void> | null = null;

  constructor(
    private readonly history: History,
    private readonly settings: Settings,
    private readonly models: Models,
    private readonly notices: Notices,
  ) {
    effect(() => {
      const used = usedBy(history.path.value);
      if (!this.busy.peek()) this.used.value = used;
    });
  }

  get #engine(): Engine | null {
    return this.ready.value ? (this.models.loaded.value?.engine ?? null) : null;
  }

  // --------------------------------------------------------------------------------------------- what a person does

  submit(): void {
    const text = this.draft.value.trim();
    if (text === "" || this.#engine === null) return;
    if (this.#running !== null) {
      this.notices.show(t("notice.one-at-a-time"));
      return;
    }
    this.draft.value = "";
    this.ask(text);
  }

  ask(text: string): void {
    if (this.#running !== null || this.#engine === null) return;
    if (this.history.open.value === null) this.#begin();
    const question = this.history.append(this.history.path.value.at(-1)?.id ?? null, { role: "user", content: text });
    this.#answer(question.id);
  }

  /** Another answer beside this one. */
  regenerate({ parent }: Message): void {
    if (this.#running === null && this.#engine !== null && parent !== null) this.#answer(parent);
  }

  /** The question as it should have been, beside the one that was asked. */
  edit({ parent }: Message, text: string): void {
    if (this.#running !== null || this.#engine === null || text.trim() === "") return;
    this.#answer(this.history.append(parent, { role: "user", content: text.trim() }).id);
  }

  /** Goes on where an answer was cut off. */
  continue(answer: Message): void {
    if (this.#running !== null || this.#engine === null) return;
    this.#start(answer, true);
  }

  stop(): void {
    if (this.#running === null) return;
    this.models.loaded.value?.engine.interrupt();
    this.focus.value++;
  }

  async newChat(persona: Persona | null = null): Promise<void> {
    await this.end();
    this.history.close();
    this.persona.value = persona;
    this.notices.hide();
    this.notices.announce(t("notice.new-chat"));
    this.focus.value++;
  }

  async show(id: string): Promise<void> {
    await this.end();
    this.notices.hide();
    this.persona.value = null;
    try {
      await this.history.show(id);
    } catch (error) {
      this.notices.show(t("notice.not-shown", { error: messageOf(error) }), [], true);
      return;
    }
    this.focus.value++;
    await this.#resume();
  }

  /** The model that answered the open conversation last goes on, where it need not be asked for; another one says so. */
  async #resume(): Promise<void> {
    const { value: open } = this.history.open;
    if (open === null || open.model === null) return;
    const { models } = this;
    const { value: loaded } = models.loaded;
    if (loaded !== null) {
      const before = this.history.path.value.findLast(({ model = "" }) => model !== "")?.model;
      const { id, name } = loaded.model;
      if (id !== open.model && before !== undefined && before !== name) this.notices.show(t("notice.other-model", { before, name }));
      return;
    }
    const model = models.offered.value.find(({ id }) => id === open.model);
    if (model === undefined || !models.canRun(model)) return;
    models.chosenId.value = model.id;
    const comes = await models.comesUnasked(model);
    if (comes && models.chosenId.value === model.id && models.loaded.value === null) void models.load(model);
  }

  /** Stops the answer that is being written and waits until it has ended. */
  async end(): Promise<void> {
    this.stop();
    await this.#running;
  }

  /** Drops exchanges from the start until half of the context is free. They stay in view, marked. */
  async forgetOldest(): Promise<void> {
    const engine = this.#engine;
    const { value: open } = this.history.open;
    if (engine === null || open === null || this.#running !== null) return;
    const path = this.history.path.value;
    let from = firstSeen(path, pathTo(this.history.messages.value, open.forgotten));
    let used: number;
    try {
      do {
        const next = path.findIndex(({ role }, i) => i > from && role === "user");
        from = next < 0 ? path.length : next;
        used = from === path.length ? 0 : await countTokens(engine, this.#messages(path, path[from - 1]?.id));
      } while (used > engine.info.contextLength / 2 && from < path.length);
    } catch (error) {
      this.notices.show(t("notice.not-forgotten", { error: messageOf(error) }), [], true);
      return;
    }
    this.history.update(open.id, { forgotten: path[from - 1]?.id ?? null });
    if (this.history.openId.value === open.id) this.used.value = used;
    this.focus.value++;
  }

  // -------------------------------------------------------------------------------------------------------- answering

  #begin(): void {
    const { value: persona } = this.persona;
    this.persona.value = null;
    if (persona === null) {
      this.history.begin(this.settings.forNew.value);
      return;
    }
    const { name, picture, choices, greeting } = persona;
    this.history.begin(choices, { persona: { name, picture } });
    if (greeting !== "") this.history.append(null, { role: "assistant", content: greeting, reason: "stop" });
  }

  #answer(question: string): void {
    const model = this.models.loaded.value?.model;
    const message = this.history.append(question, { role: "assistant", content: "", reason: null, model: model?.name ?? "" });
    if (model !== undefined) this.history.update(message.conversation, { model: model.id });
    this.#start(message, false);
  }

  #start(message: Message, continued: boolean): void {
    const engine = this.#engine;
    if (engine === null) return;
    this.notices.hide();
    const live = new Live(message);
    this.live.value = live;
    this.busy.value = this.history.busy = true;
    this.notices.announce(t("notice.answering"));
    this.#running = this.#generate(engine, live, continued).finally(() => {
      this.#running = null;
      this.busy.value = this.history.busy = false;
      this.live.value = null;
      this.rate.value = null;
    });
    this.focus.value++;
  }

  async #generate(engine: Engine, live: Live, continued: boolean): Promise<void> {
    const { message } = live;
    const { used } = this;
    const before = used.value;
    const messages = this.#messages(pathTo(this.history.messages.value, message.parent));
    if (continued) messages.push({ role: "assistant", content: message.content });
    const stream = engine.chat.completions.create({
      ...requestOf(this.settings.current.value),
      ...(continued ? { continue_final_message: true } : {}),
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    const meter = followContext(engine, messages, this); // Behind the request: what hangs there is not asked first for the meter.
    const keeping = setInterval(() => this.history.amend(message.id, { ...live.written(), reason: null }, true), KEEP_MS);
    let end: { reason: FinishReason | null; usage: Usage | null; problem?: string };
    try {
      end = await this.#read(stream, live, meter.grow);
    } catch (error) {
      if (kindOf(error) === "context-overflow" && live.text === "") {
        used.value = before;
        this.#takeBack(message);
        return;
      }
      end = { reason: null, usage: null, problem: messageOf(error) };
    } finally {
      clearInterval(keeping);
      meter.end();
    }
    live.endThoughts();
    this.history.amend(message.id, { problem: undefined, ...live.written(), ...end } as Partial<Message>);
    if (end.usage !== null) this.#afterAnswer(end.usage, engine.info.contextLength);
    this.notices.announce(t(end.problem === undefined ? "notice.complete" : "notice.failed"));
  }

  async #read(stream: AsyncIterable<ChatCompletionChunk>, live: Live, grow: () => void) {
    let usage: Usage | null = null;
    let reason: FinishReason | null = null;
    for await (const chunk of stream) {
      const choice = chunk.choices[0];
      live.think(choice?.delta.reasoning_content ?? "");
      live.write(choice?.delta.content ?? "");
      live.call(choice?.delta.tool_calls ?? []);
      grow();
      reason = choice?.finish_reason ?? reason;
      usage = chunk.usage ?? usage;
    }
    return { reason, usage };
  }

  #messages(path: readonly Message[], forgotten = this.history.open.value?.forgotten ?? null): ChatMessage[] {
    return messagesOf(path, this.settings.current.value.systemPrompt, pathTo(this.history.messages.value, forgotten));
  }

  #afterAnswer(usage: Usage, capacity: number): void {
    this.used.value = usage.total_tokens;
    if (usage.total_tokens >= capacity - 1) this.notices.show(t("notice.full", { count: capacity }), this.#overflowActions());
  }

  /** The conversation does not fit: give the message back to be sent again, and say what can be done. */
  #takeBack(answer: Message): void {
    const question = this.history.messages.value.get(answer.parent ?? "");
    // A question that has another answer stays.
    const asked = question !== undefined && this.history.branches(answer).length === 1;
    this.history.takeBack(asked ? question.id : answer.id);
    if (asked && this.draft.value === "") this.draft.value = question.content;
    const alone = this.history.path.value.length === 0;
    const actions = alone ? [] : this.#overflowActions();
    this.notices.show(t(alone ? "notice.message-too-long" : "notice.no-longer-fits", { count: this.capacity.value }), actions, true);
  }

  #overflowActions(): NoticeAction[] {
    return [
      { label: t("notice.forget"), run: () => void this.forgetOldest() },
      { label: t("newChat"), run: () => void this.newChat() },
    ];
  }
}
