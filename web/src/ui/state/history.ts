// The conversations of this browser and the one that is open. What is shown changes at once; the repository follows, in order, and
// other tabs hear of it. Knows no engine and no document.

import { computed, signal } from "@preact/signals";
import type { Choices } from "./choices";
import {
  branchesOf,
  childrenOf,
  type Conversation,
  inOrder,
  isAfter,
  leafAfter,
  type Message,
  type Messages,
  pathTo,
  titleOf,
  withFollowers,
} from "./conversation";
import { Memory, type Repository } from "./repository";

/** What tabs tell one another: this conversation is another one now; null: any may be. */
export interface Channel {
  postMessage(changed: string | null): void;
  onmessage: ((event: MessageEvent<string | null>) => void) | null;
}

/** A change that could not be kept; each time another one. */
export interface Fault {
  message: string;
}

/** Where a tab remembers what it has open, over a reload. */
export type Remembered = Pick<Storage, "getItem" | "setItem" | "removeItem">;

const OPEN_KEY = "wisp.conversation";
/** What was deleted so long ago cannot be taken back any more. */
const UNDO_MS = 60_000;

const NO_MESSAGES: Messages = new Map();

export class History {
  readonly conversations = signal<ReadonlyMap<string, Conversation>>(new Map());
  readonly list = computed(() => inOrder(this.conversations.value.values()));
  readonly openId = signal<string | null>(null);
  /** The open one; null for a new chat. */
  readonly open = computed(() => this.conversations.value.get(this.openId.value ?? "") ?? null);
  readonly messages = signal<Messages>(NO_MESSAGES);
  readonly children = computed(() => childrenOf(this.messages.value));
  readonly #leaf = signal<string | null>(null);
  /** What is shown: this tab's leaf and what comes before it. */
  readonly path = computed(() => pathTo(this.messages.value, this.#leaf.value));
  /** Whether conversations outlive the page; null until it is known. */
  readonly lasts = signal<boolean | null>(null);
  /** Why the last change could not be kept; null once one can be again. */
  readonly fault = signal<Fault | null>(null);
  /** Whether an answer is being written, whose message changes by itself. */
  busy = false;
  #repository: Repository = new Memory();
  #channel: Channel | null = null;
  #remembered: Remembered | null = null;
  #writes: Promise<unknown> = Promise.resolve();
  /** Of these conversations something could not be kept. */
  readonly #unkept = new Set<string>();

  /** Reads what there is, and opens what this tab had open. */
  async start(repository: Repository, channel: Channel | null = null, remembered: Remembered | null = null): Promise<void> {
    this.#repository = repository;
    this.#channel = channel;
    this.#remembered = remembered;
    const found = await repository.conversations();
    const gone = found.filter(({ deleted }) => deleted !== null && deleted < Date.now() - UNDO_MS).map(({ id }) => id);
    if (gone.length > 0) this.#write(() => repository.remove(gone));
    this.#take(found.filter(({ id }) => !gone.includes(id)));
    if (channel !== null) channel.onmessage = ({ data }) => void this.#refresh(data).catch(() => undefined); // The next word reads again.
    this.lasts.value = repository.lasts;
    const last = remembered?.getItem(OPEN_KEY) ?? null;
    if (last !== null && this.openId.value === null && this.conversations.value.get(last)?.deleted === null)
      await this.show(last).catch(() => undefined); // It is in the list, and says why when it is opened.
  }

  /** After all that was written so far. */
  settled(): Promise<unknown> {
    return this.#writes;
  }

  get repository(): Repository {
    return this.#repository;
  }

  // ------------------------------------------------------------------------------------------------ which one is open

  /** Opens a conversation. @throws what the repository throws; the open one stays then */
  async show(id: string): Promise<void> {
    await this.#writes;
    const found = await this.#repository.messages(id);
    const conversation = this.conversations.value.get(id);
    if (conversation === undefined) return;
    this.#open(conversation, new Map(found.map((message) => [message.id, message])));
  }

  /** A new chat; it becomes a conversation with its first message. */
  close(): void {
    this.openId.value = null;
    this.messages.value = NO_MESSAGES;
    this.#leaf.value = null;
    this.#remember(null);
  }

  begin(choices: Choices, more: Partial<Conversation> = {}): Conversation {
    const now = Date.now();
    const conversation: Conversation = {
      ...{ id: crypto.randomUUID(), title: "", named: false, pinned: false, created: now, updated: now, deleted: null },
      ...{ model: null, persona: null, choices: structuredClone(choices), leaf: null, forgotten: null },
      ...more,
    };
    this.#set(conversation);
    this.#open(conversation, NO_MESSAGES);
    this.#write(() => this.#repository.add(conversation, []), conversation.id);
    return conversation;
  }

  // ----------------------------------------------------------------------------------------- messages of the open one

  /** A new message after `parent`, which is shown from now on. */
  append(parent: string | null, message: Pick<Message, "role" | "content"> & Partial<Message>): Message {
    const { open } = this;
    if (open.value === null) throw new Error("no conversation is open");
    const newest = Math.max(0, ...(this.children.value.get(parent) ?? []).map(({ created }) => created));
    const id = crypto.randomUUID();
    const whole: Message = { id, conversation: open.value.id, parent, created: Math.max(Date.now(), newest + 1), ...message };
    const change: Partial<Conversation> = { leaf: id, updated: whole.created };
    if (!open.value.named && open.value.title === "" && message.role === "user") change.title = titleOf(message.content);
    this.#show(whole);
    this.#leaf.value = id;
    this.#changed(open.value.id, change);
    this.#write(() => this.#repository.put([whole], whole.conversation, change), whole.conversation);
    return whole;
  }

  /** Changes a message. `quietly`: other tabs need not hear of it, for more follows. */
  amend(id: string, change: Partial<Message>, quietly = false): void {
    const message = this.messages.value.get(id);
    if (message === undefined) return;
    const whole = { ...message, ...change };
    if (!quietly) this.#show(whole);
    const times: Partial<Conversation> = quietly ? {} : { updated: Date.now() };
    if (!quietly) this.#changed(whole.conversation, times);
    this.#write(() => this.#repository.put([whole], whole.conversation, times), whole.conversation, quietly);
  }

  /** Takes a message back, with all that follows it; what stands beside it is shown then, or what comes before it. */
  takeBack(id: string): void {
    const message = this.messages.value.get(id);
    if (message === undefined) return;
    const gone = withFollowers(this.children.value, id);
    const left = new Map(this.messages.value);
    for (const each of gone) left.delete(each);
    this.messages.value = left;
    const beside = this.branches(message).at(-1);
    this.#leaf.value = beside === undefined ? message.parent : leafAfter(this.children.value, beside.id);
    const change = { leaf: this.#leaf.value };
    this.#changed(message.conversation, change);
    this.#write(() => this.#repository.removeMessages(gone, message.conversation, change), message.conversation);
  }

  /** Shows the branch that this message begins. */
  choose(id: string): void {
    const message = this.messages.value.get(id);
    if (message === undefined) return;
    this.#leaf.value = leafAfter(this.children.value, id);
    this.update(message.conversation, { leaf: this.#leaf.value });
  }

  branches(message: Message): Message[] {
    return branchesOf(this.children.value, message);
  }

  // ----------------------------------------------------------------------------------------------------- any of them

  update(id: string, change: Partial<Conversation>): void {
    this.#changed(id, change);
    this.#write(() => this.#repository.change(id, change), id);
  }

  rename(id: string, title: string): void {
    const name = title.trim();
    if (name !== "") this.update(id, { title: name, named: true });
  }

  delete(id: string): void {
    this.update(id, { deleted: Date.now() });
    if (this.openId.value === id) this.close();
  }

  restore(id: string): void {
    this.update(id, { deleted: null });
  }

  /** For good, unless it has been taken back. */
  purge(id: string): void {
    if (this.conversations.value.get(id)?.deleted === null) return;
    const left = new Map(this.conversations.value);
    left.delete(id);
    this.conversations.value = left;
    this.#write(() => this.#repository.remove([id]), id);
  }

  add(conversation: Conversation, messages: readonly Message[]): void {
    this.#set(conversation);
    this.#write(() => this.#repository.add(conversation, messages), conversation.id);
  }

  /** What a file has of it, unless it is here: what was deleted and can be taken back, is. @returns whether it was here already */
  import(conversation: Conversation, messages: readonly Message[]): boolean {
    const known = this.conversations.value.get(conversation.id);
    if (known === undefined) this.add(conversation, messages);
    else if (known.deleted !== null) this.restore(known.id);
    return known?.deleted === null;
  }

  async messagesOf(id: string): Promise<Message[]> {
    await this.#writes;
    return this.#repository.messages(id);
  }

  /** Those whose title or messages contain the text. */
  async search(text: string): Promise<Set<string>> {
    await this.#writes;
    const lowered = text.toLocaleLowerCase();
    const found = await this.#repository.search(text);
    for (const { id, title } of this.conversations.value.values()) if (title.toLocaleLowerCase().includes(lowered)) found.add(id);
    return found;
  }

  // --------------------------------------------------------------------------------------------------------- inside

  #open(conversation: Conversation, messages: Messages): void {
    this.openId.value = conversation.id;
    this.messages.value = messages;
    this.#leaf.value = conversation.leaf !== null && messages.has(conversation.leaf) ? conversation.leaf : this.#newestLeaf();
    this.#remember(conversation.id);
  }

  #newestLeaf(): string | null {
    const first = this.children.value.get(null)?.at(-1);
    return first === undefined ? null : leafAfter(this.children.value, first.id);
  }

  #show(message: Message): void {
    this.messages.value = new Map(this.messages.value).set(message.id, message);
  }

  #set(conversation: Conversation): void {
    this.conversations.value = new Map(this.conversations.value).set(conversation.id, conversation);
  }

  #changed(id: string, change: Partial<Conversation>): void {
    const found = this.conversations.value.get(id);
    if (found !== undefined) this.#set({ ...found, ...change });
  }

  #take(found: readonly Conversation[]): void {
    this.conversations.value = new Map(found.map((conversation) => [conversation.id, conversation]));
  }

  #remember(id: string | null): void {
    try {
      if (id === null) this.#remembered?.removeItem(OPEN_KEY);
      else this.#remembered?.setItem(OPEN_KEY, id);
    } catch {
      // Full or forbidden: a reload then begins a new chat, and the conversation is in the list.
    }
  }

  /** One after another, each whole; then other tabs hear of it, unless `quietly`. */
  #write(write: () => Promise<unknown>, changed?: string, quietly = false): void {
    const whole = () => (changed !== undefined && this.#unkept.has(changed) ? this.#keepWhole(changed).then(write) : write());
    this.#writes = this.#writes.then(whole).then(
      () => {
        this.fault.value = null;
        if (changed !== undefined && !quietly) this.#channel?.postMessage(changed);
      },
      (error: unknown) => {
        if (changed !== undefined) this.#unkept.add(changed);
        // What follows every second need be told once.
        if (!quietly || this.fault.value === null) this.fault.value = { message: error instanceof Error ? error.message : String(error) };
      },
    );
  }

  /** What could not be kept of it when it changed: a repository leaves changes of what it does not have alone. */
  async #keepWhole(id: string): Promise<void> {
    const conversation = this.conversations.value.get(id);
    const messages = this.openId.value === id ? [...this.messages.value.values()] : [];
    if (conversation !== undefined) await this.#repository.add(conversation, messages);
    this.#unkept.delete(id);
  }

  /** Reads what is kept and takes it, once nothing was changed here meanwhile: that would be missing in it. */
  async #readWhole<T>(read: () => Promise<T>, take: (found: T) => void): Promise<void> {
    for (;;) {
      const writes = this.#writes;
      await writes;
      const found = await read();
      if (writes !== this.#writes) continue;
      take(found);
      return;
    }
  }

  /** Another tab has written. What it added to what is shown here is shown too; another branch stays beside. */
  async #refresh(changed: string | null): Promise<void> {
    await this.#readWhole(
      () => this.#repository.conversations(),
      (found) => this.#take(found),
    );
    const { value: id } = this.openId;
    if (id === null || (changed !== null && changed !== id)) return;
    const conversation = this.conversations.value.get(id);
    if (conversation === undefined || conversation.deleted !== null) {
      if (!this.busy) this.close();
      return;
    }
    await this.#readWhole(
      () => this.#repository.messages(id),
      (found) => this.#merge(id, found),
    );
  }

  #merge(id: string, found: readonly Message[]): void {
    const conversation = this.conversations.value.get(id);
    if (this.openId.value !== id || conversation === undefined) return;
    const messages = new Map(found.map((message) => [message.id, message]));
    const mine = this.#leaf.value;
    // The message that is being written here is newer here.
    if (this.busy && mine !== null) for (const message of this.path.value) messages.set(message.id, message);
    this.messages.value = messages;
    const theirs = conversation.leaf;
    if (!this.busy && theirs !== null && (mine === null || !messages.has(mine) || isAfter(messages, theirs, mine)))
      this.#leaf.value = theirs;
  }
}
