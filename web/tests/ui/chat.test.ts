// Answers in the open conversation, from a real engine whose model says what the test wrote: what it is given when the oldest is
// forgotten, and which model goes on when a conversation is opened.
import { beforeEach, expect, test, vi } from "vitest";
import { createEngine } from "../../src/page/engine";
import { Chat } from "../../src/ui/state/chat";
import { NOTHING_CHOSEN } from "../../src/ui/state/choices";
import { History } from "../../src/ui/state/history";
import { type Model, Models } from "../../src/ui/state/models";
import { Notices } from "../../src/ui/state/notices";
import { Memory } from "../../src/ui/state/repository";
import { Settings } from "../../src/ui/state/settings";
import { scripted } from "../support/scripted-model";

vi.mock("../../src/worker/load/load", async () => ({ load: (await import("../support/scripted-model")).load }));
vi.mock("../../src/page/host", () => import("../support/in-process"));
vi.mock("../../src/ui/state/service-worker", () => ({ prepareIsolation: () => Promise.resolve(false) })); // It wants a document.

const modelOf = (id: string, weight_bytes = 1e9): Model => ({
  ...{ id, name: id.toUpperCase(), parameters: 1, quantization: "none", context: 600, weight_bytes, variants: ["wasm"] },
  ...{ suggestions: [], license: null, homepage: null, url: `http://nowhere.invalid/${id}/` },
});
const [LARGE, OTHER, SMALL] = [modelOf("large"), modelOf("other"), modelOf("small", 1e6)];

const load = vi.fn<Models["load"]>(() => Promise.resolve());
let [history, notices, models, chat] = [] as unknown as [History, Notices, Models, Chat];

beforeEach(async () => {
  vi.stubGlobal("location", new URL("http://page.invalid/"));
  [history, notices] = [new History(), new Notices()];
  models = Object.assign(new Models(notices), { canRun: () => true, load });
  load.mockClear();
  models.catalogue.value = { models: [LARGE, OTHER, SMALL], invalid: [] };
  chat = new Chat(history, new Settings(history), models, notices);
  await history.start(new Memory());
  scripted.capacity = 600;
});

async function answers(model: Model): Promise<void> {
  const engine = await createEngine(model.url);
  models.loaded.value = { model, engine, info: engine.info, lost: false };
}

async function exchange(question: string, answer: string): Promise<void> {
  scripted.answers = [answer];
  chat.ask(question);
  await vi.waitFor(() => expect(chat.busy.value).toBe(false));
}

const prompt = () => scripted.prompts.at(-1) ?? "";
const roles = () => [...prompt().matchAll(/<\|im_start\|>(\w+)/g)].map(([, role]) => role);

test("what is forgotten ends before a question, and what a persona said first stays", async () => {
  await answers(LARGE);
  chat.persona.value = { id: "p", name: "Ada", picture: "", greeting: "Ahoy, I am Ada.", choices: NOTHING_CHOSEN };
  await exchange("first question", "first answer ".repeat(60));
  await exchange("second question", "second answer");
  await chat.forgetOldest();
  await exchange("third question", "third answer");
  expect(prompt()).toContain("Ahoy, I am Ada.");
  expect(prompt()).not.toContain("first");
  expect(prompt()).toMatch(/user\nsecond question.*assistant\nsecond answer.*user\nthird question/s);
  expect(roles()).toEqual(["system", "user", "assistant", "user", "assistant"]);
});

test("what cannot be counted is not forgotten, and it says why", async () => {
  await answers(LARGE);
  await exchange("first question", "first answer ".repeat(60));
  await exchange("second question", "second answer");
  const engine = models.loaded.value?.engine;
  if (engine !== undefined) vi.spyOn(engine, "tokenize").mockRejectedValueOnce(new Error("The worker has ended"));
  await chat.forgetOldest();
  expect(history.open.value?.forgotten).toBeNull();
  expect(notices.notice.value?.text).toContain("The worker has ended");
});

test("a conversation that another model answered says which one goes on", async () => {
  await answers(LARGE);
  await exchange("hello", "Hi.");
  const { value: id } = history.openId;
  await chat.newChat();
  await chat.show(id ?? "");
  expect(notices.notice.value).toBeNull();
  await answers(OTHER);
  await chat.show(id ?? "");
  expect(notices.notice.value?.text).toBe("LARGE answered here last. OTHER goes on from here.");
});

test("opening a conversation loads its model where that downloads little, and else chooses it", async () => {
  const open = async ({ id: model }: Model) => {
    const { id } = history.begin(NOTHING_CHOSEN, { model });
    history.close();
    await chat.show(id);
    return models.chosenId.value;
  };
  expect(await open(LARGE)).toBe("large");
  expect(load).not.toHaveBeenCalled();
  expect(await open(SMALL)).toBe("small");
  expect(load).toHaveBeenCalledExactlyOnceWith(SMALL);
  vi.spyOn(models, "comesUnasked").mockResolvedValue(true); // it is kept in this browser
  await open(OTHER);
  expect(load).toHaveBeenLastCalledWith(OTHER);
});

test("an answer that is asked for again after all was forgotten has its question, and nothing before it", async () => {
  await answers(LARGE);
  await exchange("first question", "first answer ".repeat(60));
  await exchange("second question", "second answer ".repeat(60));
  const answer = history.path.value.at(-1);
  expect(answer?.role).toBe("assistant");
  history.update(history.openId.value ?? "", { forgotten: answer?.id ?? null });
  if (answer !== undefined) chat.regenerate(answer);
  await vi.waitFor(() => expect(chat.busy.value).toBe(false));
  expect(prompt()).toContain("second question");
  expect(prompt()).not.toContain("first");
});

test("a conversation that cannot be read says so, and the open one stays", async () => {
  await answers(LARGE);
  await exchange("question", "answer");
  const [id, { value: before }] = [history.openId.value ?? "", history.path];
  history.repository.messages = () => Promise.reject(new Error("the disk is gone"));
  await chat.show(id);
  expect(notices.notice.value?.text).toContain("the disk is gone");
  expect([history.openId.value, history.path.value]).toEqual([id, before]);
});
