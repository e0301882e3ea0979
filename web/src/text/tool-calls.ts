// Reads calls of functions while a model writes them: objects of JSON with a name and arguments, alone, in a list or one after
// another, and the few other forms that models have. Text in pieces in, OpenAI's deltas out; knows no tokens.

import type { ToolCall, ToolCallDelta } from "../api/types";
import { JsonScan } from "./json-scan";

/** An object whose arguments can be passed on as they come. */
const HEAD =
  /^\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?(?:"id"\s*:\s*"[^"]*"\s*,\s*)?"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)/;
/** Mistral's newer form: the name before the arguments. */
const NAMED = /^([\w.-]+)(?:\[CALL_ID\][\w-]+)?(?:\[ARGS\])?\s*(?=\{)/;
const NAME_SO_FAR = /^[\w.-]+(?:\[[[\w\]-]*)?\s*$/;
/** Llama's built-in functions: `brave_search.call(query="...")`. */
const PYTHON = /^([\w.]+)\.call\(([^]*)\)\s*$/;
const ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/** Of a quoted text; undefined where it is no JSON. */
function nameOf(quoted: string): string | undefined {
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return undefined;
  }
}

/** Nine letters and digits: Mistral's templates take no others. */
export function newCallId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => ID_LETTERS[byte % ID_LETTERS.length]).join("");
}

/** What became of a text: deltas, and whether it is read to an end, goes on or is no call. */
export interface Read {
  deltas: ToolCallDelta[];
  state: "more" | "done" | "none";
  /** What follows the call, or the whole text when it is none. */
  rest: string;
}

export class ToolCallReader {
  /** The calls so far; the last may be unfinished. */
  readonly calls: ToolCall[] = [];
  private text = "";
  private object: JsonScan | undefined;
  private given: JsonScan | undefined;
  /** How much of the text was passed on. */
  private passed = 0;

  /** @param names of functions; where there are some, an object without such a name is no call */
  constructor(
    private readonly names: ReadonlySet<string> | undefined,
    private readonly newId: () => string = newCallId,
  ) {}

  /** A part of the call that is being read. @param last nothing follows */
  push(text: string, last: boolean): Read {
    this.text += text;
    const deltas: ToolCallDelta[] = [];
    if (this.object === undefined && this.given === undefined && !this.text.startsWith("{")) return this.other(last);
    if (this.given === undefined) {
      this.object ??= new JsonScan();
      const head = HEAD.exec(this.text);
      if (head?.[1] !== undefined) {
        const name = nameOf(head[1]);
        if (name === undefined) return this.none();
        if (this.names?.has(name) === false) return this.none();
        deltas.push(this.begin(name));
        this.startArguments(head[0].length);
      }
    }
    deltas.push(...this.passArguments());
    const end = this.object === undefined ? this.given?.end(this.text) : this.object.end(this.text);
    if (end === undefined) return last ? this.cut(deltas) : { deltas, state: "more", rest: "" };
    if (this.given === undefined) {
      const whole = wholeCall(this.text.slice(0, end));
      if (whole === undefined || this.names?.has(whole.name) === false) return this.none();
      deltas.push(this.begin(whole.name), this.more(whole.arguments));
    }
    return this.done(deltas, this.text.slice(end));
  }

  private startArguments(place: number): void {
    this.given = new JsonScan(place);
    this.passed = place;
  }

  private passArguments(): ToolCallDelta[] {
    if (this.given === undefined || this.passed < 0) return [];
    const end = this.given.end(this.text);
    const piece = this.text.slice(this.passed, end);
    this.passed = end === undefined ? this.text.length : -1;
    return piece === "" ? [] : [this.more(piece)];
  }

  /** A text that begins otherwise than with an object. */
  private other(last: boolean): Read {
    const named = NAMED.exec(this.text);
    if (named?.[1] !== undefined) {
      const begun = this.begin(named[1]);
      this.startArguments(named[0].length);
      const read = this.push("", last);
      return { ...read, deltas: [begun, ...read.deltas] };
    }
    const marked = this.text.startsWith("<function=") || "<function=".startsWith(this.text);
    if (marked) {
      const end = this.text.indexOf("</function>");
      if (end < 0 && !last) return { deltas: [], state: "more", rest: "" };
      const call = markedCall(end < 0 ? this.text : this.text.slice(0, end));
      if (call === undefined) return this.none();
      return this.done([this.begin(call.name), this.more(call.arguments)], end < 0 ? "" : this.text.slice(end + "</function>".length));
    }
    if (NAME_SO_FAR.test(this.text) || /^[\w.]+\.call\(/.test(this.text)) {
      if (!last) return { deltas: [], state: "more", rest: "" };
      const python = PYTHON.exec(this.text);
      if (python?.[1] !== undefined)
        return this.done([this.begin(python[1]), this.more(JSON.stringify(pythonArguments(python[2] ?? "")))], "");
    }
    return this.none();
  }

  private begin(name: string): ToolCallDelta {
    const call: ToolCall = { id: this.newId(), type: "function", function: { name, arguments: "" } };
    this.calls.push(call);
    return { index: this.calls.length - 1, id: call.id, type: "function", function: { name, arguments: "" } };
  }

  private more(text: string): ToolCallDelta {
    const call = this.calls.at(-1);
    if (call !== undefined) call.function.arguments += text;
    return { index: this.calls.length - 1, function: { arguments: text } };
  }

  private done(deltas: ToolCallDelta[], rest: string): Read {
    this.reset();
    return { deltas, state: "done", rest };
  }

  /** The answer ended within a call: what there is of its arguments stays. */
  private cut(deltas: ToolCallDelta[]): Read {
    if (this.given === undefined) return this.none();
    return this.done(deltas, "");
  }

  private none(): Read {
    const rest = this.text;
    this.reset();
    return { deltas: [], state: "none", rest };
  }

  private reset(): void {
    this.text = "";
    this.object = undefined;
    this.given = undefined;
    this.passed = 0;
  }
}

interface Whole {
  name: string;
  arguments: string;
}

function wholeCall(text: string): Whole | undefined {
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
  const inner = value["function"];
  const call = typeof inner === "object" && inner !== null ? (inner as Record<string, unknown>) : value;
  const name = call["name"] ?? inner;
  if (typeof name !== "string") return undefined;
  const given = call["arguments"] ?? call["parameters"] ?? {};
  return { name, arguments: typeof given === "string" ? given : JSON.stringify(given) };
}

/** `<function=name>` with `<parameter=name>`s of text, some of which are JSON. */
function markedCall(text: string): Whole | undefined {
  const name = /^<function=([^>\n]+)>/.exec(text)?.[1];
  if (name === undefined) return undefined;
  const found: Record<string, unknown> = {};
  for (const [, key = "", value = ""] of text.matchAll(/<parameter=([^>\n]+)>\n?([^]*?)\n?(?:<\/parameter>|$)/g))
    found[key] = literal(value);
  return { name, arguments: JSON.stringify(found) };
}

function pythonArguments(text: string): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const [, key = "", value = ""] of text.matchAll(/(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,]+)/g))
    found[key] = value.startsWith("'") ? value.slice(1, -1) : literal(value.trim());
  return found;
}

function literal(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
