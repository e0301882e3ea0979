// From messages to the ids of a prompt, and how the answer to it is to be read. Knows a loaded model's texts; runs nothing.

import type { AnswerFormat as Format } from "../api/constraint";
import { RequestError } from "../api/errors";
import type { ChatCall, CompletionCall, TemplateCall } from "../protocol/messages";
import type { AnswerFormat } from "../text/answer";
import type { Tokenizer } from "../text/tokenizer";
import type { ToolFormat } from "../text/tools";
import type { TurnWriter } from "../text/turns";
import type { LoadedModel } from "./load/load";

type CallsFormat = Extract<Format, { type: "alternatives" }>;
const ANY_ARGUMENTS = { type: "object" };

export interface ChatPrompt {
  ids: number[];
  format: AnswerFormat;
  /** The answer's beginning where it is given: the model goes on behind it. */
  opening: string;
  /** What the answer goes on from, of the assistant's last message; empty where it begins anew. */
  continued: string;
  /** What that has to be, where a function has to be called: one of them, its arguments valid. */
  calls: CallsFormat | undefined;
}

/** @throws RequestError */
export function tokenizerOf({ artifact }: LoadedModel): Tokenizer {
  const { tokenizer: found, manifest } = artifact;
  if (found === undefined)
    throw new RequestError({
      what: `The artifact of ${manifest.id} has no tokenizer.json`,
      remedy: "Pass ids to generateIds() or logits().",
    });
  return found;
}

function turnsOf({ artifact }: LoadedModel): TurnWriter {
  const { turns, manifest } = artifact;
  if (turns === undefined)
    throw new RequestError({
      what: `${manifest.id} has no chat template`,
      remedy: "It is not a chat model: write the prompt yourself and use completions.create().",
    });
  return turns;
}

/** What transformers makes of the messages. @throws RequestError */
export function render(model: LoadedModel, call: TemplateCall): string {
  return turnsOf(model).write(call, false).text;
}

/** @throws RequestError */
export function chatPrompt(model: LoadedModel, call: ChatCall): ChatPrompt {
  const turns = turnsOf(model);
  const { tools: all, toolChoice } = call;
  const tools = toolChoice === "none" ? [] : all;
  const { text, originals, continued } = turns.write({ ...call, tools }, call.contentsAsText);
  const { format } = turns.tools;
  const named = typeof toolChoice === "object" ? toolChoice.name : undefined;
  const opening = named !== undefined || toolChoice === "required" ? format.opening(named) : "";
  return {
    ids: tokenizerOf(model).encode(text + opening, false, originals),
    format: {
      // What is held to a form from its first token on is all answer.
      thinks: opening !== "" || call.format !== undefined ? "none" : turns.thinks(text),
      tools: tools.length === 0 ? undefined : format,
      names: tools.map((tool) => tool.function.name),
      single: named !== undefined || !call.parallelToolCalls,
    },
    opening,
    continued,
    calls: opening === "" ? undefined : callsOf(tools, format, named),
  };
}

function callsOf(tools: ChatCall["tools"], format: ToolFormat, named: string | undefined): CallsFormat | undefined {
  const { around } = format;
  if (around === undefined) return undefined;
  const possible = named === undefined ? tools : tools.filter((tool) => tool.function.name === named);
  return {
    type: "alternatives",
    alternatives: possible.map(({ function: { name, parameters, strict } }) => ({
      ...around(name, named !== undefined),
      schema: parameters ?? ANY_ARGUMENTS,
      // What a schema says that a grammar cannot hold is an error where the function is strict.
      ...(strict === true ? {} : { otherwise: ANY_ARGUMENTS }),
    })),
  };
}

/** @throws RequestError */
export function completionPrompt(model: LoadedModel, { prompt }: CompletionCall): number[] {
  return typeof prompt === "string" ? tokenizerOf(model).encode(prompt, true) : prompt;
}
