// Answers: what the session makes of a prompt's ids, as text that is read while it comes. Knows no messages and no order of calls.

import type { AnswerFormat } from "../api/constraint";
import { checkNumber } from "../api/options";
import type { SamplingOptions, TokenLogprob } from "../api/types";
import type { AnswerCall, AnswerDelta, Calls, ChatCall, ChatResult, CompletionCall } from "../protocol/messages";
import { Draft } from "../runtime/draft";
import { checkWindow, resolveSampling } from "../runtime/sampling";
import { type AnswerPiece, AnswerReader } from "../text/answer";
import { Detokenizer } from "../text/detokenizer";
import { StopStrings } from "../text/stop-strings";
import type { Tokenizer } from "../text/tokenizer";
import { SAMPLING_OFF } from "../api/sampling";
import { constraintOf } from "./grammar";
import type { LoadedModel } from "./load/load";
import { type Process, Watcher, watches } from "./logits";
import { forgetting, generateOn, type Shorten } from "./overflow";
import { type ChatPrompt, tokenizerOf } from "./prompt";
import type { GenerateRequest } from "../runtime/session";

/** Who waits for an answer. */
export interface Asker {
  signal: AbortSignal;
  /** Hears each piece as it comes, if the call streams. */
  onDelta: (delta: AnswerDelta) => void;
  /** Changes the logits of each step, if the call says so. */
  process: Process;
  /** Its text is what `make` works on. */
  textWork: <T>(make: () => T) => T;
}

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

/** @param promptOf the prompt of fewer messages, where the call slides */
export function chat(
  model: LoadedModel,
  prompt: ChatPrompt,
  call: ChatCall,
  asker: Asker,
  promptOf: (messages: ChatCall["messages"]) => ChatPrompt,
): Promise<ChatResult> {
  const { ids, format, opening, continued, calls } = prompt;
  // A function that has to be called is called, whatever form other answers are to have.
  const form: Form =
    opening === "" ? { format: call.format, isAsked: true, begun: continued } : { format: calls, isAsked: false, begun: "" };
  const reader = new AnswerReader(format);
  const marks = [...(format.tools?.starts ?? []), ...(format.tools?.ends ?? []), "[ARGS]", "[CALL_ID]", "<think>", "</think>"];
  const capacity = () => model.session.capacity;
  const shorten = call.slides ? forgetting(call.messages, capacity, (messages) => promptOf(messages).ids) : undefined;
  const texts = tokenizerOf(model);
  const draft = call.prediction === undefined ? undefined : new Draft(texts.encode(call.prediction, false));
  return answer(model, { ids, kept: keptIds(texts, marks), reader, opening, shorten, form, draft }, call, asker);
}

/** Text that goes on with a text. */
export function complete(model: LoadedModel, ids: readonly number[], call: CompletionCall, asker: Asker): Promise<ChatResult> {
  const plain = { push: (text: string) => ({ content: text, reasoning: "", calls: [] }), flush: () => NOTHING, calls: [], ended: false };
  const opening = !call.echo ? "" : typeof call.prompt === "string" ? call.prompt : tokenizerOf(model).decode(call.prompt, true);
  return answer(
    model,
    {
      ...{ ids, kept: new Set(), reader: plain, opening, shorten: undefined, draft: undefined },
      form: { format: call.format, isAsked: true, begun: "" },
    },
    call,
    asker,
  );
}

const NOTHING: AnswerPiece = { content: "", reasoning: "", calls: [] };

/** Special tokens that the reader of an answer looks for: other ones are no text. */
function keptIds(tokenizer: Tokenizer, marks: readonly string[]): ReadonlySet<number> {
  return new Set(marks.map((mark) => tokenizer.addedTokenId(mark)).filter((id) => id !== undefined));
}

/** What an answer's tokens are held to; what the request itself does not say goes where it cannot be. */
interface Form {
  format: AnswerFormat | undefined;
  isAsked: boolean;
  /** What has come of it before the answer. */
  begun: string;
}

interface Asked {
  ids: readonly number[];
  kept: ReadonlySet<number>;
  reader: Pick<AnswerReader, "push" | "flush" | "calls" | "ended">;
  /** What the answer begins with. */
  opening: string;
  /** When the context is full. */
  shorten: Shorten | undefined;
  form: Form;
  draft: Draft | undefined;
}

/** An answer as far as it has come, and the way of each piece to who waits for it. */
class Gathered {
  text = "";
  reasoning = "";
  readonly logprobs: TokenLogprob[] = [];
  /** How many of the tokens' were passed on. */
  private passed = 0;

  constructor(private readonly onDelta: Asker["onDelta"] | undefined) {}

  /** @param last nothing follows: what no text showed is told, too */
  take({ content, reasoning, calls }: AnswerPiece, last = false): void {
    this.text += content;
    this.reasoning += reasoning;
    const logprobs = this.logprobs.slice(this.passed);
    const nothing = content === "" && reasoning === "" && calls.length === 0;
    if (this.onDelta === undefined || (nothing && !(last && logprobs.length > 0))) return;
    this.passed = this.logprobs.length;
    this.onDelta({
      ...(content === "" ? {} : { content }),
      ...(reasoning === "" ? {} : { reasoning }),
      ...(calls.length === 0 ? {} : { toolCalls: calls }),
      ...(logprobs.length === 0 ? {} : { logprobs }),
    });
  }
}

async function answer(model: LoadedModel, asked: Asked, call: AnswerCall, asker: Asker): Promise<ChatResult> {
  const { signal, onDelta, process, textWork } = asker;
  const { session, artifact } = model;
  const { ids, kept, reader, opening, shorten, form, draft } = asked;
  const texts = tokenizerOf(model);
  const detokenizer = new Detokenizer((window) => texts.decode(window, true, kept));
  // A stop string that is a token of the model's, which text may not show, is that token.
  const stopIds = call.stop.map((text) => texts.addedTokenId(text)).filter((id) => id !== undefined);
  const stops = new StopStrings(call.stop);
  const gathered = new Gathered(call.stream ? onDelta : undefined);
  gathered.take(reader.push(opening));
  const sampling = resolveSampling(call.sampling, defaults(model), call.seed);
  const repetitionWindow = checkWindow(call.repetitionWindow);
  const stopTokenIds = new Set([...(call.ignoreEos ? [] : artifact.manifest.stopTokenIds), ...stopIds]);
  const onLogprob = (found: TokenLogprob, token: number) => {
    if (!stopTokenIds.has(token)) gathered.logprobs.push(found);
  };
  const isWatched = watches(call);
  const isHeld = form.isAsked || isWatched || session.constrains;
  const constraint = !isHeld ? undefined : await constraintOf(model, texts, form, textWork);
  const watching = { tokenizer: texts, sampling, repetitionWindow, ids, stopTokenIds, constraint, process, onLogprob };
  const watch = isWatched ? new Watcher(call, artifact.manifest.vocabSize, watching) : undefined;
  const request: GenerateRequest = {
    ids,
    constraint: watch === undefined ? constraint : undefined,
    sampling,
    repetitionWindow,
    maxTokens: checkMaxTokens(call.maxTokens),
    stopTokenIds,
    signal,
    watch: watch?.step,
    draft,
    onToken: (token) => {
      gathered.take(reader.push(stops.push(detokenizer.push(token))));
      return stops.stopped || reader.ended || watch?.ended === true;
    },
  };
  // Who watches the logits counts by the prompt that was asked, and what was constrained is one whole.
  const generation = await generateOn(session, request, watch === undefined && constraint === undefined ? shorten : undefined);
  gathered.take(reader.push(stops.push(detokenizer.flush()) + stops.flush()));
  gathered.take(reader.flush(), true);
  const { tokens, finishReason: reason, promptTokens, reusedTokens, prefillMs, decodeMs, decodedTokens } = generation;
  const stopped = stops.stopped ? "stop" : reason;
  return {
    text: gathered.text,
    reasoning: gathered.reasoning,
    toolCalls: [...reader.calls],
    logprobs: gathered.logprobs,
    finishReason: stopped === "stop" && reader.calls.length > 0 ? "tool_calls" : stopped,
    promptTokens,
    completionTokens: tokens.length,
    acceptedTokens: draft?.accepted ?? 0,
    rejectedTokens: draft?.rejected ?? 0,
    reusedTokens,
    openingLength: opening.length,
    prefillMs,
    decodeMs,
    decodedTokens,
  };
}
