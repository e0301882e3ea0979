// Embeddings of texts: ids, a pass over the network, and a vector of length 1. Knows a loaded model; no messages.

import { abortError, RequestError } from "../api/errors";
import { checkNumber } from "../api/options";
import type { EmbedCall, Embedded } from "../protocol/messages";
import type { LoadedModel } from "./load/load";
import { tokenizerOf } from "./prompt";

/** @param asText what works on the call's text @throws RequestError, or the reason of `signal` */
export async function embed(
  model: LoadedModel,
  { inputs, dimensions }: EmbedCall,
  signal: AbortSignal,
  asText: (make: () => number[]) => number[],
): Promise<Embedded> {
  const { session, artifact } = model;
  const size = artifact.manifest.embeddingSize;
  if (size === undefined) throw new Error("no embedding model");
  const length = dimensions === undefined ? size : checkNumber("dimensions", dimensions, { least: 1, most: size, integer: true });
  const embeddings: Float32Array[] = [];
  let promptTokens = 0;
  for (const [index, input] of inputs.entries()) {
    // What the tokenizer adds belongs to it: many models are asked at their end token.
    const ids = typeof input === "string" ? asText(() => tokenizerOf(model).encode(input, true)) : input;
    const pooled = await session.output(ids, signal).catch((error: unknown) => {
      throw inputs.length > 1 && error instanceof RequestError ? of(index, error) : error;
    });
    if (pooled === undefined || signal.aborted) throw abortError(signal);
    embeddings.push(normalized(pooled.subarray(0, length)));
    promptTokens += ids.length;
  }
  return { embeddings, promptTokens };
}

/** The error of one of several inputs. */
function of(index: number, { what, got, expected, remedy, kind }: RequestError): RequestError {
  const details = { what: `input[${index}]: ${what}`, got, expected, remedy };
  return new RequestError(details, kind === "context-overflow" ? kind : "request");
}

/** Of length 1; zeros stay zeros. */
export function normalized(vector: Float32Array): Float32Array {
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  return length > 0 ? vector.map((value) => value / length) : vector.slice();
}
