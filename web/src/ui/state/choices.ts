// What a person chose for answers: the system prompt, sampling, where answers stop, their format. Knows no document.

import type { ChatRequest, ResponseFormat } from "../../api/types";
import { t } from "../texts";

export type Sampling = Pick<ChatRequest, "temperature" | "top_p" | "top_k" | "min_p" | "repetition_penalty" | "max_tokens" | "seed">;
export type SamplingName = keyof Sampling;

export interface Choices {
  systemPrompt: string;
  /** What is left out is the model's own. */
  sampling: Partial<Record<SamplingName, number>>;
  /** Texts that end an answer. */
  stop: string[];
  /** A JSON schema that answers follow, as text; empty for free answers. */
  schema: string;
}

export interface Control {
  name: SamplingName;
  min: number;
  max: number;
  step: number;
  /** A slider has a default of the model's; a plain number may be left empty. */
  slider: boolean;
}

export const CONTROLS: readonly Control[] = [
  { name: "temperature", min: 0, max: 2, step: 0.05, slider: true },
  { name: "top_p", min: 0.05, max: 1, step: 0.01, slider: true },
  { name: "top_k", min: 0, max: 200, step: 1, slider: true },
  { name: "min_p", min: 0, max: 0.5, step: 0.01, slider: true },
  { name: "repetition_penalty", min: 0.8, max: 2, step: 0.01, slider: true },
  { name: "max_tokens", min: 1, max: 1_000_000, step: 1, slider: false },
  { name: "seed", min: 0, max: 4_294_967_295, step: 1, slider: false },
];

/** As many as the engine takes. */
export const MOST_STOPS = 16;

export const NOTHING_CHOSEN: Choices = { systemPrompt: "", sampling: {}, stop: [], schema: "" };

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

/** The same with this value; undefined: the model's own. */
export function withValue(sampling: Choices["sampling"], name: SamplingName, value: number | undefined): Choices["sampling"] {
  const others = Object.entries(sampling).filter(([other]) => other !== name);
  return { ...Object.fromEntries(others), ...(value === undefined ? {} : { [name]: value }) };
}

/** Of anything the choices that are whole: storage and files may hold what they like. */
export function readChoices(found: unknown): Choices {
  const { systemPrompt, sampling, stop, schema } = isObject(found) ? found : {};
  const values: Choices["sampling"] = {};
  for (const { name, min, max } of CONTROLS) {
    const value = isObject(sampling) ? sampling[name] : undefined;
    if (typeof value === "number" && value >= min && value <= max) values[name] = value;
  }
  const texts = Array.isArray(stop) ? stop.filter((text): text is string => typeof text === "string" && text !== "") : [];
  return {
    systemPrompt: typeof systemPrompt === "string" ? systemPrompt : "",
    sampling: values,
    stop: texts.slice(0, MOST_STOPS),
    schema: typeof schema === "string" ? schema : "",
  };
}

/** What is wrong with a schema's text; undefined when it is JSON. What of it is supported, the engine says. */
export function schemaFault(text: string): string | undefined {
  if (text.trim() === "") return undefined;
  try {
    const schema: unknown = JSON.parse(text);
    return isObject(schema) || typeof schema === "boolean" ? undefined : t("fault.schema-object");
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** What goes into a request: only what was chosen, the engine knows the model's own values. */
export function requestOf({ sampling, stop, schema }: Choices): Partial<ChatRequest> {
  const request: Partial<ChatRequest> = { ...sampling };
  if (stop.length > 0) request.stop = stop;
  if (schema.trim() !== "" && schemaFault(schema) === undefined) {
    const format: ResponseFormat = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(schema) as unknown } };
    request.response_format = format;
  }
  return request;
}
