// OpenAI's shape of requests and answers, as far as the engine takes it. No code.

/** The logits after `ids`, f32 (vocabSize): changed in place, or other ones in their place; -Infinity leaves a token out. */
export type LogitsProcessor = (
  logits: Float32Array,
  ids: readonly number[],
) => Float32Array | undefined | Promise<Float32Array | undefined>;

export interface ChatTextPart {
  type: "text";
  text: string;
}

export interface ToolCall {
  id: string;
  type: "function";
  /** `arguments` is JSON, or what the model wrote in its place. */
  function: { name: string; arguments: string };
}

export interface ChatMessage {
  role: string;
  content?: string | ChatTextPart[] | null;
  name?: string | undefined;
  /** Of an assistant's message. */
  tool_calls?: ToolCall[] | undefined;
  reasoning_content?: string | null | undefined;
  /** Of a tool's message: the call that it answers. */
  tool_call_id?: string | undefined;
}

export interface FunctionTool {
  type: "function";
  function: {
    name: string;
    description?: string;
    /** A JSON schema. */
    parameters?: Record<string, unknown>;
    strict?: boolean | null;
  };
}

/** `auto`, the default with tools: the model decides; `required`: some function; named: that one. */
export type ToolChoice = "none" | "auto" | "required" | { type: "function"; function: { name: string } };

/** What chat requests and text completions have in common. */
/**
 * OpenAI's, and two of ours. `json_schema` is always held to, `strict` or not; keywords that cannot be are refused by name. An
 * object with `properties` holds no others unless `additionalProperties` says so, and members come in the schema's order.
 */
export type ResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | { type: "json_schema"; json_schema: { name?: string; description?: string; schema?: unknown; strict?: boolean | null } }
  /** GBNF, llama.cpp's notation. */
  | { type: "grammar"; grammar: string }
  /** Of ECMA-262, for the whole answer. */
  | { type: "regex"; regex: string };

export interface AnswerRequest {
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean; include_obfuscation?: boolean } | null;
  temperature?: number | null;
  top_p?: number | null;
  top_k?: number | null;
  min_p?: number | null;
  seed?: number | null;
  max_tokens?: number | null;
  stop?: string | string[] | null;
  repetition_penalty?: number | null;
  presence_penalty?: number | null;
  frequency_penalty?: number | null;
  /** Not OpenAI's: penalties look at so many of the last tokens, of prompt and answer (`repeat_last_n`). -1: at all. */
  repetition_window?: number | null;
  /** Not OpenAI's: the answer goes on where the model would end it, up to `max_tokens` or a stop string. */
  ignore_eos?: boolean | null;
  /** Added to the logits of tokens, by id: -100 to 100. */
  logit_bias?: Record<string, number> | null;
  /** Holds the answer to a format, token by token. */
  response_format?: ResponseFormat | null;
  /** How many answers; they are made one after another, with seeds that count up. */
  n?: number | null;
  /** Accepted and ignored: an engine has one model. */
  model?: string;
  user?: string;
  /** Not OpenAI's: ends the generation; the promise or the iterator rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Not OpenAI's: changes the logits of each step. It runs on the page: each token then waits for it. */
  logits_processor?: LogitsProcessor;
}

export interface ChatRequest extends AnswerRequest {
  messages: ChatMessage[];
  max_completion_tokens?: number | null;
  /**
   * A text that much of the answer will repeat, as of one that is to be edited: found again behind each difference, its tokens are
   * verified some at a time, which is faster and changes no token. It is not used with a format, tools that have to be called,
   * logprobs, biases, a processor or a repetition window.
   */
  prediction?: { type: "content"; content: string | ChatTextPart[] } | null;
  logprobs?: boolean | null;
  /** 0 to 20. */
  top_logprobs?: number | null;
  tools?: FunctionTool[] | null;
  tool_choice?: ToolChoice | null;
  parallel_tool_calls?: boolean | null;
  /** What the chat template is given besides, such as `{ enable_thinking: false }`. */
  chat_template_kwargs?: Record<string, unknown> | null;
  enable_thinking?: boolean | null;
  /** OpenAI's: "none" is `enable_thinking: false`, any other `true`; the template is given it as well. */
  reasoning_effort?: "none" | "minimal" | "low" | "medium" | "high" | "xhigh" | null;
  /** As clients send it: its fields are the request's own. */
  extra_body?: Record<string, unknown> | null;
  /** Whether the last message is continued. Default: when it is the assistant's. */
  continue_final_message?: boolean | null;
  add_generation_prompt?: boolean | null;
  /**
   * Not OpenAI's: what happens when the context is full. `stop`, the default: the answer ends (`length`), and a longer prompt is
   * refused; `slide`: the oldest turns are forgotten, not what the system says nor the last question, and the answer goes on
   * (it ends where logits are told, biased or changed).
   */
  overflow?: "stop" | "slide" | null;
  /**
   * What `<|im_end|>` and the like in contents are: `text`, the default, or (`allow`) the tokens of that name, as in transformers.
   */
  special_tokens_in_content?: "text" | "allow" | null;
}

export interface CompletionRequest extends AnswerRequest {
  /** Special tokens in a text are tokens: whoever writes the whole prompt means them. */
  prompt: string | number[];
  /** Of each token its own and those of so many others, 0 to 20. */
  logprobs?: number | null;
  /** The prompt's text is part of the answer. */
  echo?: boolean | null;
}

/** `abort`: `engine.interrupt()` ended it. */
export type FinishReason = "stop" | "length" | "tool_calls" | "abort";

export interface Usage {
  prompt_tokens: number;
  /** Without the stop token. */
  completion_tokens: number;
  total_tokens: number;
  /** Tokens of the prompt that were in the KV cache already. */
  prompt_tokens_details: { cached_tokens: number };
  /** Of a `prediction`: tokens of it that the answer has, and those that were verified in vain. */
  completion_tokens_details?: { accepted_prediction_tokens: number; rejected_prediction_tokens: number };
  extra: {
    /** Tokens of the prompt that were not in the KV cache already, over the time to the first token. */
    prefill_tokens_per_second: number;
    decode_tokens_per_second: number;
    time_to_first_token_s: number;
    reused_tokens: number;
  };
}

export interface TopLogprob {
  token: string;
  /**
   * Of the model's own distribution, before temperature and the like; with logit_bias, a logits_processor or a response_format, of
   * what these make of it: a format leaves only the tokens that it allows.
   */
  logprob: number;
  /** UTF-8; a token may hold a part of a character. */
  bytes: number[] | null;
}

export interface TokenLogprob extends TopLogprob {
  top_logprobs: TopLogprob[];
}

export interface ChoiceLogprobs {
  content: TokenLogprob[];
  refusal: null;
}

export interface AssistantMessage {
  role: "assistant";
  /** Null where there are only calls of tools. */
  content: string | null;
  refusal: null;
  /** What a model thought before it answered; absent where it did not. */
  reasoning_content?: string;
  tool_calls?: ToolCall[];
}

export interface ChatChoice {
  index: number;
  message: AssistantMessage;
  finish_reason: FinishReason;
  logprobs: ChoiceLogprobs | null;
}

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  created: number;
  model: string;
  choices: [ChatChoice, ...ChatChoice[]];
  usage: Usage;
}

/** A call's `id` and name come once, its arguments in pieces. */
export interface ToolCallDelta {
  index: number;
  id?: string;
  type?: "function";
  function: { name?: string; arguments?: string };
}

export interface ChatDelta {
  role?: "assistant";
  content?: string;
  reasoning_content?: string;
  tool_calls?: ToolCallDelta[];
}

export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  /** Empty in the last chunk, which holds the usage when `stream_options.include_usage` asks for it. */
  choices: { index: number; delta: ChatDelta; finish_reason: FinishReason | null; logprobs: ChoiceLogprobs | null }[];
  usage: Usage | null;
}

/** As of OpenAI's older API. */
export interface TextLogprobs {
  tokens: string[];
  token_logprobs: number[];
  top_logprobs: Record<string, number>[];
  /** Of each token, in the answer's text. */
  text_offset: number[];
}

export interface TextChoice {
  index: number;
  text: string;
  finish_reason: FinishReason | null;
  logprobs: TextLogprobs | null;
}

/** An answer, or a chunk of one. */
export interface TextCompletion {
  id: string;
  object: "text_completion";
  created: number;
  model: string;
  choices: TextChoice[];
  /** Null in chunks, but for one of its own at the end when `stream_options.include_usage` asks for it. */
  usage: Usage | null;
}

/** Leaving the loop (break, return, throw) ends the generation. */
export type ChatStream = AsyncIterableIterator<ChatCompletionChunk>;
export type TextStream = AsyncIterableIterator<TextCompletion>;

/** With or without `await`: `for await (const chunk of await create({stream: true}))`. */
export type Streaming<T> = Promise<AsyncIterableIterator<T>> & AsyncIterable<T>;

export interface ChatCompletions {
  create(request: ChatRequest & { stream: true }, options?: { signal?: AbortSignal | undefined }): Streaming<ChatCompletionChunk>;
  create(request: ChatRequest & { stream?: false | null }, options?: { signal?: AbortSignal | undefined }): Promise<ChatCompletion>;
}

export interface TextCompletions {
  create(request: CompletionRequest & { stream: true }, options?: { signal?: AbortSignal | undefined }): Streaming<TextCompletion>;
  create(request: CompletionRequest & { stream?: false | null }, options?: { signal?: AbortSignal | undefined }): Promise<TextCompletion>;
}

/** `input` is one text, several, the ids of one or those of several. */
export interface EmbeddingRequest {
  input: string | string[] | number[] | number[][];
  model?: string;
  /** `base64`: the bytes of 32-bit floats, little-endian, as OpenAI's client asks for by itself. */
  encoding_format?: "float" | "base64" | null;
  dimensions?: number | null;
  user?: string;
}

export interface EmbeddingList {
  object: "list";
  data: { object: "embedding"; index: number; embedding: number[] | string }[];
  model: string;
  usage: { prompt_tokens: number; total_tokens: number };
}

export interface Embeddings {
  create(request: EmbeddingRequest, options?: { signal?: AbortSignal }): Promise<EmbeddingList>;
}
