// Conversations over a real IndexedDB in memory: branches, what a reload finds, what two tabs do to one another, and a page
// without storage.
import { IDBFactory } from "fake-indexeddb";
import { beforeEach, describe, expect, test, vi } from "vitest";
import "fake-indexeddb/auto";
import { NOTHING_CHOSEN } from "../../src/ui/state/choices";
import { titleOf } from "../../src/ui/state/conversation";
import { type Channel, History, type Remembered } from "../../src/ui/state/history";
import { Memory, openRepository } from "../../src/ui/state/repository";

/** Tabs of one browser hear one another at once. */
class Tabs {
  readonly channels: Channel[] = [];

  channel(): Channel {
    const own: Channel = {
      onmessage: null,
      postMessage: (data) => {
        for (const other of this.channels) if (other !== own) other.onmessage?.({ data } as MessageEvent<string | null>);
      },
    };
    this.channels.push(own);
    return own;
  }
}

function memory(): Remembered {
  const kept = new Map<string, string>();
  return {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, value),
    removeItem: (key) => void kept.delete(key),
  };
}

let tabs: Tabs;

async function tab(remembered: Remembered | null = null): Promise<History> {
  const history = new History();
  await history.start(await openRepository(), tabs.channel(), remembered);
  return history;
}

const said = (history: History) => history.path.value.map(({ content }) => content);
const leaf = (history: History) => history.path.value.at(-1)?.id ?? null;

/** A question and its answer at the end. */
function exchange(history: History, question: string, answer: string): { question: string; answer: string } {
  const asked = history.append(leaf(history), { role: "user", content: question });
  const answered = history.append(asked.id, { role: "assistant", content: answer, reason: "stop" });
  return { question: asked.id, answer: answered.id };
}

beforeEach(() => {
  vi.stubGlobal("indexedDB", new IDBFactory());
  tabs = new Tabs();
});

test("a reload finds what was open, as it was", async () => {
  const session = memory();
  const before = await tab(session);
  const { id } = before.begin({ ...NOTHING_CHOSEN, systemPrompt: "Be brief." });
  exchange(before, "What is rain?", "Water.");
  exchange(before, "And snow?", "Ice.");
  await before.settled();
  expect(before.lasts.value).toBe(true);

  const after = await tab(session);
  expect(after.openId.value).toBe(id);
  expect(said(after)).toEqual(["What is rain?", "Water.", "And snow?", "Ice."]);
  expect(after.open.value).toMatchObject({ title: "What is rain?", choices: { systemPrompt: "Be brief." } });

  after.close();
  await after.settled();
  const fresh = await tab(session);
  expect(fresh.open.value).toBeNull();
  expect(fresh.list.value.map(({ title }) => title)).toEqual(["What is rain?"]);
});

describe("branches", () => {
  test("of answers and of questions stand side by side", async () => {
    const history = await tab();
    history.begin(NOTHING_CHOSEN);
    const first = exchange(history, "one", "1");
    const second = exchange(history, "two", "2");
    history.append(second.question, { role: "assistant", content: "2b" });
    expect(said(history)).toEqual(["one", "1", "two", "2b"]);
    history.append(first.answer, { role: "user", content: "zwei" });
    expect(said(history)).toEqual(["one", "1", "zwei"]);
    const shown = history.path.value.at(-1);
    expect(shown && history.branches(shown).map(({ content }) => content)).toEqual(["two", "zwei"]);
    // The newest answer of a branch is what it leads to.
    history.choose(second.question);
    expect(said(history)).toEqual(["one", "1", "two", "2b"]);
    history.choose(second.answer);
    expect(said(history)).toEqual(["one", "1", "two", "2"]);
    await history.settled();

    const other = await tab();
    await other.show(history.openId.value ?? "");
    expect(said(other)).toEqual(["one", "1", "two", "2"]);
  });

  test("what is taken back leaves what stands beside it", async () => {
    const history = await tab();
    const { id } = history.begin(NOTHING_CHOSEN);
    const { question, answer } = exchange(history, "one", "1");
    const edited = history.append(null, { role: "user", content: "eins" });
    history.append(edited.id, { role: "assistant", content: "1b" });
    history.takeBack(edited.id);
    expect(said(history)).toEqual(["one", "1"]);
    history.takeBack(answer);
    expect(said(history)).toEqual(["one"]);
    history.takeBack(question);
    expect(said(history)).toEqual([]);
    await history.settled();
    expect(await history.messagesOf(id)).toEqual([]);
  });
});

describe("two tabs", () => {
  async function both(): Promise<[History, History]> {
    const a = await tab();
    const { id } = a.begin(NOTHING_CHOSEN);
    exchange(a, "hello", "Hi.");
    await a.settled();
    const b = await tab();
    await b.show(id);
    return [a, b];
  }
  const calm = async (...all: History[]) => {
    for (let i = 0; i < 3; i++) for (const history of all) await history.search("x");
  };

  test("that write at once lose nothing: each has its branch", async () => {
    const [a, b] = await both();
    a.busy = b.busy = true; // both are answering
    exchange(a, "from a", "A");
    exchange(b, "from b", "B");
    a.busy = b.busy = false;
    await calm(a, b);
    const contents = (await a.messagesOf(a.openId.value ?? "")).map(({ content }) => content).sort();
    expect(contents).toEqual(["A", "B", "Hi.", "from a", "from b", "hello"]);
    expect(said(a)).toEqual(["hello", "Hi.", "from a", "A"]);
    expect(said(b)).toEqual(["hello", "Hi.", "from b", "B"]);
    for (const history of [a, b]) {
      const question = history.path.value[2];
      expect(question && history.branches(question)).toHaveLength(2);
    }
  });

  test("read one another without losing what is done meanwhile", async () => {
    const [a, b] = await both();
    for (const method of ["conversations", "messages"] as const) {
      const read = a.repository[method].bind(a.repository) as (id: string) => Promise<never>;
      vi.spyOn(a.repository, method).mockImplementationOnce(async (id: string) => {
        const found = await read(id);
        if (method === "conversations") a.rename(a.openId.value ?? "", "Renamed");
        exchange(a, `during ${method}`, "Yes.");
        return found;
      });
    }
    b.begin(NOTHING_CHOSEN);
    await calm(a, b);
    expect(a.open.value?.title).toBe("Renamed");
    expect(a.list.value).toHaveLength(2);
    expect(said(a)).toEqual(["hello", "Hi.", "during conversations", "Yes."]);
    b.close();
    await b.show(a.openId.value ?? "");
    exchange(b, "more", "More.");
    await calm(a, b);
    expect(said(a)).toEqual(expect.arrayContaining(["during conversations", "during messages"]));
    expect(said(a)).toHaveLength(6);
  });

  test("follow one another", async () => {
    const [a, b] = await both();
    exchange(a, "more", "More.");
    await calm(a, b);
    expect(said(b)).toEqual(["hello", "Hi.", "more", "More."]);
    b.rename(b.openId.value ?? "", "Renamed");
    a.update(a.openId.value ?? "", { pinned: true });
    await calm(a, b);
    for (const history of [a, b]) expect(history.open.value).toMatchObject({ title: "Renamed", pinned: true });
  });

  test("close what the other deletes, and an undo brings it back", async () => {
    const [a, b] = await both();
    const { value: id } = a.openId;
    a.delete(id ?? "");
    await calm(a, b);
    expect(b.open.value).toBeNull();
    expect(b.list.value).toEqual([]);
    a.restore(id ?? "");
    await calm(a, b);
    expect(b.list.value).toHaveLength(1);
    a.delete(id ?? "");
    a.purge(id ?? "");
    await calm(a, b);
    expect(await a.messagesOf(id ?? "")).toEqual([]);
  });
});

test("search looks at titles and at what was said", async () => {
  const history = await tab();
  const one = history.begin(NOTHING_CHOSEN);
  exchange(history, "What is rain?", "Water from CLOUDS.");
  const two = history.begin(NOTHING_CHOSEN);
  exchange(history, "Say hello", "Hello.");
  history.rename(two.id, "Greetings of the cloud");
  expect(await history.search("clouds")).toEqual(new Set([one.id]));
  expect(await history.search("cloud")).toEqual(new Set([one.id, two.id]));
  expect(await history.search("thunder")).toEqual(new Set());
});

test("pinned conversations come first, then the latest", async () => {
  const history = await tab();
  const ids = ["a", "b", "c"].map((content) => {
    const { id } = history.begin(NOTHING_CHOSEN);
    history.append(null, { role: "user", content });
    history.update(id, { updated: content.charCodeAt(0) });
    return id;
  });
  expect(history.list.value.map(({ title }) => title)).toEqual(["c", "b", "a"]);
  history.update(ids[0] ?? "", { pinned: true });
  expect(history.list.value.map(({ title }) => title)).toEqual(["a", "c", "b"]);
});

test("without IndexedDB conversations last as long as the page, and it says so", async () => {
  vi.stubGlobal("indexedDB", {
    open: () => {
      throw new DOMException("no storage here", "SecurityError");
    },
  });
  const history = await tab();
  expect(history.lasts.value).toBe(false);
  const { id } = history.begin(NOTHING_CHOSEN);
  exchange(history, "hello", "Hi.");
  history.close();
  await history.show(id);
  expect(said(history)).toEqual(["hello", "Hi."]);
  expect(await history.search("hi.")).toEqual(new Set([id]));
});

test("a change that cannot be kept is told, and those after it are made", async () => {
  const history = new History();
  const repository = new Memory();
  await history.start(repository);
  const { id } = history.begin(NOTHING_CHOSEN);
  await history.settled();
  vi.spyOn(repository, "change").mockRejectedValueOnce(new DOMException("The quota has been exceeded", "QuotaExceededError"));
  const told: (string | undefined)[] = [];
  history.fault.subscribe((fault) => void told.push(fault?.message));
  history.rename(id, "late");
  history.update(id, { pinned: true });
  await history.settled();
  expect((await repository.conversations())[0]).toMatchObject({ title: "late", pinned: true });
  vi.spyOn(repository, "put").mockRejectedValueOnce(new Error("The quota has been exceeded"));
  history.append(null, { role: "user", content: "x" });
  await history.settled();
  const why = "The quota has been exceeded";
  expect(told).toEqual([undefined, why, undefined, why]);
});

test("a conversation whose beginning could not be kept is kept with its next message", async () => {
  const history = new History();
  const repository = new Memory();
  await history.start(repository);
  vi.spyOn(repository, "add").mockRejectedValueOnce(new Error("full"));
  const { id } = history.begin(NOTHING_CHOSEN);
  exchange(history, "hello", "Hi.");
  await history.settled();
  expect((await repository.messages(id)).map(({ content }) => content)).toEqual(["hello", "Hi."]);
});

describe("a connection to the database that is gone", () => {
  let connections: IDBDatabase[];

  beforeEach(() => {
    connections = [];
    const open = indexedDB.open.bind(indexedDB);
    indexedDB.open = (...args) => {
      const opening = open(...args);
      opening.addEventListener("success", () => connections.push(opening.result));
      return opening;
    };
  });

  test("is made again", async () => {
    const history = await tab();
    const { id } = history.begin(NOTHING_CHOSEN);
    await history.settled();
    connections[0]?.close();
    exchange(history, "hello", "Hi.");
    expect((await history.messagesOf(id)).map(({ content }) => content).sort()).toEqual(["Hi.", "hello"]);
    expect(history.fault.value).toBeNull();
    expect(connections).toHaveLength(2);
  });

  test("cannot be once a newer page has changed the layout, which each change says", async () => {
    const history = await tab();
    const newer = indexedDB.open("wisp", 2);
    await new Promise((resolve) => newer.addEventListener("success", resolve));
    const { id } = history.begin(NOTHING_CHOSEN);
    await history.settled();
    const { value: first } = history.fault;
    expect(first?.message).toMatch(/newer version of this page/);
    history.rename(id, "x");
    await history.settled();
    expect(history.fault.value).toEqual(first);
    expect(history.fault.value).not.toBe(first);
  });
});

test("a file brings what is not here, and back what was deleted and can be taken back", async () => {
  const history = await tab();
  const conversation = history.begin(NOTHING_CHOSEN);
  exchange(history, "hello", "Hi.");
  const messages = await history.messagesOf(conversation.id);
  expect(history.import(conversation, messages)).toBe(true);
  history.delete(conversation.id);
  expect(history.import(conversation, messages)).toBe(false);
  history.purge(conversation.id); // as the end of the time for an undo does
  expect(await history.messagesOf(conversation.id)).toHaveLength(2);
  history.delete(conversation.id);
  history.purge(conversation.id);
  expect(history.import(conversation, messages)).toBe(false);
  expect(await history.messagesOf(conversation.id)).toHaveLength(2);
  expect(history.list.value).toHaveLength(1);
});

test("a title is the beginning of the first question, cut at a word", () => {
  expect(titleOf("  What\n is rain? ")).toBe("What is rain?");
  const long = titleOf("word ".repeat(40));
  expect(long).toMatch(/^(word ?)+…$/);
  expect(long.length).toBeLessThan(62);
  expect(titleOf("🌧".repeat(80))).toBe(`${"🌧".repeat(60)}…`);
});
