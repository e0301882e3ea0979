// An embedding model for Vercel's AI SDK on an engine with one.

import type { EmbeddingModelV4, EmbeddingModelV4CallOptions, EmbeddingModelV4Result } from "@ai-sdk/provider";
import type { Engine } from "../api/types";

/**
 * A model for `embed` and `embedMany`.
 *
 * @param engine of an embedding model
 */
export function wispEmbedding(engine: Engine): EmbeddingModelV4 {
  return {
    specificationVersion: "v4",
    provider: "wisp",
    modelId: engine.info.model,
    maxEmbeddingsPerCall: Infinity,
    supportsParallelCalls: false,
    async doEmbed({ values, dimensions, abortSignal }: EmbeddingModelV4CallOptions): Promise<EmbeddingModelV4Result> {
      const request = { input: values, ...(dimensions === undefined ? {} : { dimensions }) };
      const { data, usage } = await engine.embeddings.create(request, abortSignal === undefined ? {} : { signal: abortSignal });
      return { embeddings: data.map(({ embedding }) => embedding as number[]), usage: { tokens: usage.prompt_tokens }, warnings: [] };
    },
  };
}
