// What a loaded model says of itself: its description and its statistics.

import type { EngineInfo, EngineStats } from "../api/types";
import { defaults } from "./answer";
import type { LoadedModel } from "./load/load";

export function describe(loaded: LoadedModel): EngineInfo {
  const { artifact, supervisor, notices } = loaded;
  const { manifest, turns } = artifact;
  const { variant, adapter, threads, hints, tuning, runner } = supervisor.running;
  return {
    model: manifest.id,
    task: manifest.embeddingSize === undefined ? "text-generation" : "embedding",
    embeddingSize: manifest.embeddingSize,
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
    hasChatTemplate: turns !== undefined,
    generation: defaults(loaded),
  };
}

const NOTHING: EngineStats = {
  tokens: 0,
  decodeSteps: 0,
  promptTokens: 0,
  reusedTokens: 0,
  restoredTokens: 0,
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
