// How a model is told of functions and how it writes that it calls one. Its chat template says which of the few formats that
// there are is its own; a model whose template knows no tools is told of them in words. Knows texts, no tokens.

import type { FunctionTool, ToolCall } from "../api/types";

/** How calls look in an answer: objects with a name and arguments, between or after certain texts. */
export interface ToolFormat {
  readonly name: "hermes" | "mistral" | "list" | "llama";
  readonly starts: readonly string[];
  readonly ends: readonly string[];
  /** An answer that is such an object and nothing else is a call. */
  readonly bare: boolean;
  /** How a call begins, up to its name, or to the arguments of the function that is named. */
  readonly opening: (name: string | undefined) => string;
  /** What surrounds the arguments behind that, where they are JSON: of the function that is named, or up to its name. */
  readonly around: ((name: string, isNamed: boolean) => { before: string; after: string }) | undefined;
  /** Calls as the model writes them, for templates that do not. */
  readonly write: (calls: readonly ToolCall[]) => string;
}

const object = (key: string, name: string | undefined) => `{"name": "${name === undefined ? "" : `${name}", "${key}": `}`;
const parsed = ({ function: { name, arguments: given } }: ToolCall) => `{"name": ${JSON.stringify(name)}, "arguments": ${given}}`;

const aroundObject =
  (key: string): ToolFormat["around"] =>
  (name, isNamed) => ({ before: isNamed ? "" : `${name}", "${key}": `, after: "}" });

const HERMES: ToolFormat = {
  name: "hermes", // Qwen 2.5 and 3, Hermes, SmolLM 2 and 3, Granite 4
  starts: ["<tool_call>"],
  ends: ["</tool_call>"],
  bare: false,
  opening: (name) => `<tool_call>\n${object("arguments", name)}`,
  around: aroundObject("arguments"),
  write: (calls) => calls.map((call) => `<tool_call>\n${parsed(call)}\n</tool_call>`).join("\n"),
};
const HERMES_XML: ToolFormat = {
  ...HERMES, // Qwen3-Coder
  opening: (name) => `<tool_call>\n<function=${name === undefined ? "" : `${name}>\n`}`,
  around: undefined,
};
const MISTRAL: ToolFormat = {
  name: "mistral",
  starts: ["[TOOL_CALLS]"],
  ends: [],
  bare: false,
  opening: (name) => `[TOOL_CALLS][${object("arguments", name)}`,
  around: aroundObject("arguments"),
  write: (calls) => `[TOOL_CALLS][${calls.map(parsed).join(", ")}]`,
};
const MISTRAL_NAMES: ToolFormat = {
  ...MISTRAL, // since its eleventh tokenizer
  opening: (name) => `[TOOL_CALLS]${name === undefined ? "" : `${name}[ARGS]`}`,
  around: undefined, // [ARGS] is a token, not a text
};
const LIST: ToolFormat = {
  name: "list", // Phi-4-mini, Granite 3
  starts: ["<|tool_call|>", "<tool_call>", "functools"],
  ends: ["<|/tool_call|>", "</tool_call>"],
  bare: false,
  opening: (name) => `<|tool_call|>[${object("arguments", name)}`,
  around: aroundObject("arguments"),
  write: (calls) => `<|tool_call|>[${calls.map(parsed).join(", ")}]<|/tool_call|>`,
};
const LLAMA: ToolFormat = {
  name: "llama", // 3.1 and later
  starts: ["<|python_tag|>"],
  ends: [],
  bare: true,
  opening: (name) => object("parameters", name),
  around: aroundObject("parameters"),
  write: (calls) => calls.map(parsed).join("; "),
};

/** What a template does with tools. */
export interface ToolSupport {
  format: ToolFormat;
  /** It writes those that it is given: as a variable, or as text in the system message; or it knows none. */
  tools: "variable" | "system" | "none";
  /** It writes the calls of the assistant's messages, and messages of tools. */
  calls: boolean;
  results: boolean;
}

const IN_A_MESSAGE = /message(?:\.tools|\[['"]tools['"]\])/g;

export function toolSupport(template: string): ToolSupport {
  const own = /\btools\b/.test(template.replace(IN_A_MESSAGE, "").replace(/['"]tools['"] in message/g, ""));
  const tools = own ? "variable" : template.search(IN_A_MESSAGE) >= 0 ? "system" : "none";
  if (tools === "none") return { format: HERMES, tools, calls: false, results: false };
  const has = (text: string) => template.includes(text);
  let format = HERMES;
  if (has("<function=")) format = HERMES_XML;
  else if (has("<tool_call>") && !has("<|tool_call|>")) format = HERMES;
  else if (has("[TOOL_CALLS]")) format = has("[ARGS]") ? MISTRAL_NAMES : MISTRAL;
  else if (has("<|tool_call|>") || has("<|tool|>")) format = LIST;
  else if (has("<|python_tag|>") || /['"]ipython['"]|Environment: ipython/.test(template)) format = LLAMA;
  return { format, tools, calls: has("tool_calls"), results: tools === "system" || /['"]tool['"]|['"]tool_call_id['"]/.test(template) };
}

/** For a model whose template knows no tools. */
export function instructions(tools: readonly FunctionTool[]): string {
  const list = tools.map((tool) => JSON.stringify(tool)).join("\n");
  return (
    "You may call functions to answer. These are there, as JSON:\n<tools>\n" +
    `${list}\n</tools>\n\nTo call one, write nothing but its name and its arguments in this form, once for each call:\n` +
    '<tool_call>\n{"name": "the function\'s name", "arguments": {"an argument": "its value"}}\n</tool_call>'
  );
}

/** A tool's result in a user's message, for templates without messages of tools. */
export const toolResponse = (content: string): string => `<tool_response>\n${content}\n</tool_response>`;
