// What the model is given of a conversation, and how much of its context that takes. Knows no document.

import type { Signal } from "@preact/signals";
import type { ChatMessage, Engine } from "../../api/types";
import type { Message } from "./conversation";

/** Where what the model sees begins: with a question, behind what it no longer sees. */
export function firstSeen(path: readonly Message[], forgotten: readonly Message[]): number {
  // What is no longer seen may end behind this path, or beside it: with an answer in whose place another one comes.
  const shared = path.findIndex(({ id }, i) => forgotten[i]?.id !== id);
  const from = shared < 0 ? path.length : shared;
  const question = path.findIndex(({ role }, i) => i >= from && role === "user");
  return question < 0 ? path.length : question;
}

/** What the model is given of a path: what the system says, then what was said, but for what it no longer sees. */
export function messagesOf(path: readonly Message[], systemPrompt: string, forgotten: readonly Message[]): ChatMessage[] {
  const from = firstSeen(path, forgotten);
  // There is no answer without its question.
  const last = path.findLastIndex(({ role }) => role === "user");
  const seen = last < 0 ? [] : path.slice(Math.min(from, last));
  const system = [systemPrompt.trim()];
  // Many templates take no answer before the first question: what a persona says first is part of who it is.
  const greeted = path[0]?.role === "assistant" ? path[0].content : "";
  if (greeted !== "") system.push(`You have begun the conversation with these words:\n${greeted}`);
  const prompt = system.filter((text) => text !== "").join("\n\n");
  const messages = seen.filter(({ role, content }) => role === "user" || content !== "").map(({ role, content }) => ({ role, content }));
  return [...(prompt === "" ? [] : [{ role: "system" as const, content: prompt }]), ...messages];
}

export async function countTokens(engine: Engine, messages: ChatMessage[], abort?: AbortSignal): Promise<number> {
  const text = await engine.applyChatTemplate(messages, { signal: abort });
  return (await engine.tokenize(text, { addSpecialTokens: false, signal: abort })).length;
}

interface Shown {
  used: Signal<number>;
  rate: Signal<number | null>;
}

/** Shows what the conversation takes while its answer grows, and how fast that is, until `end`. */
export function followContext(engine: Engine, messages: ChatMessage[], shownIn: Shown): { grow: () => void; end: () => void } {
  const before = engine.stats();
  const counting = new AbortController();
  let [shown, firstAt] = [0, 0];
  const show = (used: number) => {
    if (used <= shown) return;
    shown = used;
    shownIn.used.value = used;
  };
  // A long prompt takes a while until its first piece. What is wrong with it the request itself says.
  countTokens(engine, messages, counting.signal).then(show, () => undefined);
  return {
    grow: () => {
      const { promptTokens, tokens } = engine.stats();
      const made = tokens - before.tokens;
      show(promptTokens + made - before.promptTokens);
      firstAt ||= performance.now();
      const seconds = (performance.now() - firstAt) / 1000;
      if (made > 1 && seconds > 0) shownIn.rate.value = (made - 1) / seconds;
    },
    end: () => {
      shown = Infinity;
      counting.abort();
    },
  };
}
