// An answer while it is written, and what is kept of it. Knows no engine and no document.

import type { ToolCall, ToolCallDelta } from "../../api/types";
import type { Message } from "./conversation";

/** An answer while it is written. Whoever shows it hears of each piece. */
export class Live {
  readonly #listeners = new Set<(piece: string, thought: boolean) => void>();
  readonly #startedAt = performance.now();
  text: string;
  thoughts: string;
  thoughtSeconds: number | undefined;
  readonly toolCalls: ToolCall[] = [];

  constructor(readonly message: Message) {
    this.text = message.content;
    this.thoughts = message.thoughts ?? "";
    this.thoughtSeconds = message.thoughtSeconds;
  }

  /** @returns what ends it */
  listen(listener: (piece: string, thought: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  think(piece: string): void {
    if (piece === "") return;
    this.thoughts += piece;
    for (const listener of this.#listeners) listener(piece, true);
  }

  write(piece: string): void {
    if (piece === "") return;
    this.endThoughts();
    this.text += piece;
    for (const listener of this.#listeners) listener(piece, false);
  }

  call(deltas: readonly ToolCallDelta[]): void {
    for (const {
      index,
      id = "",
      function: { name = "", arguments: text = "" },
    } of deltas) {
      const call = (this.toolCalls[index] ??= { id, type: "function", function: { name: "", arguments: "" } });
      call.function.name += name;
      call.function.arguments += text;
    }
  }

  endThoughts(): void {
    if (this.thoughts !== "") this.thoughtSeconds ??= (performance.now() - this.#startedAt) / 1000;
  }

  /** What is kept of it. */
  written(): Partial<Message> {
    return {
      content: this.text,
      ...(this.thoughts === "" ? {} : { thoughts: this.thoughts }),
      ...(this.thoughtSeconds === undefined ? {} : { thoughtSeconds: this.thoughtSeconds }),
      ...(this.toolCalls.length === 0 ? {} : { toolCalls: this.toolCalls.map((call) => structuredClone(call)) }),
    };
  }
}
