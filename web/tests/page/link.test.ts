// The page's end of the protocol over a worker that dies, or is at its work on text for ever: only the worker is a fake, and time.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { EngineInfo, EngineStats } from "../../src/api/types";
import { DeviceError, serializeError, type WispError } from "../../src/api/errors";
import type { WorkerEvents } from "../../src/page/host";
import { WorkerLink } from "../../src/page/link";
import type { Call, FromWorker, ToWorker } from "../../src/protocol/messages";

/** A worker: what it was told, and what a test makes it say. It answers pings unless it hangs. */
class FakeWorker {
  readonly told: ToWorker[] = [];
  hangs = false;
  shared = false;
  terminated = false;
  gone: (() => void) | undefined;

  constructor(private readonly events: WorkerEvents) {}

  post(message: ToWorker): void {
    if (message.type !== "ping") this.told.push(message);
    else if (!this.hangs) this.say({ type: "pong" });
  }
  terminate(): void {
    this.terminated = true;
  }
  say(message: FromWorker): void {
    this.events.onMessage(message);
  }
  error(message: string): void {
    this.events.onError(message);
  }
  calls(): Call[] {
    return this.told.filter((message) => message.type === "call");
  }
  answer(name: string, value: unknown): void {
    const call = this.calls().findLast((asked) => asked.name === name);
    if (call === undefined) throw new Error(`nobody asked for ${name}`);
    this.say({ type: "result", id: call.id, value: value as never, stats: { tokens: 5, recoveries: 0, gpuBytes: 100 } as EngineStats });
  }
  /** Begins work on the text of the latest call, and never ends it. */
  hang(work: "template" | "tokenizer" | "building the tokenizer", id = this.calls().at(-1)?.id): void {
    this.say({ type: "text", work, id });
    this.hangs = true;
  }
}

const { workers } = vi.hoisted(() => ({ workers: [] as unknown[] }));
vi.mock("../../src/page/host", () => ({
  startWorker: (events: WorkerEvents) => {
    const worker = new FakeWorker(events);
    worker.shared = nextIsShared && events.again !== true;
    workers.push(worker);
    return worker;
  },
  watchLock: (_lock: string, onGone: () => void) => {
    latest().gone = onGone;
    return { stop: () => undefined };
  },
}));
/** What startWorker() gives unless it starts one again. */
let nextIsShared = false;
const latest = (): FakeWorker => workers.at(-1) as FakeWorker;

const ARGS = {
  url: "http://x/",
  options: {
    backend: "auto",
    kv: "auto",
    contextLength: undefined,
    threads: undefined,
    cache: true,
    autotune: undefined,
    headers: {},
    fetchesOnPage: false,
  },
};
const INFO = { variant: "wasm-simd" } as EngineInfo;
const TEXT = { text: "a", addSpecialTokens: true };
const ANSWER = {
  sampling: {},
  seed: undefined,
  repetitionWindow: undefined,
  maxTokens: undefined,
  stop: [],
  format: undefined,
  stream: true,
  logprobs: undefined,
  bias: [],
  ignoreEos: false,
  processed: false,
};
const CHAT = {
  ...{
    ...ANSWER,
    messages: [],
    tools: [],
    variables: {},
    toolChoice: "auto" as const,
    parallelToolCalls: true,
    contentsAsText: true,
    slides: false,
    prediction: undefined,
  },
  ...{ addGenerationPrompt: undefined, continueFinalMessage: undefined },
};

async function loaded() {
  const events: string[] = [];
  const link = new WorkerLink({
    onRecovering: (error: WispError) => events.push(`recovering: ${error.what}`),
    onBackendChange: ({ variant }) => events.push(`moved: ${variant}`),
    onDeviceLost: ({ kind }) => events.push(`lost: ${kind}`),
  });
  const load = link.call("load", ARGS);
  latest().say({ type: "started", lock: "a lock" });
  latest().answer("load", INFO);
  await load;
  return { link, events, first: latest() };
}

const seconds = (count: number) => vi.advanceTimersByTimeAsync(1000 * count);
const TEMPLATE = "The model's chat template ran for 10 s without an end and was stopped";

beforeEach(() => {
  workers.length = 0;
  nextIsShared = false;
  vi.useFakeTimers();
});
afterEach(() => vi.useRealTimers());

describe("a worker that hangs", () => {
  test("in a template is ended after ten pings; its call says so and the model is loaded anew", async () => {
    const { link, events, first } = await loaded();
    const hopeless = link.call("chat", CHAT);
    hopeless.catch(() => undefined);
    first.hang("template");
    await seconds(10);
    expect(first.terminated).toBe(false);
    await seconds(2);
    expect(first.terminated).toBe(true);
    await expect(hopeless).rejects.toMatchObject({ kind: "worker", what: TEMPLATE });
    const again = link.call("tokenize", TEXT);
    expect(latest().calls()).toMatchObject([{ name: "load", args: ARGS }]); // the others wait for the model
    latest().answer("load", { variant: "webgpu-f32" });
    await seconds(0);
    latest().answer("tokenize", [7]);
    expect(await again).toEqual([7]);
    expect(events).toEqual([`recovering: ${TEMPLATE}`, "moved: webgpu-f32"]);
    expect(link.latestInfo?.variant).toBe("webgpu-f32");
    expect(link.stats).toMatchObject({ tokens: 10, recoveries: 1, gpuBytes: 100 });
    link.terminate();
  });

  test("is asked again what it had not begun to answer, forgets at once, and fails what it had begun", async () => {
    const { link, first } = await loaded();
    const deltas: string[] = [];
    let id = -1;
    const begun = link.call("chat", CHAT, { onDelta: ({ content = "" }) => deltas.push(content), onId: (given) => (id = given) });
    begun.catch(() => undefined);
    first.say({ type: "delta", id, delta: { content: "Once" }, stats: {} as EngineStats });
    const waiting = link.call("logits", { ids: [1] });
    const forgotten = link.call("reset", null);
    const hopeless = link.call("tokenize", TEXT);
    hopeless.catch(() => undefined);
    first.hang("tokenizer");
    await seconds(12);
    await expect(begun).rejects.toMatchObject({ kind: "worker" });
    await expect(hopeless).rejects.toThrow(/tokenizer ran for 10 s/);
    expect(await forgotten).toBeNull();
    expect(await link.call("reset", null)).toBeNull();
    latest().answer("load", INFO);
    await seconds(0);
    expect(
      latest()
        .calls()
        .map(({ name }) => name),
    ).toEqual(["load", "logits"]);
    latest().answer("logits", new Float32Array([3]));
    expect(await waiting).toEqual(new Float32Array([3]));
    first.say({ type: "delta", id, delta: { content: "more" }, stats: {} as EngineStats }); // from beyond the grave
    expect(deltas).toEqual(["Once"]);
    link.terminate();
  });

  test.each(["interrupt", "abort"] as const)("ends after two pings when somebody pressed Stop: %s", async (how) => {
    const { link, first } = await loaded();
    const controller = new AbortController();
    const call = link.call("chat", CHAT, { signal: controller.signal });
    call.catch(() => undefined);
    first.hang("template");
    await seconds(1);
    if (how === "interrupt") link.interrupt();
    else controller.abort();
    await seconds(2);
    expect(first.terminated).toBe(true);
    await expect(call).rejects.toThrow();
    link.terminate();
  });

  test("at another call's text when somebody pressed Stop: the answer that was to end is not asked for again", async () => {
    const { link, first } = await loaded();
    const meter = link.call("tokenize", TEXT);
    meter.catch(() => undefined);
    first.hang("tokenizer");
    const stopped = link.call("chat", CHAT);
    const next = link.call("chat", CHAT);
    link.interrupt();
    await seconds(3);
    await expect(meter).rejects.toThrow(/tokenizer ran for 2 s/);
    expect(await stopped).toMatchObject({ text: "", finishReason: "abort" });
    latest().answer("load", INFO);
    await seconds(0);
    expect(
      latest()
        .calls()
        .map(({ name }) => name),
    ).toEqual(["load", "chat"]);
    latest().answer("chat", { text: "b" });
    expect(await next).toEqual({ text: "b" });
    link.terminate();
  });

  test("at anything else is given five minutes", async () => {
    const { link, first } = await loaded();
    const call = link.call("logits", { ids: [1] });
    first.hangs = true;
    await seconds(299);
    expect(first.terminated).toBe(false);
    await seconds(3);
    expect(first.terminated).toBe(true);
    latest().answer("load", INFO);
    await seconds(0);
    latest().answer("logits", new Float32Array([2]));
    expect(await call).toEqual(new Float32Array([2]));
    link.terminate();
  });

  test("while it loads fails the load", async () => {
    const link = new WorkerLink({});
    const load = link.call("load", ARGS);
    load.catch(() => undefined);
    latest().hang("building the tokenizer", undefined);
    await seconds(59);
    expect(latest().terminated).toBe(false);
    await seconds(3);
    await expect(load).rejects.toThrow(/Building the model's tokenizer ran for 60 s/);
    expect(workers).toHaveLength(1);
  });

  describe("and is shared", () => {
    function shared() {
      const link = new WorkerLink({});
      const load = link.call("load", ARGS);
      load.catch(() => undefined);
      return { link, load, first: latest() };
    }
    beforeEach(() => void (nextIsShared = true));

    test("before its first word is left soon for one of the page's own, which loads the model", async () => {
      const { link, load, first } = shared();
      first.hangs = true;
      await seconds(20);
      expect(workers).toHaveLength(1);
      await seconds(2);
      expect([first.terminated, workers.length]).toEqual([true, 2]);
      expect(latest().calls()).toMatchObject([{ name: "load", args: ARGS }]);
      latest().answer("load", INFO);
      expect((await load).variant).toBe("wasm-simd");
      link.terminate();
    });

    test("after its first word is given the time that others have, and left only once", async () => {
      const { load, first } = shared();
      first.say({ type: "started", lock: "a lock" });
      first.hangs = true;
      await seconds(299);
      expect(workers).toHaveLength(1);
      await seconds(3);
      expect(workers).toHaveLength(2);
      latest().hangs = true;
      await seconds(303);
      await expect(load).rejects.toThrow(/has not answered for 300 s/);
      expect(workers).toHaveLength(2);
    });
  });

  test("again while the model is loaded anew is given up", async () => {
    const { link, events, first } = await loaded();
    link.call("chat", CHAT).catch(() => undefined);
    first.hang("template");
    await seconds(12);
    latest().hang("building the tokenizer", undefined);
    await seconds(62);
    expect(events.at(-1)).toBe("lost: worker");
    await expect(link.call("tokenize", TEXT)).rejects.toThrow(/Building the model's tokenizer/);
  });
});

describe("a worker that answers", () => {
  test("between its steps, however long they take together, is left alone", async () => {
    const { link, first } = await loaded();
    const call = link.call("logits", { ids: [1] });
    await seconds(4000);
    expect(first.terminated).toBe(false);
    first.answer("logits", new Float32Array([1]));
    await call;
    link.terminate();
  });

  test("after text work that ended is not blamed for it", async () => {
    const { link, first } = await loaded();
    link.call("chat", CHAT).catch(() => undefined);
    first.hang("template");
    await seconds(8);
    first.say({ type: "text", work: undefined, id: 1 });
    await seconds(200);
    expect(first.terminated).toBe(false);
    link.terminate();
  });

  test("nobody is not pinged", async () => {
    const { link, first } = await loaded();
    first.hangs = true;
    await seconds(4000);
    expect(first.terminated).toBe(false);
    link.terminate();
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe("a worker whose device is lost for good", () => {
  const LOST: FromWorker = { type: "lost", error: serializeError(new DeviceError("device-lost", { what: "gone" })) };

  test("says so once, and nothing after the engine was disposed of", async () => {
    const { link, events, first } = await loaded();
    first.say(LOST);
    first.say(LOST);
    first.say({ type: "moved", info: INFO });
    expect(events).toEqual(["lost: device-lost"]);
    const other = await loaded();
    other.link.close(new DeviceError("device-lost", { what: "disposed of" }));
    other.first.say(LOST);
    expect(other.events).toEqual([]);
    other.link.terminate();
    link.terminate();
  });
});

describe("a worker that dies", () => {
  test.each([
    ["with an error", (worker: FakeWorker) => worker.error("out of memory"), "The engine's worker failed: out of memory"],
    ["without a word", (worker: FakeWorker) => worker.gone?.(), "The engine's worker ended"],
  ])("while idle, %s, is replaced and tells", async (_, kill, reason) => {
    const { link, events, first } = await loaded();
    kill(first);
    expect(events).toEqual([`recovering: ${reason}`]);
    latest().answer("load", INFO);
    await seconds(0);
    expect(events.at(-1)).toBe("moved: wasm-simd");
    const call = link.call("tokenize", TEXT);
    latest().answer("tokenize", [1]);
    expect(await call).toEqual([1]);
    link.terminate();
  });

  test("twice within a minute is lost for good: calls reject with the reason", async () => {
    const { link, events } = await loaded();
    latest().error("out of memory");
    latest().answer("load", INFO);
    await seconds(30);
    latest().error("out of memory");
    expect(events.at(-1)).toBe("lost: worker");
    await expect(link.call("tokenize", TEXT)).rejects.toMatchObject({ kind: "worker", message: /out of memory/ as never });
    expect(workers).toHaveLength(2);
  });

  test("once in a while is replaced each time", async () => {
    const { link, events } = await loaded();
    for (let times = 0; times < 3; times++) {
      latest().error("out of memory");
      latest().answer("load", INFO);
      await seconds(61);
    }
    expect(events.filter((event) => event.startsWith("moved"))).toHaveLength(3);
    expect(link.stats?.recoveries).toBe(3);
    link.terminate();
  });

  test("and cannot load the model again is lost with that reason", async () => {
    const { link, events } = await loaded();
    latest().gone?.();
    const error = { name: "NetworkError", kind: "network", message: "offline", what: "offline" } as const;
    const [load] = latest().calls();
    latest().say({ type: "error", id: load?.id ?? -1, error, stats: {} as EngineStats });
    await seconds(0);
    expect(events.at(-1)).toBe("lost: network");
    await expect(link.call("tokenize", TEXT)).rejects.toThrow("offline");
  });

  test("before it was loaded fails the load", async () => {
    const link = new WorkerLink({});
    const load = link.call("load", ARGS);
    latest().error("");
    await expect(load).rejects.toThrow("The engine's worker could not be started");
    expect(workers).toHaveLength(1);
  });

  test("after the engine was disposed of interests nobody", async () => {
    const { link, events, first } = await loaded();
    link.close(new Error("disposed"));
    link.terminate();
    first.error("exit");
    first.gone?.();
    expect(events).toEqual([]);
    expect(workers).toHaveLength(1);
  });

  test("while what waits for the new one is stopped or aborted", async () => {
    const { link, first } = await loaded();
    const controller = new AbortController();
    const stopped = link.call("chat", CHAT);
    const aborted = link.call("generate", { ids: [1], options: {} }, { signal: controller.signal });
    first.error("out of memory");
    link.interrupt();
    controller.abort();
    expect(await stopped).toMatchObject({ text: "", finishReason: "abort" });
    await expect(aborted).rejects.toThrow(/aborted/);
    latest().answer("load", INFO);
    await seconds(0);
    expect(
      latest()
        .calls()
        .map(({ name }) => name),
    ).toEqual(["load"]);
    link.terminate();
  });
});
