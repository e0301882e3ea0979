// Markdown that a model writes, shown as it streams in.
//
// Blocks that are complete are neither parsed nor touched again, so what a token costs does not grow with the answer, and
// what a frame costs is bounded whatever the model writes: a window of the text is parsed at a time, blocks that outgrow it
// go on as plain text, and so does what is nested too deeply or makes the parser fail.

import type { Token, Tokens } from "marked";
import { CodeBlock, type Growth, isDecided, ListBlock, type OpenBlock, TableBlock, TextBlock } from "./markdown-open";
import { lexBlocks, type LinkTargets, render } from "./markdown-render";

const WINDOW = 4096; // characters that are parsed at a time
const FRAME = 32768; // characters that are shown for good in a frame
const PARTS = 8; // rows or items from which on a table or a list grows by them
const DEEPEST = 12; // quotes and lists in one another
const MOST_TARGETS = 100; // definitions of links
const MOST_RENDERED_AGAIN = 65536; // characters, for definitions that come after their links

interface Shown {
  raw: string;
  element: HTMLElement;
}

/** Shows a growing text in `root`, at most once a frame. */
export class MarkdownView {
  readonly #root: HTMLElement;
  readonly #onRender: () => void;
  #text = "";
  #source = ""; // the text without carriage returns
  #start = 0; // of the source that is not shown for good
  #open: OpenBlock | null = null;
  #watched: Shown[] = []; // blocks from #start on, which may change
  readonly #links = Object.create(null) as LinkTargets;
  #linking: Shown[] = []; // complete blocks in which a later definition may make a link
  #renderedAgain = 0;
  #frame = 0;

  constructor(root: HTMLElement, onRender: () => void = () => undefined) {
    this.#root = root;
    this.#onRender = onRender;
  }

  get text(): string {
    return this.#text;
  }

  append(text: string): void {
    this.#text += text;
    this.#source += text.replaceAll("\r", "");
    this.#schedule();
  }

  /** Shows what there is now; what is more than a frame's work follows in the next frames. */
  flush(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const until = this.#start + FRAME;
    while (this.#advance()) {
      if (this.#start < until) continue;
      this.#schedule();
      break;
    }
    this.#onRender();
  }

  #schedule(): void {
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.flush());
  }

  /** Shows a window of the text. Whether there is more to be done now. */
  #advance(): boolean {
    const [start, open] = [this.#start, this.#open];
    const end = start + WINDOW;
    // Half of a surrogate pair is left to the next window.
    const cut = /[\uD800-\uDBFF]/.test(this.#source.charAt(end - 1)) ? end - 1 : end;
    const window = this.#source.slice(start, cut);
    const more = cut < this.#source.length;
    if (window === "") return false;
    try {
      if (open === null) this.#between(window, more);
      else if (open.parses) this.#continue(open, window, more);
      else this.#go(open.grow(window, more));
    } catch (error) {
      if (!(error instanceof RangeError)) console.warn("wisp: shown as text:", error);
      this.#asText();
    }
    return this.#start !== start || this.#open !== open;
  }

  #continue(open: OpenBlock, window: string, more: boolean): void {
    const deep = firstDeepLine(window);
    if (deep === 0) this.#asText();
    else this.#go(open.grow(deep === -1 ? window : window.slice(0, deep), more || deep !== -1));
  }

  #go({ used, next }: Growth): void {
    this.#start += used;
    this.#open = next;
  }

  /** From here to the next blank line nothing is parsed. */
  #asText(): void {
    this.#open?.close();
    this.#unwatch(0);
    const paragraph = document.createElement("p");
    paragraph.className = "plain";
    this.#block().append(paragraph);
    this.#open = new TextBlock(paragraph);
  }

  #block(): HTMLElement {
    const element = document.createElement("div");
    this.#root.append(element);
    return element;
  }

  #unwatch(from: number): void {
    for (const stale of this.#watched.splice(from)) stale.element.remove();
  }

  /** No block is open: the window begins one, after blank lines. */
  #between(window: string, more: boolean): void {
    const blank = /^(?:[ \t]*\n)+/.exec(window);
    if (blank !== null) {
      this.#start += blank[0].length;
      return;
    }
    const code = CodeBlock.open(window, () => {
      this.#unwatch(0);
      return this.#block();
    });
    if (code !== null) {
      this.#go(code);
      return;
    }
    const deep = firstDeepLine(window);
    if (deep === 0) this.#asText();
    else this.#parse(deep === -1 ? window : window.slice(0, deep), more, deep !== -1);
  }

  /** Shows the blocks of a window; `all` of them are complete, or those that a decided one follows. */
  #parse(window: string, more: boolean, all: boolean): void {
    const lexed = lexBlocks(window, this.#links);
    const tokens = lexed.tokens.filter((token) => token.type !== "space");
    this.#show(tokens);
    const last = tokens.length - 1;
    for (const [i, token] of tokens.entries())
      if (token.type === "def" && (i < last || token.raw.endsWith("\n"))) this.#define((token as Tokens.Def).tag, lexed.links);
    let complete = all ? tokens.length : isDecided(tokens[last], true, more) ? last : Math.max(0, last - 1);
    let offset = 0;
    let counted = 0;
    for (const token of lexed.tokens) {
      if (!all && !window.startsWith(token.raw, offset)) complete = Math.min(complete, counted);
      if (token.type !== "space" && counted++ === complete) break;
      offset += token.raw.length;
    }
    const shown = this.#watched.splice(0, complete);
    this.#linking.push(...shown.filter(({ raw }) => raw.includes("[")));
    this.#start += all ? window.length : complete === 0 ? 0 : offset;
    const [open, first] = [tokens[complete], this.#watched[0]];
    const grows = complete === last && open !== undefined && first !== undefined && partsOf(open) > PARTS;
    const growth = grows ? this.#grow(open, first.element) : null;
    if (growth !== null) {
      this.#watched = [];
      this.#go(growth);
    } else if (!all && complete === 0 && more) {
      this.#overflow(window);
    }
  }

  /** Makes the elements of those blocks that are not shown already. */
  #show(tokens: Token[]): void {
    let same = 0;
    while (same < tokens.length && this.#watched[same]?.raw === tokens[same]?.raw.trimEnd()) same++;
    this.#unwatch(same);
    for (const token of tokens.slice(same)) {
      const element = this.#block();
      element.append(render([token]));
      this.#watched.push({ raw: token.raw.trimEnd(), element });
    }
  }

  #grow(token: Token, element: Element): Growth | null {
    if (token.type === "table") return TableBlock.from(token as Tokens.Table, element, this.#links);
    return token.type === "list" ? ListBlock.from(token as Tokens.List, element, this.#links) : null;
  }

  /** A block fills the window: what is shown of it stays, the rest of it is text. */
  #overflow(window: string): void {
    const element = this.#watched.at(-1)?.element ?? this.#block();
    this.#watched = [];
    this.#start += window.length;
    const last = element.lastElementChild;
    const target = last?.tagName === "P" ? last : element;
    target.classList.add("plain");
    this.#open = new TextBlock(target);
  }

  /** A definition makes links of the blocks before it that name it. */
  #define(tag: string, links: LinkTargets): void {
    const target = links[tag];
    if (target === undefined || tag in this.#links || Object.keys(this.#links).length >= MOST_TARGETS) return;
    this.#links[tag] = target;
    for (const { raw, element } of [...this.#linking, ...this.#watched]) {
      if (!raw.toLowerCase().includes(`[${tag}]`)) continue;
      this.#renderedAgain += raw.length;
      if (this.#renderedAgain > MOST_RENDERED_AGAIN) return;
      element.replaceChildren(render(lexBlocks(raw, this.#links).tokens));
    }
  }
}

/** How many rows or items a block has that could be appended one by one. */
function partsOf(token: Token): number {
  if (token.type === "table") return (token as Tokens.Table).rows.length;
  return token.type === "list" ? (token as Tokens.List).items.length : 0;
}

const MARKER = /[ \t]*(?:>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))/y;

/** Where the first line begins that opens more blocks in one another than are parsed; -1 when none does. */
function firstDeepLine(window: string): number {
  for (let line = 0; line !== -1 && line < window.length; line = nextLine(window, line)) {
    MARKER.lastIndex = line;
    let depth = 0;
    while (depth <= DEEPEST && MARKER.test(window)) depth++;
    if (depth > DEEPEST) return line;
  }
  return -1;
}

function nextLine(window: string, from: number): number {
  const end = window.indexOf("\n", from);
  return end === -1 ? -1 : end + 1;
}
