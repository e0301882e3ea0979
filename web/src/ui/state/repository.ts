// Where conversations, their messages and personas are kept: in IndexedDB, or in memory where a browser gives the page none.
// A conversation is one record and so is each message: two tabs that write at once write different records, and a change of a
// record is a transaction that reads what is there now.

import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import { t } from "../texts";
import type { Conversation, Message } from "./conversation";
import type { Persona } from "./persona";

export interface Repository {
  /** Whether what is kept outlives the page. */
  readonly lasts: boolean;
  conversations(): Promise<Conversation[]>;
  messages(conversation: string): Promise<Message[]>;
  /** Adds or replaces; all of them or none. */
  add(conversation: Conversation, messages: readonly Message[]): Promise<void>;
  /** Changes what is there; nothing when it is gone. */
  change(id: string, change: Partial<Conversation>): Promise<void>;
  /** Adds or replaces messages, and changes their conversation; all of it or nothing. Nothing when the conversation is gone. */
  put(messages: readonly Message[], conversation: string, change: Partial<Conversation>): Promise<void>;
  removeMessages(ids: readonly string[], conversation: string, change: Partial<Conversation>): Promise<void>;
  /** With all messages, for good. */
  remove(ids: readonly string[]): Promise<void>;
  /** The conversations in which a message contains the text, whatever its case. */
  search(text: string): Promise<Set<string>>;
  personas(): Promise<Persona[]>;
  putPersona(persona: Persona): Promise<void>;
  removePersona(id: string): Promise<void>;
}

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation };
  messages: { key: string; value: Message; indexes: { conversation: string } };
  personas: { key: string; value: Persona };
}

const NAME = "wisp";
const VERSION = 1;

const contains = (message: Message, lowered: string) => message.content.toLocaleLowerCase().includes(lowered);

class Database implements Repository {
  readonly lasts = true;

  constructor(private db: IDBPDatabase<Schema>) {}

  /** Browsers drop connections, when they need memory for example: then once more, with a new one. */
  private async on<T>(use: (db: IDBPDatabase<Schema>) => Promise<T>): Promise<T> {
    const { db } = this;
    try {
      return await use(db);
    } catch (error) {
      // The other name is Safari's, whose transactions find out that the connection is gone.
      if (!(error instanceof DOMException) || !["InvalidStateError", "UnknownError"].includes(error.name)) throw error;
      if (this.db === db) this.db = await opened();
      return use(this.db);
    }
  }

  conversations(): Promise<Conversation[]> {
    return this.on((db) => db.getAll("conversations"));
  }

  messages(conversation: string): Promise<Message[]> {
    return this.on((db) => db.getAllFromIndex("messages", "conversation", conversation));
  }

  add(conversation: Conversation, messages: readonly Message[]): Promise<void> {
    return this.on(async (db) => {
      const tx = db.transaction(["conversations", "messages"], "readwrite");
      await Promise.all([
        tx.objectStore("conversations").put(conversation),
        ...messages.map((message) => tx.objectStore("messages").put(message)),
        tx.done,
      ]);
    });
  }

  change(id: string, change: Partial<Conversation>): Promise<void> {
    return this.put([], id, change);
  }

  put(messages: readonly Message[], conversation: string, change: Partial<Conversation>): Promise<void> {
    return this.on(async (db) => {
      const tx = db.transaction(["conversations", "messages"], "readwrite");
      const found = await tx.objectStore("conversations").get(conversation);
      if (found !== undefined) {
        await tx.objectStore("conversations").put({ ...found, ...change });
        for (const message of messages) await tx.objectStore("messages").put(message);
      }
      await tx.done;
    });
  }

  removeMessages(ids: readonly string[], conversation: string, change: Partial<Conversation>): Promise<void> {
    return this.on(async (db) => {
      const tx = db.transaction(["conversations", "messages"], "readwrite");
      const found = await tx.objectStore("conversations").get(conversation);
      if (found !== undefined) await tx.objectStore("conversations").put({ ...found, ...change });
      for (const id of ids) await tx.objectStore("messages").delete(id);
      await tx.done;
    });
  }

  remove(ids: readonly string[]): Promise<void> {
    return this.on(async (db) => {
      const tx = db.transaction(["conversations", "messages"], "readwrite");
      for (const id of ids) {
        await tx.objectStore("conversations").delete(id);
        for (const key of await tx.objectStore("messages").index("conversation").getAllKeys(id))
          await tx.objectStore("messages").delete(key);
      }
      await tx.done;
    });
  }

  search(text: string): Promise<Set<string>> {
    return this.on(async (db) => {
      const lowered = text.toLocaleLowerCase();
      const found = new Set<string>();
      const tx = db.transaction("messages");
      for await (const { value } of tx.store) if (contains(value, lowered)) found.add(value.conversation);
      return found;
    });
  }

  personas(): Promise<Persona[]> {
    return this.on((db) => db.getAll("personas"));
  }

  async putPersona(persona: Persona): Promise<void> {
    await this.on((db) => db.put("personas", persona));
  }

  removePersona(id: string): Promise<void> {
    return this.on((db) => db.delete("personas", id));
  }
}

/** As long as the page is open. */
export class Memory implements Repository {
  readonly lasts = false;
  readonly #conversations = new Map<string, Conversation>();
  readonly #messages = new Map<string, Message>();
  readonly #personas = new Map<string, Persona>();

  conversations(): Promise<Conversation[]> {
    return Promise.resolve([...this.#conversations.values()]);
  }

  messages(conversation: string): Promise<Message[]> {
    return Promise.resolve([...this.#messages.values()].filter((message) => message.conversation === conversation));
  }

  add(conversation: Conversation, messages: readonly Message[]): Promise<void> {
    this.#conversations.set(conversation.id, conversation);
    for (const message of messages) this.#messages.set(message.id, message);
    return Promise.resolve();
  }

  change(id: string, change: Partial<Conversation>): Promise<void> {
    return this.put([], id, change);
  }

  put(messages: readonly Message[], conversation: string, change: Partial<Conversation>): Promise<void> {
    const found = this.#conversations.get(conversation);
    return found === undefined ? Promise.resolve() : this.add({ ...found, ...change }, messages);
  }

  removeMessages(ids: readonly string[], conversation: string, change: Partial<Conversation>): Promise<void> {
    for (const id of ids) this.#messages.delete(id);
    return this.change(conversation, change);
  }

  remove(ids: readonly string[]): Promise<void> {
    for (const id of ids) this.#conversations.delete(id);
    for (const { id, conversation } of [...this.#messages.values()]) if (ids.includes(conversation)) this.#messages.delete(id);
    return Promise.resolve();
  }

  search(text: string): Promise<Set<string>> {
    const lowered = text.toLocaleLowerCase();
    const found = [...this.#messages.values()].filter((message) => contains(message, lowered));
    return Promise.resolve(new Set(found.map(({ conversation }) => conversation)));
  }

  personas(): Promise<Persona[]> {
    return Promise.resolve([...this.#personas.values()]);
  }

  putPersona(persona: Persona): Promise<void> {
    this.#personas.set(persona.id, persona);
    return Promise.resolve();
  }

  removePersona(id: string): Promise<void> {
    this.#personas.delete(id);
    return Promise.resolve();
  }
}

async function opened(): Promise<IDBPDatabase<Schema>> {
  try {
    return await openDB<Schema>(NAME, VERSION, {
      upgrade(made) {
        made.createObjectStore("conversations", { keyPath: "id" });
        made.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
        made.createObjectStore("personas", { keyPath: "id" });
      },
      // A newer page may change the layout: this one lets go, and says on its next write that it could not.
      blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
    });
  } catch (error) {
    if (!(error instanceof DOMException) || error.name !== "VersionError") throw error;
    throw new Error(t("notice.newer-page"), { cause: error });
  }
}

/** The database of this browser, else memory: some private windows and some settings forbid it. */
export async function openRepository(): Promise<Repository> {
  try {
    return new Database(await opened());
  } catch {
    return new Memory();
  }
}
