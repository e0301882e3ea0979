// Answers that are longer than the context: what is forgotten for them, and what the model has read at every step.
import { describe, expect, test } from "vitest";
import { GREEDY } from "../../src/runtime/sampling";
import { type Generation, Session } from "../../src/runtime/session";
import { forgetting, generateOn } from "../../src/worker/overflow";
import { SimulatedClock, SimulatedDevice, SimulatedRunner } from "../support/simulation";

/** Each message is its own ids: 4 of the system's, 10 of others. */
interface Message {
  role: string;
  ids: number[];
}

const message = (role: string, first: number, count = 10): Message => ({ role, ids: Array.from({ length: count }, (_, i) => first + i) });
const SYSTEM = message("system", 1000, 4);
const TALK = [SYSTEM, ...["user", "assistant", "user", "assistant", "user"].map((role, i) => message(role, 100 * (i + 1)))];
const idsOf = (messages: Message[]) => messages.flatMap(({ ids }) => ids);

/** The next token is the position; rows are written down. */
class SmallRunner extends SimulatedRunner {
  override readonly capacity: number = 64;
  readonly rows: number[] = [];
  private token = 0;

  override seek(_position?: number, token = 0): void {
    this.token = token;
  }
  override prefill(size: number, position: number, ids: readonly number[]): void {
    ids.forEach((id, i) => (this.rows[position + i] = id));
    super.prefill(size, position, ids);
  }
  override async decode(steps: number, position: number, parts = 1): Promise<Uint32Array> {
    for (let i = 0; i < steps; i++) {
      this.rows[position + i] = this.token;
      this.token = position + i + 1;
    }
    return super.decode(steps, position, parts);
  }
}

function setUp() {
  const clock = new SimulatedClock();
  const runner = new SmallRunner(new SimulatedDevice(clock, { there: 1, back: 1, timer: 0 }));
  const session = new Session(runner, undefined, clock);
  const answer = (messages: Message[], maxTokens?: number): Promise<Generation> => {
    const shorten = forgetting(messages, () => session.capacity, idsOf);
    const request = {
      ids: idsOf(messages),
      sampling: GREEDY,
      maxTokens,
      stopTokenIds: new Set<number>(),
      signal: new AbortController().signal,
    };
    return clock.drive(generateOn(session, request, shorten));
  };
  return { runner, session, answer };
}

const from = (first: number, count: number): number[] => Array.from({ length: count }, (_, i) => first + i);

describe("an answer that the context is too short for", () => {
  test("goes on without the oldest turns, behind what there is of it", async () => {
    const { runner, session, answer } = setUp();
    const { tokens, finishReason, promptTokens } = await answer(TALK);
    // 54 ids leave room for 11 tokens; without the first two messages, and without four, for 20 more behind 45 ids.
    expect(tokens).toEqual([...from(54, 11), ...from(45, 20), ...from(45, 20)]);
    expect(finishReason).toBe("length");
    expect(promptTokens).toBe(54);
    expect(runner.rows.slice(0, 64)).toEqual([...SYSTEM.ids, ...message("user", 500).ids, ...tokens].slice(0, 64));
    expect(session.counters.reusedTokens, "what the system says is not read again").toBe(2 * 4);
  });

  test("ends after as many tokens as were asked for", async () => {
    const { answer } = setUp();
    const { tokens, finishReason } = await answer(TALK, 25);
    expect(tokens).toEqual([...from(54, 11), ...from(45, 14)]);
    expect(finishReason).toBe("length");
  });

  test("begins without them where the prompt alone is too long", async () => {
    const { answer } = setUp();
    const long = [SYSTEM, message("user", 600, 60), message("assistant", 700), message("user", 800)];
    expect((await answer(long, 3)).tokens).toEqual(from(14, 3));
  });

  test("is refused where the last question alone is too long", async () => {
    const { answer } = setUp();
    await expect(answer([SYSTEM, message("user", 100), message("user", 600, 70)], 3)).rejects.toMatchObject({ kind: "context-overflow" });
  });

  test("ends where there is nothing left to forget", async () => {
    const { answer } = setUp();
    const { tokens, finishReason } = await answer([SYSTEM, message("user", 100)]);
    expect(tokens).toEqual(from(14, 51));
    expect(finishReason).toBe("length");
  });
});
