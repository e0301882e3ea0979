// Embeddings over the worker, as arrays and in OpenAI's shape; and which calls a model of which task has. Knows no model.

import { RequestError } from "../api/errors";
import type { EmbeddingList, EmbeddingRequest, EmbedOptions, Engine, EngineInfo } from "../api/types";
import type { Embedded } from "../protocol/messages";
import type { WorkerLink } from "./link";

const NAMES: readonly string[] = ["input", "model", "encoding_format", "dimensions", "user"] satisfies (keyof EmbeddingRequest)[];
/** OpenAI's own limit. */
const MOST_INPUTS = 2048;

/** @throws RequestError for a model of the other task */
export function requireTask({ task, model }: EngineInfo, wanted: EngineInfo["task"], what: string): void {
  if (task === wanted) return;
  const [kind, remedy] =
    wanted === "embedding"
      ? ["models that give embeddings", `${model} generates text: load an embedding model, such as one of Qwen3-Embedding.`]
      : ["models that generate text", `${model} gives embeddings: use engine.embed() or engine.embeddings.create().`];
  throw new RequestError({ what: `${what} is for ${kind}`, got: `the ${task} model ${model}`, remedy });
}

export class Embedder {
  constructor(
    private readonly link: WorkerLink,
    private readonly info: () => EngineInfo,
  ) {}

  async embed(input: Parameters<Engine["embed"]>[0], { dimensions, signal }: EmbedOptions = {}): Promise<Float32Array[]> {
    const { embeddings } = await this.ask("engine.embed()", inputsOf(input), dimensions, signal);
    return embeddings;
  }

  async create(request: EmbeddingRequest, { signal }: { signal?: AbortSignal } = {}): Promise<EmbeddingList> {
    const unknown = Object.entries(request).find(([name, value]) => !NAMES.includes(name) && value !== null && value !== undefined);
    if (unknown !== undefined)
      throw new RequestError({ what: `The parameter ${unknown[0]} is not supported`, expected: `only ${NAMES.join(", ")}` });
    const { input, encoding_format: format, dimensions } = request;
    if (format !== undefined && format !== null && !["float", "base64"].includes(format))
      throw new RequestError({ what: "encoding_format", got: JSON.stringify(format), expected: '"float" or "base64"' });
    const inputs = inputsOf(input);
    const { embeddings, promptTokens } = await this.ask("embeddings.create()", inputs, dimensions ?? undefined, signal);
    const shown = (vector: Float32Array) => (format === "base64" ? base64(vector) : Array.from(vector));
    return {
      object: "list",
      data: embeddings.map((vector, index) => ({ object: "embedding", index, embedding: shown(vector) })),
      model: this.info().model,
      usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
    };
  }

  private ask(
    what: string,
    inputs: (string | number[])[],
    dimensions: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Embedded> {
    requireTask(this.info(), "embedding", what);
    return this.link.call("embed", { inputs, dimensions }, { signal });
  }
}

const isText = (value: unknown): value is string => typeof value === "string";
const isIds = (value: unknown): value is number[] => Array.isArray(value) && value.every((id) => typeof id === "number");

/** One text, several, the ids of one, or those of several. @throws RequestError */
function inputsOf(input: unknown): (string | number[])[] {
  const inputs = isText(input) || (isIds(input) && input.length > 0) ? [input] : input;
  if (Array.isArray(inputs) && inputs.length > 0 && inputs.length <= MOST_INPUTS && (inputs.every(isText) || inputs.every(isIds)))
    return inputs;
  throw new RequestError({
    what: "input",
    got:
      Array.isArray(inputs) && inputs.length > MOST_INPUTS
        ? `${inputs.length} texts`
        : input === undefined
          ? "nothing"
          : JSON.stringify(input).slice(0, 80),
    expected: `a text or token ids, or a list of 1 to ${MOST_INPUTS} of them`,
  });
}

/** The bytes of its 32-bit floats, little-endian. */
function base64(vector: Float32Array): string {
  const bytes = new DataView(new ArrayBuffer(4 * vector.length));
  vector.forEach((value, i) => bytes.setFloat32(4 * i, value, true));
  let text = "";
  for (const byte of new Uint8Array(bytes.buffer)) text += String.fromCharCode(byte);
  return btoa(text);
}
