// Answers that go on when the context is full: the oldest turns are forgotten, at the border of a message of the user's, and what
// there is of the answer stays. Knows messages only by whose they are; how they become ids is given.

import type { Generation, GenerateRequest, Session } from "../runtime/session";

/** The ids of a prompt that leaves room behind it and `generated` tokens; undefined: there is none. */
export type Shorten = (generated: number) => readonly number[] | undefined;

/** Share of the context that prompt and answer may have after turns were forgotten: the rest is room to go on. */
const KEPT = 0.75;
/** Less room is not worth going on for. */
const LEAST_ROOM = 16;

/**
 * @param capacity tokens that the context holds
 * @param idsOf the prompt of messages
 */
export function forgetting<M extends { role: string }>(
  messages: readonly M[],
  capacity: () => number,
  idsOf: (messages: M[]) => number[],
): Shorten {
  const first = messages.findIndex(({ role }) => role !== "system" && role !== "developer");
  const borders = messages.flatMap(({ role }, i) => (role === "user" && i > first ? [i] : []));
  return (generated) => {
    let shortest: number[] | undefined;
    for (let border = borders.shift(); border !== undefined; border = borders.shift()) {
      shortest = idsOf([...messages.slice(0, first), ...messages.slice(border)]);
      if (shortest.length + generated <= KEPT * capacity()) return shortest;
    }
    return shortest !== undefined && shortest.length + generated + LEAST_ROOM <= capacity() ? shortest : undefined;
  };
}

/** An answer in as many parts as it takes; `shorten` undefined: in one. */
export async function generateOn(session: Session, request: GenerateRequest, shorten: Shorten | undefined): Promise<Generation> {
  const { maxTokens = Infinity } = request;
  let asked = request.ids;
  if (shorten !== undefined && asked.length > session.capacity) asked = shorten(0) ?? asked;
  let whole: Generation | undefined;
  for (;;) {
    const before = whole?.tokens ?? [];
    const left = maxTokens === Infinity ? undefined : maxTokens - before.length;
    const part = await session.generate({ ...request, ids: [...asked, ...before], answered: before.length, maxTokens: left });
    whole = whole === undefined ? part : joined(whole, part);
    if (shorten === undefined || part.finishReason !== "length" || whole.tokens.length >= maxTokens) return whole;
    const shorter = shorten(whole.tokens.length);
    if (shorter === undefined) return whole;
    asked = shorter;
  }
}

/** Its prompt is that of the first part. */
function joined(whole: Generation, part: Generation): Generation {
  return {
    ...whole,
    tokens: [...whole.tokens, ...part.tokens],
    finishReason: part.finishReason,
    decodeMs: whole.decodeMs + part.prefillMs + part.decodeMs,
    decodedTokens: whole.decodedTokens + 1 + part.decodedTokens,
  };
}
