// The worker's end of the protocol: one model, one queue. Knows messages and their order; the work is load/'s,
// runtime/session.ts's and text/'s. Calls that use the KV cache run one after another in the order of arrival, never interleaved.

import type { EngineInfo, EngineStats, SamplingOptions } from "../api/types";
import { RequestError, serializeError } from "../api/errors";
import { checkNumber } from "../api/options";
import { SAMPLING_OFF } from "../api/sampling";
import { load, type LoadedModel } from "./load/load";
import { PageFetch } from "./page-fetch";
import type { Call, CallName, Calls, ChatCall, ChatResult, FromWorker, ToWorker } from "../protocol/messages";
import { resolveSampling } from "../runtime/sampling";
import { Detokenizer } from "../text/detokenizer";
import { StopStrings } from "../text/stop-strings";
import type { Tokenizer } from "../text/tokenizer";
import { announced, onTextWork } from "../text/work";

/** The part of DedicatedWorkerGlobalScope that is used: TypeScript's DOM and worker libraries exclude each other. */
interface WorkerScope {
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
}
const scope = globalThis as unknown as WorkerScope;

let model: LoadedModel | undefined;
/** The end of the queue. */
let queue: Promise<unknown> = Promise.resolve();
/** Of every call that is running or waits; an abort reaches both. */
const aborts = new Map<number, AbortController>();
let running: number | undefined;
const pageFetch = new PageFetch((message) => scope.postMessage(message));
/** The call whose text is being worked on. */
let textOf: number | undefined;

onTextWork((work) => scope.postMessage({ type: "text", work, id: textOf }));

// Held until the worker ends, however it ends.
const { locks } = (globalThis.navigator as { locks?: LockManager } | undefined) ?? {};
if (locks !== undefined) {
  const lock = `wisp-worker-${crypto.randomUUID()}`;
  void locks.request(lock, () => {
    scope.postMessage({ type: "started", lock });
    return new Promise(() => undefined);
  });
}

scope.onmessage = ({ data }) => {
  switch (data.type) {
    case "call":
      void answer(data);
      return;
    case "abort":
      aborts.get(data.id)?.abort();
      return;
    case "interrupt":
      if (running !== undefined) aborts.get(running)?.abort();
      return;
    case "response":
    case "piece":
    case "done":
      pageFetch.receive(data);
      return;
    case "ping":
      scope.postMessage({ type: "pong" });
      return;
    default:
      data satisfies never;
  }
};

/** `make` works on the text of the call `id`. */
function textWork<T>(id: number, make: () => T): T {
  textOf = id;
  try {
    return make();
  } finally {
    textOf = undefined;
  }
}

async function answer(call: Call): Promise<void> {
  const { id } = call;
  const controller = new AbortController();
  aborts.set(id, controller);
  try {
    const value = await (isExclusive(call.name) ? enqueue(call, controller.signal) : perform(call, controller.signal));
    scope.postMessage({ type: "result", id, value, stats: stats() }, value instanceof Float32Array ? [value.buffer] : []);
  } catch (error) {
    scope.postMessage({ type: "error", id, error: serializeError(error), stats: stats() });
  } finally {
    aborts.delete(id);
  }
}

function isExclusive(name: CallName): boolean {
  switch (name) {
    case "load":
    case "logits":
    case "generate":
    case "chat":
    case "reset":
      return true;
    case "tokenize":
    case "detokenize":
    case "template":
    case "dispose":
      return false;
  }
}

function enqueue(call: Call, signal: AbortSignal): Promise<Calls[CallName]["result"]> {
  const result = queue.then(async () => {
    running = call.id;
    try {
      return await perform(call, signal);
    } finally {
      running = undefined;
    }
  });
  queue = result.catch(() => undefined);
  return result;
}

async function perform(call: Call, signal: AbortSignal): Promise<Calls[CallName]["result"]> {
  switch (call.name) {
    case "load":
      model = await load(
        call.args.url,
        call.args.options,
        signal,
        (progress) => scope.postMessage({ type: "progress", progress }),
        {
          onKeeping: () => scope.postMessage({ type: "keeping" }),
          onRecovering: (error) => scope.postMessage({ type: "recovering", error: serializeError(error) }),
          onMoved: () => {
            if (model !== undefined) scope.postMessage({ type: "moved", info: describe(model) });
          },
          onLost: (error) => scope.postMessage({ type: "lost", error: serializeError(error) }),
        },
        call.args.options.fetchesOnPage ? (url, init) => pageFetch.fetch(url, init) : undefined,
      );
      return describe(model);
    case "logits":
      return loaded().session.logits(call.args.ids);
    case "generate":
      return generate(call.args, signal);
    case "chat":
      return chat(call.id, call.args, signal);
    case "tokenize":
      return textWork(call.id, () => tokenizer().encode(call.args.text, call.args.addSpecialTokens));
    case "detokenize":
      return textWork(call.id, () => announced("tokenizer", () => tokenizer().decode(call.args.ids, call.args.skipSpecialTokens)));
    case "template":
      return textWork(call.id, () => render(call.args.messages, call.args.addGenerationPrompt));
    case "reset":
      loaded().session.reset();
      return null;
    case "dispose":
      for (const controller of aborts.values()) controller.abort();
      model?.supervisor.dispose();
      return null;
  }
}

function loaded(): LoadedModel {
  if (model === undefined) throw new Error("no model is loaded");
  return model;
}

function tokenizer(): Tokenizer {
  const { tokenizer: found, manifest } = loaded().artifact;
  if (found === undefined)
    throw new RequestError({
      what: `The artifact of ${manifest.id} has no tokenizer.json`,
      remedy: "Pass ids to generateIds() or logits().",
    });
  return found;
}

function render(messages: ChatCall["messages"], addGenerationPrompt: boolean): string {
  const { template, manifest } = loaded().artifact;
  if (template === undefined)
    throw new RequestError({
      what: `${manifest.id} has no chat template`,
      remedy: "It is not a chat model: write the prompt yourself and use tokenize() and generateIds().",
    });
  return template.render(messages, addGenerationPrompt);
}

function defaults(): Required<SamplingOptions> {
  return { ...SAMPLING_OFF, ...loaded().artifact.manifest.generation };
}

function checkMaxTokens(maxTokens: number | undefined): number | undefined {
  return maxTokens === undefined ? undefined : checkNumber("the most tokens to generate", maxTokens, { least: 1, integer: true });
}

async function generate({ ids, options }: Calls["generate"]["args"], signal: AbortSignal): Promise<number[]> {
  const { session, artifact } = loaded();
  const stop = options.ignoreEos === true ? [] : (options.stopTokenIds ?? artifact.manifest.stopTokenIds);
  const generation = await session.generate({
    ids,
    sampling: resolveSampling(options, defaults(), options.seed),
    maxTokens: checkMaxTokens(options.maxTokens),
    stopTokenIds: new Set(stop),
    signal,
  });
  return generation.tokens;
}

async function chat(id: number, call: ChatCall, signal: AbortSignal): Promise<ChatResult> {
  const { session, artifact } = loaded();
  const texts = tokenizer();
  const ids = textWork(id, () => texts.encode(render(call.messages, true), false));
  const detokenizer = new Detokenizer((window) => texts.decode(window, true));
  const stops = new StopStrings(call.stop);
  let text = "";
  const emit = (piece: string) => {
    text += piece;
    if (call.stream && piece !== "") scope.postMessage({ type: "delta", id, text: piece, stats: stats() });
  };
  const generation = await session.generate({
    ids,
    sampling: resolveSampling(call.sampling, defaults(), call.seed),
    maxTokens: checkMaxTokens(call.maxTokens),
    stopTokenIds: new Set(artifact.manifest.stopTokenIds),
    signal,
    onToken: (token) => {
      emit(stops.push(detokenizer.push(token)));
      return stops.stopped;
    },
  });
  emit(stops.push(detokenizer.flush()) + stops.flush());
  const { tokens, finishReason, promptTokens, reusedTokens, prefillMs, decodeMs, decodedTokens } = generation;
  return {
    text,
    finishReason: stops.stopped ? "stop" : finishReason,
    promptTokens,
    completionTokens: tokens.length,
    reusedTokens,
    prefillMs,
    decodeMs,
    decodedTokens,
  };
}

function describe({ artifact, supervisor, notices }: LoadedModel): EngineInfo {
  const { manifest, template } = artifact;
  const { variant, adapter, threads, hints, tuning, runner } = supervisor.running;
  return {
    model: manifest.id,
    variant: variant.name,
    backend: variant.backend,
    adapter,
    threads,
    skipped: supervisor.skipped,
    hints,
    notices: [...notices, ...supervisor.running.notices],
    tuning,
    contextLength: runner.capacity,
    vocabSize: manifest.vocabSize,
    quantization: manifest.quantization,
    parameters: manifest.parameters,
    weightBytes: manifest.weightBytes,
    kvBytesPerToken: variant.kvBytesPerToken,
    bosTokenId: manifest.bosTokenId,
    stopTokenIds: manifest.stopTokenIds,
    hasChatTemplate: template !== undefined,
    generation: defaults(),
  };
}

const NOTHING: EngineStats = {
  tokens: 0,
  decodeSteps: 0,
  promptTokens: 0,
  reusedTokens: 0,
  requests: 0,
  dispatches: 0,
  submits: 0,
  readbacks: 0,
  bindGroupsCreated: 0,
  bytesUploaded: 0,
  bytesReadBack: 0,
  bytesDownloaded: 0,
  bytesFromCache: 0,
  cacheHits: 0,
  gpuBytes: 0,
  loadMs: 0,
  compileMs: 0,
  tuneMs: 0,
  prefillMs: 0,
  decodeMs: 0,
  recoveries: 0,
};

function stats(): EngineStats {
  if (model === undefined) return NOTHING;
  const { session, supervisor, artifact, loadMs } = model;
  const { recoveries, running } = supervisor;
  return {
    ...NOTHING,
    ...session.counters,
    ...supervisor.counters,
    ...artifact.fetcher.counters,
    loadMs,
    compileMs: running.compileMs,
    tuneMs: running.tuneMs,
    recoveries,
  };
}
