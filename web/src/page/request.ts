// Checks requests of OpenAI's shape and makes calls to the worker of them. What means something that the engine does not do is
// refused by name; what changes nothing passes, for clients and libraries send it unasked. Knows no model and no worker.

import { RequestError } from "../api/errors";
import { checkNumber } from "../api/options";
import { SAMPLING, SAMPLING_NAMES } from "../api/sampling";
import type {
  AnswerRequest,
  ChatMessage,
  ChatRequest,
  ChatTextPart,
  CompletionRequest,
  FunctionTool,
  SamplingOptions,
  TemplateOptions,
  ToolCall,
} from "../api/types";
import type { AnswerFormat } from "../api/constraint";
import type { AnswerCall, ChatCall, CompletionCall, TemplateCall } from "../protocol/messages";

const COMMON = [
  ...["stream", "stream_options", ...SAMPLING_NAMES.map((name) => SAMPLING[name].request), "seed", "max_tokens", "stop"],
  ...["response_format", "logit_bias", "logprobs", "n", "model", "user", "signal", "logits_processor", "repetition_window", "ignore_eos"],
];
const CHAT = new Set([
  ...["messages", ...COMMON, "max_completion_tokens", "prediction", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls"],
  ...["chat_template_kwargs", "enable_thinking", "reasoning_effort", "extra_body", "continue_final_message", "add_generation_prompt"],
  "special_tokens_in_content",
  "overflow",
]);
const COMPLETION = new Set(["prompt", "echo", ...COMMON]);

type Test = (value: unknown) => boolean;
const ANY: Test = () => true;
export const isNothing: Test = (value) => value === null || value === undefined || isEmpty(value);
const isEmpty: Test = (value) => typeof value === "object" && value !== null && Object.keys(value).length === 0;
const isOneOf =
  (...values: readonly unknown[]): Test =>
  (value) =>
    values.includes(value);

/** Parameters of OpenAI's that change nothing when they have these values. */
const HARMLESS: Record<string, Test> = {
  functions: isEmpty,
  function_call: isOneOf("none", "auto"),
  modalities: (value) => Array.isArray(value) && value.every(isOneOf("text")),
  best_of: isOneOf(1),
  suffix: isOneOf(""),
  // What a service would do with the answer besides, and how soon.
  store: ANY,
  metadata: ANY,
  service_tier: ANY,
  safety_identifier: ANY,
  prompt_cache_key: ANY,
  prompt_cache_retention: ANY,
  prompt_cache_options: ANY,
};

const MOST_STOPS = 16;
const MOST_ANSWERS = 128;
const MOST_TOP_LOGPROBS = 20;
const MOST_BIASES = 1024;

const show = (value: unknown): string => (value === undefined ? "nothing" : JSON.stringify(value).slice(0, 80));
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

function refuse(what: string, got: unknown, expected: string): never {
  throw new RequestError({ what, got: show(got), expected });
}

function checkNames(request: object, known: ReadonlySet<string>): void {
  for (const [name, value] of Object.entries(request)) {
    if (known.has(name) || value === null || value === undefined || HARMLESS[name]?.(value) === true) continue;
    throw new RequestError({
      what: `The parameter ${name} is not supported`,
      got: show(value),
      expected: `only ${[...known].join(", ")}`,
    });
  }
}

/** Null is what OpenAI's clients send for nothing. */
function optional<T>(what: string, value: unknown, test: (value: unknown) => value is T, expected: string): T | undefined {
  if (value === null || value === undefined) return undefined;
  return test(value) ? value : refuse(what, value, expected);
}

const isBoolean = (value: unknown): value is boolean => typeof value === "boolean";
const flag = (what: string, value: unknown) => optional(what, value, isBoolean, "true or false");

/** How many answers are wanted. @throws RequestError */
export function countOf({ n }: AnswerRequest): number {
  return checkNumber("n", n ?? 1, { least: 1, most: MOST_ANSWERS, integer: true });
}

function answerCall(request: AnswerRequest, logprobs: number | undefined, maxTokens: number | null | undefined): AnswerCall {
  const { logits_processor: processor } = request;
  if (processor !== undefined && typeof processor !== "function") refuse("logits_processor", typeof processor, "a function");
  optional("stream_options", request.stream_options, isObject, "an object");
  return {
    sampling: samplingOf(request),
    seed: request.seed ?? undefined,
    repetitionWindow: request.repetition_window ?? undefined,
    maxTokens: maxTokens ?? undefined,
    stop: checkStop(request.stop ?? []),
    ignoreEos: flag("ignore_eos", request.ignore_eos) ?? false,
    format: formatOf(request.response_format),
    stream: flag("stream", request.stream) ?? false,
    logprobs,
    bias: checkBias(request.logit_bias ?? {}),
    processed: processor !== undefined,
  };
}

function samplingOf(request: AnswerRequest): SamplingOptions {
  const given = SAMPLING_NAMES.map((name) => [name, request[SAMPLING[name].request]] as const);
  return Object.fromEntries(given.filter(([, value]) => value !== null && value !== undefined));
}

/** Only its shape: what of a schema or a grammar is supported, the worker knows. */
function formatOf(format: unknown): AnswerFormat | undefined {
  if (format === null || format === undefined) return undefined;
  const { type, json_schema: described, grammar, regex } = (isObject(format) ? format : {}) as Partial<Record<string, unknown>>;
  switch (type) {
    case "text":
      return undefined;
    case "json_object":
      return { type };
    case "json_schema":
      if (!isObject(described) || described["schema"] === undefined) break;
      return { type, schema: described["schema"] };
    case "grammar":
      if (typeof grammar !== "string") break;
      return { type, grammar };
    case "regex":
      if (typeof regex !== "string") break;
      return { type, regex };
    default:
  }
  return refuse(
    "response_format",
    format,
    'type "text", "json_object", "json_schema" with json_schema: {schema}, "grammar" with grammar, or "regex" with regex',
  );
}

function checkStop(stop: unknown): string[] {
  const list: unknown[] = Array.isArray(stop) ? stop : [stop];
  if (list.length > MOST_STOPS || list.some((item) => typeof item !== "string" || item === ""))
    refuse("stop", stop, `at most ${MOST_STOPS} strings, none empty`);
  return list as string[];
}

function checkBias(bias: unknown): AnswerCall["bias"] {
  const expected = `at most ${MOST_BIASES} ids of tokens, each with a number from -100 to 100`;
  if (!isObject(bias) || Object.keys(bias).length > MOST_BIASES) return refuse("logit_bias", bias, expected);
  return Object.entries(bias).map(([id, value]) => {
    if (!/^\d{1,9}$/.test(id) || typeof value !== "number" || !(Math.abs(value) <= 100)) refuse("logit_bias", { [id]: value }, expected);
    return [Number(id), value];
  });
}

function chatLogprobs({ logprobs, top_logprobs: top }: ChatRequest): number | undefined {
  const count = checkNumber("top_logprobs", top ?? 0, { least: 0, most: MOST_TOP_LOGPROBS, integer: true });
  if (flag("logprobs", logprobs) === true) return count;
  return count === 0 ? undefined : refuse("top_logprobs", top, "logprobs: true with it");
}

// --------------------------------------------------------------------------------------------------------------- chat

/** What is not the model's to know: how its answer is handed on. */
const BESIDE_THE_CALL = ["n", "stream", "stream_options", "logits_processor", "signal", "extra_body"];

/** @throws RequestError naming the parameter, what was got and what is supported */
export function toCall(given: ChatRequest): ChatCall {
  const more = optional("extra_body", given.extra_body, isObject, "an object") ?? {};
  for (const name of BESIDE_THE_CALL) if (name in more) refuse(`extra_body.${name}`, more[name], "it in the request itself");
  const request = { ...given, ...more };
  checkNames(request, CHAT);
  const tools = checkTools(request.tools ?? []);
  const kwargs = optional("chat_template_kwargs", request.chat_template_kwargs, isObject, "an object") ?? {};
  const effort = optional("reasoning_effort", request.reasoning_effort, isEffort, EFFORTS.join(", "));
  const thinks = flag("enable_thinking", request.enable_thinking) ?? (effort === undefined ? undefined : effort !== "none");
  const thinking = {
    ...(thinks === undefined ? {} : { enable_thinking: thinks }),
    ...(effort === undefined ? {} : { reasoning_effort: effort }),
  };
  return {
    ...answerCall(request, chatLogprobs(request), request.max_completion_tokens ?? request.max_tokens),
    messages: checkMessages(request.messages),
    prediction: predicted(request.prediction),
    tools,
    toolChoice: checkChoice(request.tool_choice, tools),
    parallelToolCalls: flag("parallel_tool_calls", request.parallel_tool_calls) ?? true,
    variables: checkVariables({ ...kwargs, ...thinking }, "chat_template_kwargs"),
    addGenerationPrompt: flag("add_generation_prompt", request.add_generation_prompt),
    continueFinalMessage: flag("continue_final_message", request.continue_final_message),
    contentsAsText: checkContents(request.special_tokens_in_content) === "text",
    slides: optional("overflow", request.overflow, isOverflow, '"stop" or "slide"') === "slide",
  };
}

/** The text itself, of all parts. */
function predicted(prediction: unknown): string | undefined {
  if (prediction === null || prediction === undefined) return undefined;
  const { type, content } = isObject(prediction) ? prediction : {};
  if (type !== "content") return refuse("prediction", prediction, '{type: "content", content}');
  const found = checkContent(content, "prediction", false) ?? "";
  return typeof found === "string" ? found : found.map(({ text }) => text).join("");
}

const EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh"];
const isEffort = (value: unknown): value is string => typeof value === "string" && EFFORTS.includes(value);
const isOverflow = (value: unknown): value is "stop" | "slide" => value === "stop" || value === "slide";

/** @throws RequestError */
export function toTemplateCall(messages: ChatMessage[], options: TemplateOptions): TemplateCall {
  const { addGenerationPrompt, continueFinalMessage, tools = [], templateVariables = {} } = options;
  return {
    messages: checkMessages(messages),
    tools: checkTools(tools),
    variables: checkVariables(templateVariables, "templateVariables"),
    addGenerationPrompt,
    continueFinalMessage,
  };
}

function checkContents(value: unknown): "text" | "allow" {
  if (value === null || value === undefined || value === "text") return "text";
  return value === "allow" ? value : refuse("special_tokens_in_content", value, '"text" or "allow"');
}

/** Those of a template that the engine gives itself are none of the caller's. */
function checkVariables(variables: Record<string, unknown>, what: string): Record<string, unknown> {
  const own = ["messages", "tools", "add_generation_prompt"].find((name) => name in variables);
  if (own !== undefined) refuse(`${what}.${own}`, variables[own], "the request's own parameter of that name");
  try {
    return JSON.parse(JSON.stringify(variables)) as Record<string, unknown>; // what is no JSON cannot be a template's
  } catch (error) {
    return refuse(what, error instanceof Error ? error.message : String(error), "values of JSON");
  }
}

function checkTools(tools: unknown): FunctionTool[] {
  if (!Array.isArray(tools)) return refuse("tools", tools, "a list");
  return tools.map((tool: unknown, i) => {
    const { type, function: described } = isObject(tool) ? tool : {};
    if (type !== "function" || !isObject(described)) return refuse(`tools[${i}]`, tool, '{type: "function", function: {name, ...}}');
    const { name, description, parameters } = described;
    if (typeof name !== "string" || !/^[\w.-]{1,64}$/.test(name))
      refuse(`tools[${i}].function.name`, name, "1 to 64 letters, digits, points, dashes and underscores");
    optional(`tools[${i}].function.description`, description, (value): value is string => typeof value === "string", "a string");
    optional(`tools[${i}].function.parameters`, parameters, isObject, "a JSON schema");
    return tool as FunctionTool;
  });
}

function checkChoice(choice: unknown, tools: readonly FunctionTool[]): ChatCall["toolChoice"] {
  if (choice === null || choice === undefined) return "auto";
  if (choice === "none" || choice === "auto") return choice;
  const names = tools.map((tool) => tool.function.name);
  const { type, function: named } = isObject(choice) ? choice : {};
  const name = isObject(named) ? named["name"] : undefined;
  if (choice === "required" && names.length > 0) return choice;
  if (type === "function" && typeof name === "string" && names.includes(name)) return { name };
  return refuse("tool_choice", choice, `none or auto${names.length === 0 ? "" : `, required, or one of the tools: ${names.join(", ")}`}`);
}

/** Callers may be JavaScript: the type is a promise that nobody checked. */
export function checkMessages(messages: unknown): ChatMessage[] {
  if (!Array.isArray(messages) || messages.length === 0) return refuse("messages", messages, "a list of at least one message");
  return messages.map((message: unknown, i) => checkMessage(message, `messages[${i}]`));
}

function checkMessage(message: unknown, where: string): ChatMessage {
  if (!isObject(message)) return refuse(where, message, "an object with role and content");
  const { role, content, name, tool_calls: calls, tool_call_id: id, reasoning_content: reasoning, ...rest } = message;
  const more = Object.keys(rest).find((key) => !isNothing(rest[key]));
  const text = (what: string, value: unknown) =>
    optional(`${where}.${what}`, value, (found): found is string => typeof found === "string", "a string");
  if (more !== undefined)
    refuse(`${where}.${more} is not supported`, rest[more], "only role, content, name, tool_calls, tool_call_id and reasoning_content");
  if (typeof role !== "string") return refuse(`${where}.role`, role, "a string");
  const checked: ChatMessage = { role };
  const toolCalls = isNothing(calls) ? undefined : checkToolCalls(calls, `${where}.tool_calls`);
  if (toolCalls !== undefined && role !== "assistant") refuse(`${where}.tool_calls`, calls, "none but of the assistant");
  if (toolCalls !== undefined) checked.tool_calls = toolCalls;
  const found = checkContent(content, where, toolCalls !== undefined);
  if (found !== undefined) checked.content = found;
  const others = {
    name: text("name", name),
    tool_call_id: text("tool_call_id", id),
    reasoning_content: text("reasoning_content", reasoning),
  };
  return { ...checked, ...Object.fromEntries(Object.entries(others).filter(([, value]) => value !== undefined)) };
}

function checkContent(content: unknown, where: string, mayLack: boolean): string | ChatTextPart[] | undefined {
  if (typeof content === "string") return content;
  if (mayLack && (content === null || content === undefined)) return undefined;
  const parts = Array.isArray(content) ? (content as unknown[]) : undefined;
  const wrong = parts?.findIndex((part) => !isObject(part) || part["type"] !== "text" || typeof part["text"] !== "string");
  const expected = 'a string or a list of {type: "text", text}: the model reads text only';
  if (parts === undefined || parts.length === 0 || (wrong !== undefined && wrong >= 0))
    return refuse(`${where}.content`, content, expected);
  const texts = parts.map((part) => (part as ChatTextPart).text);
  return texts.length === 1 ? texts[0] : texts.map((text) => ({ type: "text", text }));
}

function checkToolCalls(calls: unknown, where: string): ToolCall[] {
  if (!Array.isArray(calls)) return refuse(where, calls, "a list");
  return calls.map((call: unknown, i) => {
    const { id, function: called } = isObject(call) ? call : {};
    const { name, arguments: given } = isObject(called) ? called : {};
    if (typeof name !== "string" || typeof given !== "string" || (id !== undefined && typeof id !== "string"))
      return refuse(`${where}[${i}]`, call, '{id, type: "function", function: {name, arguments}} with arguments as JSON text');
    return { id: id ?? "", type: "function", function: { name, arguments: given } };
  });
}

// --------------------------------------------------------------------------------------------------------------- text

/** @throws RequestError */
export function toCompletionCall(request: CompletionRequest): CompletionCall {
  checkNames(request, COMPLETION);
  const { prompt, logprobs } = request;
  const ids = Array.isArray(prompt) && prompt.length > 0 && prompt.every((id) => typeof id === "number");
  if (typeof prompt !== "string" && !ids) refuse("prompt", prompt, "a string or a list of token ids");
  const count =
    logprobs === null || logprobs === undefined
      ? undefined
      : checkNumber("logprobs", logprobs, { least: 0, most: MOST_TOP_LOGPROBS, integer: true });
  return { ...answerCall(request, count, request.max_tokens), prompt, echo: flag("echo", request.echo) ?? false };
}
