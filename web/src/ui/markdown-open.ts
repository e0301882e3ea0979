// Blocks that may grow without end: code, tables, lists, and text that is too long or too deep to be parsed. What is
// complete of them is appended once and never touched again; only the unfinished rest is shown anew.

import type { Token, Tokens } from "marked";
import { languageOf, lexBlocks, type LinkTargets, render } from "./markdown-render";

/** How much of a source was shown for good; `next` goes on from there, null when the block has ended. */
export interface Growth {
  used: number;
  next: OpenBlock | null;
}

/** A block at the end of a text. `window` is its source from the first character on that is not shown for good. */
export interface OpenBlock {
  /** Whether it parses its source, which then must not be nested too deeply. */
  readonly parses: boolean;
  /** `more` says that the text goes on after the window. */
  grow(window: string, more: boolean): Growth;
  /** Takes back what is not shown for good. */
  close(): void;
}

const TEXT_NODE = 4096; // characters; a layout engine measures a node anew when it grows
const UNDECIDED = 80; // characters of an unfinished line after which it is taken for what it looks like

function isBlank(token: Token): boolean {
  return token.type === "space";
}

/** Whether more text cannot make another block of this one: its first line is complete, or long. */
export function isDecided(token: Token | undefined, last: boolean, more: boolean): boolean {
  return token !== undefined && (!last || more || token.raw.includes("\n") || token.raw.length > UNDECIDED);
}

/** Appends text to the last text node of an element while that is short, so that no node grows without bound. */
function appendText(element: Element, text: string): void {
  if (text === "") return;
  const last = element.lastChild;
  if (last instanceof Text && last.length + text.length <= TEXT_NODE) last.appendData(text);
  else element.append(text);
}

/** Plain text up to the next blank line. */
export class TextBlock implements OpenBlock {
  readonly parses = false;
  readonly #element: Element;

  constructor(element: Element) {
    this.#element = element;
  }

  close(): void {
    // All of it is shown for good.
  }

  grow(window: string, more: boolean): Growth {
    const end = /\n[ \t]*\n/.exec(window);
    // A line break at the end may be the first half of a blank line.
    const line = window.replace(/\n[ \t]*$/, "");
    const shown = end !== null ? window.slice(0, end.index) : line === "" && more ? window : line;
    appendText(this.#element, shown);
    return end === null ? { used: shown.length, next: this } : { used: end.index + end[0].length, next: null };
  }
}

const FENCE = /^( {0,3})(`{3,}(?=[^`\n]*\n)|~{3,})([^\n]*)\n/;

/** Fenced code up to the fence that closes it. */
export class CodeBlock implements OpenBlock {
  readonly parses = false;
  readonly #code = document.createElement("code");
  readonly #closing: RegExp;
  readonly #mayClose: RegExp;
  readonly #indent: RegExp;
  #atLineStart = true;

  private constructor(element: Element, indent: number, fence: string, info: string) {
    const mark = fence.charAt(0);
    this.#closing = new RegExp(`^ {0,3}${mark}{${String(fence.length)},}[ \\t]*$`);
    this.#mayClose = new RegExp(`^ {0,3}${mark}*[ \\t]*$`);
    this.#indent = new RegExp(`^ {0,${String(indent)}}`);
    const language = languageOf(info);
    if (language !== "") this.#code.dataset["language"] = language;
    const pre = document.createElement("pre");
    pre.append(this.#code);
    element.append(pre);
  }

  /** The block that a source opens, and the length of its opening line; null when it opens none. */
  static open(source: string, element: () => Element): Growth | null {
    const opening = FENCE.exec(source);
    if (opening === null) return null;
    return { used: opening[0].length, next: new CodeBlock(element(), opening[1]?.length ?? 0, opening[2] ?? "", opening[3] ?? "") };
  }

  close(): void {
    // All of it is shown for good.
  }

  grow(window: string): Growth {
    let [used, shown] = [0, ""];
    for (;;) {
      const end = window.indexOf("\n", used);
      const line = window.slice(used, end === -1 ? undefined : end);
      if (this.#atLineStart && end !== -1 && this.#closing.test(line)) {
        appendText(this.#code, shown);
        return { used: end + 1, next: null };
      }
      const waits = end === -1 && this.#atLineStart && line.length < UNDECIDED && this.#mayClose.test(line);
      if (!waits) shown += this.#atLineStart ? line.replace(this.#indent, "") : line;
      if (end === -1) {
        appendText(this.#code, shown);
        this.#atLineStart = waits;
        return { used: waits ? used : window.length, next: this };
      }
      shown += "\n";
      used = end + 1;
      this.#atLineStart = true;
    }
  }
}

/** Parts of a growing block that are shown until they are complete. */
class Provisional {
  #shown: Element[] = [];
  #source = "";

  /** Replaces what is shown by elements of this source, made when it is another one than before. */
  show(parent: Element | null, source: string, make: () => Element[]): void {
    if (source === this.#source) return;
    this.clear();
    this.#source = source;
    this.#shown = source === "" ? [] : make();
    parent?.append(...this.#shown);
  }

  clear(): void {
    for (const element of this.#shown) element.remove();
    this.#shown = [];
    this.#source = "";
  }
}

/** An element for a block of its own after another one's. */
function following(tokens: Token[]): Element[] {
  const element = document.createElement("div");
  element.append(render(tokens));
  return [element];
}

/** A table whose head is shown: rows are appended. */
export class TableBlock implements OpenBlock {
  readonly parses = true;
  readonly #block: Element;
  readonly #body: Element;
  readonly #head: string;
  readonly #links: LinkTargets;
  readonly #unfinished = new Provisional();
  readonly #after = new Provisional();

  private constructor(block: Element, body: Element, head: string, links: LinkTargets) {
    this.#block = block;
    this.#body = body;
    this.#head = head;
    this.#links = links;
  }

  /** Goes on with a table that is shown in `element`; null when its source is not plain lines. */
  static from(token: Tokens.Table, element: Element, links: LinkTargets): Growth | null {
    const head = /^[^\n]+\n[^\n]+\n/.exec(token.raw)?.[0];
    const body = element.querySelector("tbody");
    if (head === undefined || body === null) return null;
    const rows = token.raw.slice(head.length);
    const complete = rows.slice(0, rows.lastIndexOf("\n") + 1);
    const count = complete.split("\n").length - 1;
    for (const row of [...body.children].slice(count)) row.remove();
    return { used: head.length + complete.length, next: new TableBlock(element, body, head, links) };
  }

  grow(window: string, more: boolean): Growth {
    const source = this.#head + window;
    const { tokens } = lexBlocks(source, this.#links);
    const table = tokens[0];
    if (table?.type !== "table" || !source.startsWith(this.#head.trimEnd())) return this.#end(0);
    // A row is a line; how many there are is the parser's to say.
    const lines = window.match(/[^\n]*\n|[^\n]+$/g)?.slice(0, (table as Tokens.Table).rows.length) ?? [];
    const complete = lines.filter((line) => line.endsWith("\n"));
    const used = complete.join("").length;
    const rest = window.slice(lines.join("").length);
    const made = (): Element[] => [...render([table]).querySelectorAll("tbody > tr")];
    if (complete.length > 0) {
      this.#unfinished.clear();
      this.#body.append(...made().slice(0, complete.length));
    }
    const follows = rest !== "" && (more || rest.includes("\n") || rest.length > UNDECIDED);
    // A row that fills the window is not waited for.
    if (follows || (more && complete.length === 0)) return this.#end(used);
    this.#unfinished.show(this.#body, lines.slice(complete.length).join(""), () => made().slice(complete.length));
    this.#after.show(this.#block.parentElement, rest, () => following(tokens.slice(1)));
    return { used, next: this };
  }

  close(): void {
    this.#unfinished.clear();
    this.#after.clear();
  }

  #end(used: number): Growth {
    this.close();
    return { used, next: null };
  }
}

/** A list whose first items are shown: items are appended. */
export class ListBlock implements OpenBlock {
  readonly parses = true;
  readonly #block: Element;
  readonly #list: Element;
  readonly #kind: string;
  readonly #links: LinkTargets;
  readonly #unfinished = new Provisional();
  readonly #after = new Provisional();

  private constructor(block: Element, list: Element, kind: string, links: LinkTargets) {
    this.#block = block;
    this.#list = list;
    this.#kind = kind;
    this.#links = links;
  }

  /** Goes on with a list that is shown in `element`, from its last item on; null when its items cannot be told apart. */
  static from(token: Tokens.List, element: Element, links: LinkTargets): Growth | null {
    const list = element.firstElementChild;
    const last = token.items.at(-1);
    if (list === null || last === undefined || last.raw === "" || !token.raw.endsWith(last.raw)) return null;
    if (list.children.length !== token.items.length) return null;
    list.lastElementChild?.remove();
    return { used: token.raw.length - last.raw.length, next: new ListBlock(element, list, kindOf(token), links) };
  }

  grow(window: string, more: boolean): Growth {
    const { tokens } = lexBlocks(window, this.#links);
    const token = tokens[0];
    if (token?.type !== "list" || kindOf(token as Tokens.List) !== this.#kind) return this.#end(0);
    const list = token as Tokens.List;
    const after = tokens.slice(1).filter((other) => !isBlank(other));
    if (isDecided(after[0], after.length === 1, more)) return this.#all(list, window);
    const last = list.items.at(-1);
    const open = isDecided(last, true, more) ? 1 : 2;
    const complete = list.items.slice(0, -open);
    let used = 0;
    for (const { raw } of complete) {
      if (!window.startsWith(raw, used)) return this.#all(list, window);
      used += raw.length;
    }
    if (complete.length === 0 && more) return this.#cut(list, window);
    const made = this.#items(list);
    if (complete.length > 0) {
      this.#unfinished.clear();
      this.#list.append(...made.slice(0, complete.length));
    }
    this.#unfinished.show(this.#list, list.raw.slice(used), () => made.slice(complete.length));
    this.#after.show(this.#block.parentElement, after.map(({ raw }) => raw).join(""), () => following(after));
    return { used, next: this };
  }

  close(): void {
    this.#unfinished.clear();
    this.#after.clear();
  }

  #items(list: Tokens.List): Element[] {
    return [...(render([list]).firstElementChild?.children ?? [])];
  }

  #all(list: Tokens.List, window: string): Growth {
    this.close();
    this.#list.append(...this.#items(list));
    return { used: Math.min(list.raw.length, window.length), next: null };
  }

  /** An item longer than the window: the rest of it is text. */
  #cut(list: Tokens.List, window: string): Growth {
    this.close();
    const items = this.#items(list);
    this.#list.append(...items);
    return { used: window.length, next: new TextBlock(items.at(-1) ?? this.#list) };
  }

  #end(used: number): Growth {
    this.close();
    return { used, next: null };
  }
}

/** Items with other marks make another list. */
function kindOf(list: Tokens.List): string {
  return /^ *(?:([-*+])|\d+([.)]))/.exec(list.raw)?.slice(1).join("") ?? "";
}
