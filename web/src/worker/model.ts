// What a loaded model answers: text and ids in, what the session makes of them out. Knows no messages and no order of calls.

import { RequestError } from "../api/errors";
import { checkNumber } from "../api/options";
import { SAMPLING_OFF } from "../api/sampling";
import type { EngineInfo, EngineStats, SamplingOptions } from "../api/types";
import type { Calls, ChatCall, ChatResult } from "../protocol/messages";
import { resolveSampling } from "../runtime/sampling";
import { Detokenizer } from "../text/detokenizer";
import { StopStrings } from "../text/stop-strings";
import type { Tokenizer } from "../text/tokenizer";
import type { LoadedModel } from "./load/load";

/** @throws RequestError */
export function tokenizerOf({ artifact }: LoadedModel): Tokenizer {
  const { tokenizer: found, manifest } = artifact;
  if (found === undefined)
    throw new RequestError({
      what: `The artifact of ${manifest.id} has no tokenizer.json`,
      remedy: "Pass ids to generateIds() or logits().",
    });
  return found;
}

/** @throws RequestError */
export function render({ artifact }: LoadedModel, messages: ChatCall["messages"], addGenerationPrompt: boolean): string {
  const { template, manifest } = artifact;
  if (template === undefined)
    throw new RequestError({
      what: `${manifest.id} has no chat template`,
      remedy: "It is not a chat model: write the prompt yourself and use tokenize() and generateIds().",
    });
  return template.render(messages, addGenerationPrompt);
}

function defaults({ artifact }: LoadedModel): Required<SamplingOptions> {
  return { ...SAMPLING_OFF, ...artifact.manifest.generation };
}

function checkMaxTokens(maxTokens: number | undefined): number | undefined {
  return maxTokens === undefined ? undefined : checkNumber("the most tokens to generate", maxTokens, { least: 1, integer: true });
}

export async function generate(model: LoadedModel, { ids, options }: Calls["generate"]["args"], signal: AbortSignal): Promise<number[]> {
  const { session, artifact } = model;
  const stop = options.ignoreEos === true ? [] : (options.stopTokenIds ?? artifact.manifest.stopTokenIds);
  const generation = await session.generate({
    ids,
    sampling: resolveSampling(options, defaults(model), options.seed),
    maxTokens: checkMaxTokens(options.maxTokens),
    stopTokenIds: new Set(stop),
    signal,
  });
  return generation.tokens;
}

/** @param onDelta hears each piece of the text as it comes */
export async function chat(
  model: LoadedModel,
  ids: readonly number[],
  call: ChatCall,
  signal: AbortSignal,
  onDelta: (text: string) => void,
): Promise<ChatResult> {
  const { session, artifact } = model;
  const texts = tokenizerOf(model);
  const detokenizer = new Detokenizer((window) => texts.decode(window, true));
  const stops = new StopStrings(call.stop);
  let text = "";
  const emit = (piece: string) => {
    text += piece;
    if (call.stream && piece !== "") onDelta(piece);
  };
  const generation = await session.generate({
    ids,
    sampling: resolveSampling(call.sampling, defaults(model), call.seed),
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

export function describe(loaded: LoadedModel): EngineInfo {
  const { artifact, supervisor, notices } = loaded;
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
    schemes: [...new Set([manifest.quantization, ...manifest.schemes.values()])],
    sourceValues: manifest.sourceValues,
    parameters: manifest.parameters,
    weightBytes: manifest.weightBytes,
    kvBytesPerToken: variant.kvBytesPerToken,
    bosTokenId: manifest.bosTokenId,
    stopTokenIds: manifest.stopTokenIds,
    hasChatTemplate: template !== undefined,
    generation: defaults(loaded),
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

/** @param model undefined before the load */
export function statsOf(model: LoadedModel | undefined): EngineStats {
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
