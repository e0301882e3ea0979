// A model that says what a test wrote down: everything from the public API to the session is the real thing, with a real tokenizer
// and a real template; only the tokens are not computed, and the files not fetched.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { GenerateRequest, Generation } from "../../src/runtime/session";
import { ChatTemplate, sourceProgram, specialTokensOf } from "../../src/text/chat-template";
import { ControlTokens } from "../../src/text/contents";
import * as parser from "../../src/text/template-parser";
import { Tokenizer } from "../../src/text/tokenizer";
import * as library from "../../src/text/tokenizer-library";
import { TurnWriter } from "../../src/text/turns";
import type { LoadedModel } from "../../src/worker/load/load";

const fixture = JSON.parse(readFileSync(resolve(import.meta.dirname, "../golden/byte_level.json"), "utf8")) as {
  tokenizer: { added_tokens: object[] } & Record<string, unknown>;
  config: Record<string, unknown>;
};

/** Qwen's and Hermes' way with tools and thoughts, in short. */
export const TEMPLATE =
  "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}{% endif %}" +
  "<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools><|im_end|>\n" +
  "{% elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}" +
  "{% for message in messages %}{% if message.role == 'user' %}<|im_start|>user\n{{ message.content }}<|im_end|>\n" +
  "{% elif message.role == 'assistant' %}<|im_start|>assistant\n{{ message.content or '' }}" +
  '{% for call in message.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n' +
  "{% elif message.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ message.content }}\n</tool_response><|im_end|>\n{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking == false %}<think>\n\n</think>\n\n{% endif %}{% endif %}";

const SPECIAL = ["<|im_start|>", "<|im_end|>"];
const NOT_SPECIAL = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>", "<b>", "[TOOL_CALLS]"];

export function tokenizer(): Tokenizer {
  const added = [...SPECIAL, ...NOT_SPECIAL].map((content, i) => ({
    ...{ id: 5000 + i, content, special: SPECIAL.includes(content) },
    ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
  }));
  return new Tokenizer({ ...fixture.tokenizer, added_tokens: [...fixture.tokenizer.added_tokens, ...added] }, fixture.config, library);
}

export async function turnWriter(source: string, texts = tokenizer()): Promise<TurnWriter> {
  const program = await sourceProgram(source, () => Promise.resolve(parser));
  return new TurnWriter(
    new ChatTemplate(program, specialTokensOf(texts, null, null), source),
    new ControlTokens(texts.addedTokens, source),
  );
}

export class ScriptedModel {
  /** What it says next, one for each request; the last again and again. */
  answers: string[] = [""];
  /** What it was asked. */
  readonly prompts: string[] = [];
  readonly requests: GenerateRequest[] = [];
  readonly tokenizer = tokenizer();
  /** Of the token that comes next, and of the one after it by number; those of all others are 0. */
  logits = [8, 7] as const;
  /** Of the context. */
  capacity = 4096;

  async loaded(source = TEMPLATE): Promise<LoadedModel> {
    const running = {
      ...{
        variant: { name: "scripted", backend: "wasm", kvBytesPerToken: 1 },
        adapter: {},
        threads: 1,
        hints: [],
        notices: [],
        tuning: {},
      },
      ...{ runner: { capacity: this.capacity }, compileMs: 0, tuneMs: 0 },
    };
    const manifest = {
      ...{ id: "scripted", vocabSize: 6000, quantization: "none", schemes: new Map(), parameters: 1, weightBytes: 1, bosTokenId: null },
      ...{ stopTokenIds: [this.tokenizer.addedTokenId("<|im_end|>")], generation: {} },
    };
    return {
      artifact: { manifest, tokenizer: this.tokenizer, turns: await turnWriter(source, this.tokenizer), fetcher: { counters: {} } },
      session: { constrains: true, counters: {}, reset: () => undefined, generate: (request: GenerateRequest) => this.generate(request) },
      supervisor: { running, skipped: [], recoveries: 0, counters: {}, dispose: () => undefined },
      notices: [],
      loadMs: 0,
    } as unknown as LoadedModel;
  }

  private async generate(request: GenerateRequest): Promise<Generation> {
    this.requests.push(request);
    this.prompts.push(this.tokenizer.decode(request.ids, false));
    const answer = this.answers.length > 1 ? this.answers.shift() : this.answers[0];
    const ids = this.tokenizer.encode(answer ?? "", false);
    const tokens: number[] = [];
    let finishReason: Generation["finishReason"] = "length";
    for (const id of [...ids, ...request.stopTokenIds]) {
      if (request.signal.aborted) finishReason = "abort";
      if (request.signal.aborted || tokens.length === (request.maxTokens ?? Infinity)) break;
      await Promise.resolve();
      if (request.stopTokenIds.has(id)) finishReason = "stop";
      if (finishReason === "stop") break;
      const logits = new Float32Array(6000);
      logits.set(this.logits, id);
      const token = (await request.watch?.(logits, id, request.ids.length + tokens.length, tokens)) ?? id;
      tokens.push(token);
      if (request.onToken?.(token) === true) finishReason = "stop";
      if (finishReason !== "length") break;
    }
    const numbers = { promptTokens: request.ids.length, reusedTokens: 2, prefillMs: 1, decodeMs: 1, decodedTokens: tokens.length };
    return { tokens, finishReason, ...numbers };
  }
}

/** In place of worker/load/load.ts: there is one. */
export const scripted = new ScriptedModel();
export const load = () => scripted.loaded();
