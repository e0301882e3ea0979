// The worker's end of the protocol over a port that a test holds the other end of: what is said before and without a model.
import { expect, test, vi } from "vitest";
import type { Call, FromWorker, ToWorker } from "../../src/protocol/messages";
import { toCall } from "../../src/page/request";
import { DeviceError } from "../../src/api/errors";
import { Models } from "../../src/worker/clients";
import type { LoadEvents } from "../../src/worker/load/load";
import { serve } from "../../src/worker/serve";
import { scripted } from "../support/scripted-model";

vi.mock("../../src/worker/grammar-file", () => ({ loadGrammars: () => import("../../src/text/grammar/engine") }));
const { started } = vi.hoisted(() => ({ started: [] as LoadEvents[] }));
vi.mock("../../src/worker/load/load", async (original) => {
  const { load } = await original<typeof import("../../src/worker/load/load")>();
  const given = async (...args: Parameters<typeof load>) => {
    if (args[0] !== "scripted") return load(...args);
    started.push(args[4] ?? {});
    return scripted.loaded();
  };
  return { load: given };
});

function start(models = new Models()): { said: FromWorker[]; tell: (message: ToWorker) => void } {
  const said: FromWorker[] = [];
  let tell: ((message: ToWorker) => void) | undefined;
  vi.stubGlobal("navigator", {});
  serve({ post: (message) => said.push(message), listen: (receive) => (tell = receive) }, models);
  if (tell === undefined) throw new Error("nobody listens");
  return { said, tell };
}

const OPTIONS = {
  backend: "auto",
  kv: "auto",
  contextLength: undefined,
  threads: 0, // refused before anything is fetched
  cache: false,
  autotune: undefined,
  headers: {},
  fetchesOnPage: false,
};
const answered = (said: readonly FromWorker[]) => said.filter(({ type }) => type === "result" || type === "error");

test("it says that it lives", () => {
  const { said, tell } = start();
  tell({ type: "ping" });
  expect(said).toEqual([{ type: "pong" }]);
});

test("calls of the KV cache are answered in their order, each by its id, and a failure ends none but its own", async () => {
  const { said, tell } = start();
  const calls: Call[] = [
    { type: "call", id: 7, name: "load", args: { url: "http://nowhere.invalid/", options: OPTIONS } },
    { type: "call", id: 8, name: "logits", args: { ids: [1] } },
    { type: "call", id: 9, name: "reset", args: null },
  ];
  for (const call of calls) tell(call);
  await vi.waitFor(() => expect(answered(said)).toHaveLength(3));
  expect(answered(said).map((message) => ("id" in message ? message.id : undefined))).toEqual([7, 8, 9]);
  expect(answered(said)[0]).toMatchObject({
    type: "error",
    error: { name: "RequestError", what: "threads", got: "0", expected: "an integer from 1 to 64" },
    stats: { tokens: 0, recoveries: 0 },
  });
});

test("dispose() waits for nobody, and ends the load", async () => {
  const { said, tell } = start();
  const options = { ...OPTIONS, threads: undefined, fetchesOnPage: true }; // The page does not answer.
  tell({ type: "call", id: 1, name: "load", args: { url: "http://nowhere.invalid/", options } });
  await vi.waitFor(() => expect(said.some(({ type }) => type === "fetch")).toBe(true));
  tell({ type: "call", id: 2, name: "dispose", args: null });
  await vi.waitFor(() => expect(answered(said)).toHaveLength(2));
  expect(answered(said)).toMatchObject([
    { type: "result", id: 2 },
    { type: "error", id: 1, error: { name: "AbortError" } },
  ]);
  expect(said.some(({ type }) => type === "fetch-abort")).toBe(true);
});

test("a grammar is announced with the call that it is of: it may take for ever", async () => {
  const { said, tell } = start();
  tell({ type: "call", id: 1, name: "load", args: { url: "scripted", options: OPTIONS } });
  const request = { messages: [{ role: "user", content: "hi" }], response_format: { type: "regex" as const, regex: "a+" } };
  tell({ type: "call", id: 5, name: "chat", args: toCall(request) });
  await vi.waitFor(() => expect(answered(said)).toHaveLength(2));
  expect(said).toContainEqual({ type: "text", work: "grammar", id: 5 });
});

test("ports share a model that was loaded the same way, until its device is lost for good", async () => {
  const models = new Models();
  const loads = async (options: Partial<typeof OPTIONS>) => {
    const { said, tell } = start(models);
    tell({ type: "call", id: 1, name: "load", args: { url: "scripted", options: { ...OPTIONS, ...options } } });
    await vi.waitFor(() => expect(answered(said)).toHaveLength(1));
    return said;
  };
  started.length = 0;
  const headers = { a: "1", b: "2" };
  const first = await loads({ headers });
  const second = await loads({ headers: { b: "2", a: "1" } });
  expect(started).toHaveLength(1);
  await loads({ headers, cache: true });
  await loads({ headers: { ...headers, b: "3" } });
  expect(started).toHaveLength(3);
  started[0]?.onLost?.(new DeviceError("device-lost", { what: "gone" }));
  for (const said of [first, second]) expect(said.at(-1)).toMatchObject({ type: "lost", error: { kind: "device-lost" } });
  await loads({ headers });
  expect(started).toHaveLength(4);
});
