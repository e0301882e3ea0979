// Answers: one request at a time to the engine, from the open conversation and into it. Knows no document.

import { computed, effect, signal } from "@preact/signals";
import type { ChatCompletionChunk, ChatMessage, Engine, FinishReason, ToolCall, ToolCallDelta, Usage } from "../../api/types";
import { count } from "../format";
import { requestOf } from "./choices";
import { type Message, pathTo } from "./conversation";
import type { History } from "./history";
import type { Models } from "./models";
import type { NoticeAction, Notices } from "./notices";
import type { Persona } from "./persona";
import type { Settings } from "./settings";

/** How often an answer that is being written is kept, for when the page goes away. */
const KEEP_MS = 1000;
const FALLBACK_SUGGESTIONS = [
  "Tell me a short story.",
  "What can you help me with?",
  "Explain rain to a child.",
  "Write four lines about the sea.",
];
const MOST_SUGGESTIONS = 6;

/** An answer while it is written. Whoever shows it hears of each piece. */
export class Live {
  readonly #listeners = new Set<(piece: string, thought: boolean) => void>();
  readonly #startedAt = performance.now();
  text: string;
  thoughts: string;
  thoughtSeconds: number | undefined;
  readonly toolCalls: ToolCall[] = [];

  constructor(readonly message: Message) {
    this.text = message.content;
    this.thoughts = message.thoughts ?? "";
    this.thoughtSeconds = message.thoughtSeconds;
  }

  /** @returns what ends it */
  listen(listener: (piece: string, thought: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  think(piece: string): void {
    if (piece === "") return;
    this.thoughts += piece;
    for (const listener of this.#listeners) listener(piece, true);
  }

  write(piece: string): void {
    if (piece === "") return;
    this.endThoughts();
    this.text += piece;
    for (const listener of this.#listeners) listener(piece, false);
  }

  call(deltas: readonly ToolCallDelta[]): void {
    for (const {
      index,
      id = "",
      function: { name = "", arguments: text = "" },
    } of deltas) {
      const call = (this.toolCalls[index] ??= { id, type: "function", function: { name: "", arguments: "" } });
      call.function.name += name;
      call.function.arguments += text;
    }
  }

  endThoughts(): void {
    if (this.thoughts !== "") this.thoughtSeconds ??= (performance.now() - this.#startedAt) / 1000;
  }

  /** What is kept of it. */
  written(): Partial<Message> {
    return {
      content: this.text,
      ...(this.thoughts === "" ? {} : { thoughts: this.thoughts }),
      ...(this.thoughtSeconds === undefined ? {} : { thoughtSeconds: this.thoughtSeconds }),
      ...(this.toolCalls.length === 0 ? {} : { toolCalls: this.toolCalls.map((call) => structuredClone(call)) }),
    };
  }
}

function kindOf(error: unknown): string | null {
  return error instanceof Error && "kind" in error && typeof error.kind === "string" ? error.kind : null;
}

const usedBy = (path: readonly Message[]) => path.findLast(({ usage }) => usage != null)?.usage?.total_tokens ?? 0;

/** Where what the model sees begins: with a question, behind what it no longer sees. */
function firstSeen(path: readonly Message[], forgotten: readonly Message[]): number {
  // What is no longer seen may end behind this path, or beside it: with an answer in whose place another one comes.
  const shared = path.findIndex(({ id }, i) => forgotten[i]?.id !== id);
  const from = shared < 0 ? path.length : shared;
  const question = path.findIndex(({ role }, i) => i >= from && role === "user");
  return question < 0 ? path.length : question;
}

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
    return (own.length > 0 ? own : FALLBACK_SUGGESTIONS).slice(0, MOST_SUGGESTIONS);
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
      this.notices.show("One answer at a time: wait for this one to end, or stop it with Esc. Your message stays in the box.");
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
    this.notices.announce("New chat");
    this.focus.value++;
  }

  async show(id: string): Promise<void> {
    await this.end();
    this.notices.hide();
    this.persona.value = null;
    try {
      await this.history.show(id);
    } catch (error) {
      this.notices.show(`The conversation cannot be read: ${error instanceof Error ? error.message : String(error)}`, [], true);
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
      if (id !== open.model && before !== undefined && before !== name)
        this.notices.show(`${before} answered here last. ${name} goes on from here.`);
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
        used = from === path.length ? 0 : await this.#countTokens(engine, this.#messages(path, path[from - 1]?.id));
      } while (used > engine.info.contextLength / 2 && from < path.length);
    } catch (error) {
      this.notices.show(`Nothing is forgotten: ${error instanceof Error ? error.message : String(error)}`, [], true);
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
    this.notices.announce("The model is answering");
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
    const meter = this.#follow(engine, messages); // Behind the request: what hangs there is not asked first for the meter.
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
      end = { reason: null, usage: null, problem: error instanceof Error ? error.message : String(error) };
    } finally {
      clearInterval(keeping);
      meter.end();
    }
    live.endThoughts();
    this.history.amend(message.id, { problem: undefined, ...live.written(), ...end } as Partial<Message>);
    if (end.usage !== null) this.#afterAnswer(end.usage, engine.info.contextLength);
    this.notices.announce(end.problem === undefined ? "Answer complete" : "The answer failed");
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

  /** Shows what the conversation takes while its answer grows, and how fast that is, until `end`. */
  #follow(engine: Engine, messages: ChatMessage[]): { grow: () => void; end: () => void } {
    const before = engine.stats();
    const counting = new AbortController();
    let [shown, firstAt] = [0, 0];
    const show = (used: number) => {
      if (used <= shown) return;
      shown = used;
      this.used.value = used;
    };
    // A long prompt takes a while until its first piece. What is wrong with it the request itself says.
    this.#countTokens(engine, messages, counting.signal).then(show, () => undefined);
    return {
      grow: () => {
        const { promptTokens, tokens } = engine.stats();
        const made = tokens - before.tokens;
        show(promptTokens + made - before.promptTokens);
        firstAt ||= performance.now();
        const seconds = (performance.now() - firstAt) / 1000;
        if (made > 1 && seconds > 0) this.rate.value = (made - 1) / seconds;
      },
      end: () => {
        shown = Infinity;
        counting.abort();
      },
    };
  }

  /** What the model is given of a path: what the system says, then what was said, but for what it no longer sees. */
  #messages(path: readonly Message[], forgotten = this.history.open.value?.forgotten ?? null): ChatMessage[] {
    const from = firstSeen(path, pathTo(this.history.messages.value, forgotten));
    // There is no answer without its question.
    const last = path.findLastIndex(({ role }) => role === "user");
    const seen = last < 0 ? [] : path.slice(Math.min(from, last));
    const system = [this.settings.current.value.systemPrompt.trim()];
    // Many templates take no answer before the first question: what a persona says first is part of who it is.
    const greeted = path[0]?.role === "assistant" ? path[0].content : "";
    if (greeted !== "") system.push(`You have begun the conversation with these words:\n${greeted}`);
    const prompt = system.filter((text) => text !== "").join("\n\n");
    const messages = seen.filter(({ role, content }) => role === "user" || content !== "").map(({ role, content }) => ({ role, content }));
    return [...(prompt === "" ? [] : [{ role: "system", content: prompt }]), ...messages];
  }

  #afterAnswer(usage: Usage, capacity: number): void {
    this.used.value = usage.total_tokens;
    if (usage.total_tokens >= capacity - 1)
      this.notices.show(`The conversation fills the model’s context of ${count(capacity)} tokens.`, this.#overflowActions());
  }

  /** The conversation does not fit: give the message back to be sent again, and say what can be done. */
  #takeBack(answer: Message): void {
    const question = this.history.messages.value.get(answer.parent ?? "");
    // A question that has another answer stays.
    const asked = question !== undefined && this.history.branches(answer).length === 1;
    this.history.takeBack(asked ? question.id : answer.id);
    if (asked && this.draft.value === "") this.draft.value = question.content;
    const alone = this.history.path.value.length === 0;
    const lead = alone ? "This message is longer than" : "With this message the conversation no longer fits";
    const advice = alone ? " Shorten it, or the system prompt." : "";
    const actions = alone ? [] : this.#overflowActions();
    this.notices.show(`${lead} the model’s context of ${count(this.capacity.value)} tokens.${advice}`, actions, true);
  }

  #overflowActions(): NoticeAction[] {
    return [
      { label: "Forget the oldest messages", run: () => void this.forgetOldest() },
      { label: "New chat", run: () => void this.newChat() },
    ];
  }

  async #countTokens(engine: Engine, messages: ChatMessage[], abort?: AbortSignal): Promise<number> {
    const text = await engine.applyChatTemplate(messages, { signal: abort });
    return (await engine.tokenize(text, { addSpecialTokens: false, signal: abort })).length;
  }
}
