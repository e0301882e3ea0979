// Answers: what the session makes of a prompt's ids, as text that is read while it comes. Knows no messages and no order of calls.

import { checkNumber } from "../api/options";
import type { SamplingOptions } from "../api/types";
import { RequestError } from "../api/errors";
import type { AnswerCall, AnswerDelta, Calls, ChatCall, ChatResult, CompletionCall } from "../protocol/messages";
import { checkWindow, resolveSampling } from "../runtime/sampling";
import { type AnswerPiece, AnswerReader } from "../text/answer";
import { Detokenizer } from "../text/detokenizer";
import { StopStrings } from "../text/stop-strings";
import type { Tokenizer } from "../text/tokenizer";
import { SAMPLING_OFF } from "../api/sampling";
import type { LoadedModel } from "./load/load";
import { type ChatPrompt, tokenizerOf } from "./prompt";

type OnDelta = (delta: AnswerDelta) => void;

/** The model's own sampling parameters. */
export function defaults({ artifact }: LoadedModel): Required<SamplingOptions> {
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
    repetitionWindow: checkWindow(options.repetitionWindow),
    maxTokens: checkMaxTokens(options.maxTokens),
    stopTokenIds: new Set(stop),
    signal,
  });
  return generation.tokens;
}

/** @param onDelta hears each piece as it comes, if the call streams */
export function chat(model: LoadedModel, prompt: ChatPrompt, call: ChatCall, signal: AbortSignal, onDelta: OnDelta): Promise<ChatResult> {
  const { ids, format, opening } = prompt;
  const reader = new AnswerReader(format);
  const marks = [...(format.tools?.starts ?? []), ...(format.tools?.ends ?? []), "[ARGS]", "[CALL_ID]", "<think>", "</think>"];
  return answer(model, { ids, kept: keptIds(tokenizerOf(model), marks), reader, opening }, call, signal, onDelta);
}

/** Text that goes on with a text. @param onDelta as for chat() */
export function complete(
  model: LoadedModel,
  ids: readonly number[],
  call: CompletionCall,
  signal: AbortSignal,
  onDelta: OnDelta,
): Promise<ChatResult> {
  const plain = { push: (text: string) => ({ content: text, reasoning: "", calls: [] }), flush: () => NOTHING, calls: [], ended: false };
  const opening = !call.echo ? "" : typeof call.prompt === "string" ? call.prompt : tokenizerOf(model).decode(call.prompt, true);
  return answer(model, { ids, kept: new Set(), reader: plain, opening }, call, signal, onDelta);
}

const NOTHING: AnswerPiece = { content: "", reasoning: "", calls: [] };

/** Special tokens that the reader of an answer looks for: other ones are no text. */
function keptIds(tokenizer: Tokenizer, marks: readonly string[]): ReadonlySet<number> {
  return new Set(marks.map((mark) => tokenizer.addedTokenId(mark)).filter((id) => id !== undefined));
}

interface Asked {
  ids: readonly number[];
  kept: ReadonlySet<number>;
  reader: Pick<AnswerReader, "push" | "flush" | "calls" | "ended">;
  /** What the answer begins with. */
  opening: string;
}

/** An answer as far as it has come, and the way of each piece to who waits for it. */
class Gathered {
  text = "";
  reasoning = "";

  constructor(private readonly onDelta: OnDelta | undefined) {}

  take({ content, reasoning, calls }: AnswerPiece): void {
    this.text += content;
    this.reasoning += reasoning;
    if (this.onDelta === undefined || (content === "" && reasoning === "" && calls.length === 0)) return;
    this.onDelta({
      ...(content === "" ? {} : { content }),
      ...(reasoning === "" ? {} : { reasoning }),
      ...(calls.length === 0 ? {} : { toolCalls: calls }),
    });
  }
}

async function answer(model: LoadedModel, asked: Asked, call: AnswerCall, signal: AbortSignal, onDelta: OnDelta): Promise<ChatResult> {
  const { session, artifact } = model;
  const { ids, kept, reader, opening } = asked;
  const texts = tokenizerOf(model);
  const detokenizer = new Detokenizer((window) => texts.decode(window, true, kept));
  // A stop string that is a token of the model's, which text may not show, is that token.
  const stopIds = call.stop.map((text) => texts.addedTokenId(text)).filter((id) => id !== undefined);
  const stops = new StopStrings(call.stop);
  const gathered = new Gathered(call.stream ? onDelta : undefined);
  gathered.take(reader.push(opening));
  const generation = await session.generate({
    ids,
    sampling: resolveSampling(call.sampling, defaults(model), call.seed),
    repetitionWindow: checkWindow(call.repetitionWindow),
    maxTokens: checkMaxTokens(call.maxTokens),
    stopTokenIds: new Set([...artifact.manifest.stopTokenIds, ...stopIds]),
    signal,
    onToken: (token) => {
      gathered.take(reader.push(stops.push(detokenizer.push(token))));
      return stops.stopped || reader.ended;
    },
  });
  gathered.take(reader.push(stops.push(detokenizer.flush()) + stops.flush()));
  gathered.take(reader.flush());
  const { tokens, finishReason: reason, promptTokens, reusedTokens, prefillMs, decodeMs, decodedTokens } = generation;
  const stopped = stops.stopped ? "stop" : reason;
  return {
    text: gathered.text,
    reasoning: gathered.reasoning,
    toolCalls: [...reader.calls],
    logprobs: [],
    finishReason: stopped === "stop" && reader.calls.length > 0 ? "tool_calls" : stopped,
    promptTokens,
    completionTokens: tokens.length,
    reusedTokens,
    prefillMs,
    decodeMs,
    decodedTokens,
  };
}

/** @throws RequestError for what this model cannot do */
export function checkAnswer(call: AnswerCall): void {
  const cannot = call.logprobs !== undefined ? "logprobs" : call.bias.length > 0 ? "logit_bias" : call.processed ? "logits_processor" : "";
  if (cannot !== "") throw new RequestError({ what: `The parameter ${cannot} is not supported` });
}
