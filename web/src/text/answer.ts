// Takes an answer apart while it comes: what the model thinks, what it says, which functions it calls. Text in, OpenAI's deltas
// out; knows the formats of tools.ts and `<think>`, no tokens.

import type { ToolCall, ToolCallDelta } from "../api/types";
import type { ToolFormat } from "./tools";
import { newCallId, ToolCallReader } from "./tool-calls";

export interface AnswerPiece {
  content: string;
  reasoning: string;
  calls: ToolCallDelta[];
}

export interface AnswerFormat {
  /** `open`: the prompt ended in `<think>`; `maybe`: the model may begin with it; `none`: its template knows no thoughts. */
  thinks: "open" | "maybe" | "none";
  /** Undefined: nothing is a call. */
  tools: ToolFormat | undefined;
  /** Of the functions that there are. */
  names: readonly string[];
  /** Nothing follows the first call. */
  single: boolean;
  newId?: () => string;
}

const OPEN = "<think>";
const CLOSE = "</think>";

/** Length of the longest end of `text` that begins one of the marks. */
function partial(text: string, marks: readonly string[]): number {
  let longest = 0;
  for (const mark of marks)
    for (let length = Math.min(mark.length - 1, text.length); length > longest; length--)
      if (text.endsWith(mark.slice(0, length))) longest = length;
  return longest;
}

const trailingSpace = (text: string): number => text.length - text.trimEnd().length;

export class AnswerReader {
  /** All that there is to read was read: a single call has ended. */
  ended = false;
  private mode: "start" | "thinking" | "content" | "between" | "call";
  private held = "";
  /** Something of this part was passed on: spaces in it are no edge any more. */
  private begun = false;
  private thought = false;
  private readonly marks: readonly string[];
  private readonly tagged: ToolCallReader;
  private reader: ToolCallReader;
  private readonly finished: ToolCall[] = [];
  /** The mark that began the calls; and the text since, should they be none. */
  private opened = "";
  private raw = "";

  constructor(private readonly format: AnswerFormat) {
    this.mode = format.thinks === "open" ? "thinking" : "start";
    this.marks = format.tools?.starts ?? [];
    this.tagged = new ToolCallReader(undefined, format.newId ?? newCallId);
    this.reader = this.tagged;
  }

  get calls(): readonly ToolCall[] {
    return this.finished;
  }

  push(text: string): AnswerPiece {
    return this.read(text, false);
  }

  /** What was held back, at the answer's end. */
  flush(): AnswerPiece {
    return this.read("", true);
  }

  private read(text: string, last: boolean): AnswerPiece {
    this.held += text;
    const piece: AnswerPiece = { content: "", reasoning: "", calls: [] };
    while (!this.ended && this.step(piece, last));
    return piece;
  }

  /** True when there may be more to do. */
  private step(piece: AnswerPiece, last: boolean): boolean {
    switch (this.mode) {
      case "start":
        return this.start(last);
      case "thinking":
        return this.think(piece, last);
      case "content":
        return this.say(piece, last);
      case "between":
        return this.next(last);
      case "call":
        return this.call(piece, last);
    }
  }

  private to(mode: AnswerReader["mode"], more = true): boolean {
    this.mode = mode;
    this.begun = false;
    return more;
  }

  /** The answer's beginning, and what follows its thoughts. */
  private start(last: boolean): boolean {
    const { thinks, tools } = this.format;
    const text = this.held.trimStart();
    if (thinks === "none" && tools?.bare !== true) return this.to("content");
    if (text === "" && !last) return false;
    if (thinks !== "none" && text.startsWith(OPEN)) {
      this.held = text.slice(OPEN.length);
      return this.to("thinking");
    }
    if (thinks !== "none" && !last && OPEN.startsWith(text)) return false;
    if (this.thought) this.held = text;
    if (tools?.bare !== true || !text.startsWith("{")) return this.to("content");
    this.held = text;
    this.opened = "";
    this.raw = "";
    this.reader = new ToolCallReader(new Set(this.format.names), this.format.newId ?? newCallId);
    return this.to("call");
  }

  private think(piece: AnswerPiece, last: boolean): boolean {
    if (!this.begun) this.held = this.held.trimStart();
    const end = this.held.indexOf(CLOSE);
    if (end >= 0) {
      piece.reasoning += this.held.slice(0, end).trimEnd();
      this.held = this.held.slice(end + CLOSE.length).trimStart();
      this.thought = true;
      return this.to("start");
    }
    const kept = last ? trailingSpace(this.held) : partial(this.held, [CLOSE]);
    let out = this.held.slice(0, this.held.length - kept);
    if (!last) out = out.trimEnd();
    piece.reasoning += out;
    this.begun ||= out !== "";
    this.held = last ? "" : this.held.slice(out.length);
    return false;
  }

  private say(piece: AnswerPiece, last: boolean): boolean {
    if (this.finished.length > 0 && !this.begun) this.held = this.held.trimStart();
    const found = this.marks
      .map((mark) => ({ mark, at: this.held.indexOf(mark) }))
      .filter(({ at }) => at >= 0)
      .sort((a, b) => a.at - b.at || b.mark.length - a.mark.length)[0];
    if (found !== undefined) {
      const before = this.held.slice(0, found.at);
      piece.content += before.trimEnd();
      this.opened = found.mark;
      this.raw = before.slice(before.trimEnd().length) + found.mark;
      this.held = this.held.slice(found.at + found.mark.length);
      this.reader = this.tagged;
      return this.to("between");
    }
    const kept = last ? 0 : partial(this.held, this.marks);
    let out = this.held.slice(0, this.held.length - kept);
    // Spaces before a call belong to nobody.
    if (!last && this.marks.length > 0) out = out.trimEnd();
    piece.content += out;
    this.begun ||= out !== "";
    this.held = this.held.slice(out.length);
    return false;
  }

  /** Between calls: what separates them, and what ends them. */
  private next(last: boolean): boolean {
    const { starts = [], ends = [] } = this.format.tools ?? {};
    let text = this.held.replace(/^[\s,;\]]+/, "");
    const end = ends.find((mark) => text.startsWith(mark));
    if (end !== undefined) {
      this.held = text.slice(end.length);
      return this.to("content");
    }
    const again = starts.find((mark) => text.startsWith(mark));
    if (again !== undefined) {
      this.raw += this.held.slice(0, this.held.length - text.length) + again;
      this.held = text.slice(again.length);
      return true;
    }
    if (!last && [...starts, ...ends].some((mark) => mark.startsWith(text))) return false;
    text = text.replace(/^[\s,;[\]]+/, "");
    if (text === "") {
      if (last) this.held = "";
      return false;
    }
    if (this.finished.length > 0 && this.opened === "" && !text.startsWith("{")) {
      this.held = text;
      return this.to("content");
    }
    this.raw += this.held.slice(0, this.held.length - text.length);
    this.held = text;
    return this.to("call");
  }

  private call(piece: AnswerPiece, last: boolean): boolean {
    const { deltas, state, rest } = this.reader.push(this.held, last);
    const before = this.finished.length;
    this.take(deltas);
    piece.calls.push(...deltas);
    this.held = rest;
    if (state === "more") return false;
    if (state === "none") {
      // No call after all: a part of what the model says.
      if (before === this.finished.length) piece.content += this.raw + this.held.slice(0, 1);
      this.held = this.held.slice(1);
      return this.to("content", this.held !== "" || last);
    }
    this.raw = "";
    if (this.format.single) this.ended = true;
    return this.to("between");
  }

  /** Both readers count from zero: the calls' numbers are the answer's. */
  private take(deltas: ToolCallDelta[]): void {
    for (const delta of deltas) {
      const { name, arguments: text = "" } = delta.function;
      if (delta.id !== undefined) this.finished.push({ id: delta.id, type: "function", function: { name: name ?? "", arguments: "" } });
      const call = this.finished.at(-1);
      if (call !== undefined) call.function.arguments += text;
      delta.index = this.finished.length - 1;
    }
  }
}
