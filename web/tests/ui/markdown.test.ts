// @vitest-environment jsdom
import { Lexer } from "marked";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { lexBlocks, render } from "../../src/ui/markdown-render";
import { MarkdownView } from "../../src/ui/markdown";

vi.setConfig({ testTimeout: 120_000 }); // a slow machine is no fault of the page

/** What a view of `root` parsed and touched since the last look. */
class Work {
  readonly #observer: MutationObserver;
  readonly #lex = vi.spyOn(Lexer.prototype, "lex");

  constructor(root: HTMLElement) {
    this.#observer = new MutationObserver(() => undefined);
    this.#observer.observe(root, { childList: true, subtree: true, characterData: true });
    this.take();
  }

  take(): { characters: number; nodes: number } {
    const records = this.#observer.takeRecords();
    const changed = records.flatMap((record) =>
      record.type === "characterData" ? [record.target] : [...record.addedNodes, ...record.removedNodes],
    );
    const characters = this.#lex.mock.calls.reduce((sum, [source]) => sum + source.length, 0);
    this.#lex.mockClear();
    return { characters, nodes: changed.reduce((sum, node) => sum + size(node), 0) };
  }
}

function size(node: Node): number {
  return 1 + [...node.childNodes].reduce((sum, child) => sum + size(child), 0);
}

let root: HTMLElement;
let view: MarkdownView;

beforeEach(() => {
  vi.stubGlobal("requestAnimationFrame", () => 1); // frames are those that a test asks for
  vi.stubGlobal("cancelAnimationFrame", () => undefined);
  root = document.createElement("div");
  view = new MarkdownView(root);
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

/** Frames until nothing is left to show. */
function settle(): void {
  let before: string;
  do {
    before = root.innerHTML;
    view.flush();
  } while (root.innerHTML !== before);
}

/** Shows a text in pieces with a frame after each, and gives what each frame cost. */
function stream(text: string, piece: number): { characters: number; nodes: number }[] {
  const work = new Work(root);
  const costs = [];
  for (let i = 0; i < text.length; i += piece) {
    view.append(text.slice(i, i + piece));
    view.flush();
    costs.push(work.take());
  }
  settle();
  return costs;
}

const most = (costs: { characters: number; nodes: number }[], what: "characters" | "nodes"): number =>
  Math.max(...costs.map((cost) => cost[what]));

/** The elements of a text, without the boxes around blocks and white space between elements. */
function shape(html: string): string {
  return html
    .replaceAll(/<\/?div>/g, "")
    .replaceAll(/>\s+</g, "><")
    .replaceAll(/\s+(?=<\/)/g, "")
    .trim();
}

function whole(text: string): string {
  const box = document.createElement("div");
  box.append(render(lexBlocks(text, {}).tokens));
  return shape(box.innerHTML);
}

const rows = (count: number): string =>
  `| a | b |\n|---|---|\n${Array.from({ length: count }, (_, i) => `| row ${String(i)} | **x** |\n`).join("")}`;
const items = (count: number, mark: (i: number) => string = () => "-"): string =>
  Array.from({ length: count }, (_, i) => `${mark(i)} item *${String(i)}*\n`).join("");
const lines = (count: number): string => Array.from({ length: count }, (_, i) => `line ${String(i)} <b>\n`).join("");

const TEXTS: Record<string, string> = {
  prose: "# Title\n\nSome *emphasis*, **strong**\nand `code`.\n\nAnother one.\n\n***\n\nSetext\n===\n\nlast",
  lists: "- one\n- two\n  - inner\n  - more\n\n1. first\n2. second\n\ntext\n* other\n* list",
  "a table": `before\n\n${rows(3)}\nafter`,
  "a long table": `${rows(20)}\nafter it *text*\n\n${rows(12)}`,
  "a table that a heading ends": `${rows(12)}# Heading\ntext`,
  "a table of one row more": `${rows(9)}\n\n${rows(10)}\ntext`,
  "a long list": `Intro:\n${items(40)}\nafter`,
  "a long numbered list": `${items(30, (i) => `${String(i + 1)}.`)}\nafter\n\n${items(20, () => "*")}`,
  "a list of several lines": `${Array.from({ length: 20 }, (_, i) => `- item ${String(i)}\n  goes on\n  - inner\n`).join("")}\nafter`,
  "two lists": `${items(12)}${items(12, () => "*")}end`,
  code: `text\n\n\`\`\`python\n${lines(30)}\`\`\`\nafter\n\n~~~~\n~~~\n\`\`\`\n~~~~\n\nend`,
  "code that is not closed": `\`\`\`\n${lines(3)}x`,
  "indented code": "para\n\n    code\n\n    more\n\ntext",
  "an indented fence": "  ```\n  a\n    b\n c\n  ```\nx",
  quotes: "> quoted\n> more\nlazy\n\n> > inner\n\nend",
  "html as text": "<div onclick=x>\n\n<script>1</script> *a*",
  "carriage returns": "a\r\n\r\n- b\r\n- c\r\n\r\nd",
};

describe("a streamed text looks like a whole one", () => {
  for (const piece of [1, 7, 64, 100_000]) {
    it.each(Object.keys(TEXTS))(`%s, in pieces of ${String(piece)}`, (name) => {
      const text = TEXTS[name] ?? "";
      stream(text, piece);
      expect(shape(root.innerHTML)).toBe(whole(text.replaceAll("\r", "")));
      expect(view.text).toBe(text);
    });
  }

  it("a definition makes links of blocks that are complete", () => {
    stream("[one] and [two][b]\n\nmore\n\n[one]: https://example.com/1\n\n[b]: https://example.com/2 'Two'\n\nend [one]\n", 2);
    expect([...root.querySelectorAll("a")].map((a) => a.href)).toEqual([
      "https://example.com/1",
      "https://example.com/2",
      "https://example.com/1",
    ]);
  });

  it.each([1, 2, 100])("a definition at the end makes links too, in pieces of %i", (size) => {
    stream("[one], twice\n\nmore\n\n> quoted\n\n[one]\n\n[one]: https://example.com/1\n", size);
    expect([...root.querySelectorAll("a")].map((a) => a.href)).toEqual(["https://example.com/1", "https://example.com/1"]);
  });

  it("labels like properties of objects are labels", () => {
    stream("[constructor] [__proto__]\n\n[constructor]: https://example.com/c\n\n[__proto__]: https://example.com/p\n\nend\n", 5);
    expect(root.querySelectorAll("a").length).toBe(2);
    expect(({} as Record<string, unknown>).href).toBeUndefined();
  });
});

describe("what a token costs does not grow with the answer", () => {
  it.each([
    ["paragraphs", "Some *emphasised* text, and more of it.\n\n".repeat(100)],
    ["a table", rows(100)],
    ["a list", items(100)],
    ["a numbered list", items(100, (i) => `${String(i + 1)}.`)],
    ["a loose list", items(80).replaceAll("\n", "\n\n")],
    ["code", `\`\`\`\n${lines(1000)}`],
    ["headings", "## Heading\n".repeat(200)],
    ["tables", `${rows(4)}\n`.repeat(20)],
  ])("%s", (_, text) => {
    const costs = stream(text, 8);
    const half = costs.slice(0, costs.length / 2);
    expect(most(costs, "characters")).toBeLessThan(2000);
    expect(most(costs, "nodes")).toBeLessThan(400);
    const later = costs.slice(costs.length / 2);
    expect(most(later, "characters")).toBeLessThanOrEqual(1.1 * most(half, "characters") + 20);
    expect(most(later, "nodes")).toBeLessThanOrEqual(1.1 * most(half, "nodes") + 20);
  });

  it("rows that are shown stay the same elements", () => {
    stream(rows(50), 9);
    const before = [...root.querySelectorAll("tr")].slice(0, 40);
    view.append("| the | last |\n");
    settle();
    expect([...root.querySelectorAll("tr")].slice(0, 40).every((row, i) => row === before[i])).toBe(true);
    expect(root.querySelectorAll("tbody tr").length).toBe(51);
    expect(root.querySelectorAll("table").length).toBe(1);
  });
});

const HOSTILE: Record<string, string> = {
  "deep quotes": "> ".repeat(4000),
  "deep quotes, tight": ">".repeat(20_000),
  "deep lists": "- ".repeat(5000),
  "deep numbered lists": "1. ".repeat(5000),
  "deep quotes after a list": `${items(20)}${"> ".repeat(4000)}`,
  "nested lists by indentation": Array.from({ length: 300 }, (_, i) => `${"  ".repeat(i)}- x\n`).join(""),
  "a huge line": "word ".repeat(20_000),
  "a huge line without spaces": "x".repeat(100_000),
  "a huge line of code": `\`\`\`\n${"x".repeat(100_000)}`,
  "a huge row": `${rows(20)}| ${"x".repeat(50_000)} |\n`,
  "a huge head": `| ${"x | ".repeat(5000)}\n|${"-|".repeat(5000)}\n`,
  "a huge item": `${items(20)}- ${"x ".repeat(30_000)}`,
  "thousands of links": "[a](https://example.com) ".repeat(4000),
  "thousands of autolinks": "https://example.com/ ".repeat(4000),
  "thousands of definitions": Array.from({ length: 500 }, (_, i) => `[d${String(i)}]: https://example.com\n\n[d${String(i)}]\n\n`).join(""),
  brackets: "[".repeat(30_000),
  stars: "*a ".repeat(10_000),
  underscores: "_a".repeat(10_000),
  ticks: "`a``b".repeat(5000),
  images: "![".repeat(10_000),
  "angle brackets": "<".repeat(30_000),
  spaces: `a\n${" ".repeat(30_000)}b`,
  "spaces in code": `\`\`\`\n${" ".repeat(30_000)}b`,
  "blank lines": "\n".repeat(30_000),
  "text and a line of spaces": `${"> ".repeat(50)}\n${" ".repeat(20_000)}x`,
  pipes: "|".repeat(20_000),
  "lazy quotes": `> a\n${"b\n".repeat(10_000)}`,
  surrogates: "🙂".repeat(20_000),
};

describe("a hostile text", () => {
  it.each(Object.keys(HOSTILE))("%s: bounded work a frame, and all of it is shown", (name) => {
    const text = HOSTILE[name] ?? "";
    const costs = stream(text, 500);
    expect(most(costs, "characters")).toBeLessThan(80_000);
    expect(most(costs, "nodes")).toBeLessThan(16_000);
    view.append(text.startsWith("```") ? "\n```\n\nThe *end*." : "\n\nThe *end*.");
    settle();
    expect(root.textContent).toContain("The end.");
    expect(root.textContent.length).toBeGreaterThan(text.replaceAll(/[^a-w🙂]/gu, "").replaceAll(/https|example|com/g, "").length / 2);
  });

  it("that comes at once is shown over several frames", () => {
    const work = new Work(root);
    view.append("Some *emphasised* text, and more of it.\n\n".repeat(2500));
    view.flush();
    expect(work.take().characters).toBeLessThan(150_000);
    expect(root.childElementCount).toBeLessThan(2000);
    settle();
    expect(root.querySelectorAll("em").length).toBe(2500);
  });

  it("that makes the parser fail is text up to the next blank line", () => {
    const lex = vi.spyOn(Lexer.prototype, "lex").mockImplementation(() => {
      throw new Error("a fault of the parser");
    });
    const warned = vi.spyOn(console, "warn").mockImplementation(() => undefined);
    view.append("*one*\ntwo\n\n");
    settle();
    lex.mockRestore();
    view.append("*three*");
    settle();
    expect(warned).toHaveBeenCalled();
    expect(root.querySelector("p.plain")?.textContent).toBe("*one*\ntwo");
    expect(root.querySelector("em")?.textContent).toBe("three");
  });

  it("stays text where it is not parsed", () => {
    view.append(`${"> ".repeat(100)}<img src=x onerror=alert(1)> <b>x</b>`);
    settle();
    expect(root.querySelector("img, b")).toBeNull();
    expect(root.textContent).toContain("<img src=x onerror=alert(1)>");
  });
});
