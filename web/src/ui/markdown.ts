// Markdown that a model writes, shown as it streams in.
//
// The text is untrusted. HTML in it is shown as text, images become their description, and what marked makes of the rest
// passes DOMPurify with a short list of elements before it reaches the page. Only http, https and mailto links are live.

import DOMPurify, { type Config } from "dompurify";
import { Marked, type Token } from "marked";

const ELEMENTS =
  "a p br hr strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td".split(" ");

const SANITIZE: Config & { RETURN_DOM_FRAGMENT: true } = {
  ALLOWED_TAGS: ELEMENTS,
  ALLOWED_ATTR: ["href", "title", "start", "align"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const LIVE_PROTOCOLS = ["http:", "https:", "mailto:"];

function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escapeHtml(text),
    image: ({ text, href }) => escapeHtml(text === "" ? href : text),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

const purifier = DOMPurify(window);
purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  const url = URL.parse(node.getAttribute("href") ?? "");
  if (url === null || !LIVE_PROTOCOLS.includes(url.protocol)) {
    node.removeAttribute("href");
    return;
  }
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

function render(token: Token): DocumentFragment {
  return purifier.sanitize(marked.parser([token]), SANITIZE);
}

/** Shows a growing text in `root`. Only the blocks whose source changed are made anew, at most once a frame. */
export class MarkdownView {
  readonly #root: HTMLElement;
  readonly #onRender: () => void;
  #blocks: { raw: string; element: HTMLElement }[] = [];
  #text = "";
  #links = "{}";
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
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.flush());
  }

  /** Shows what there is now. */
  flush(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const lexed = marked.lexer(this.#text);
    const tokens = lexed.filter((token) => token.type !== "space");
    // A definition makes links of blocks whose source stays the same.
    const links = JSON.stringify(lexed.links);
    if (links !== this.#links) for (const stale of this.#blocks.splice(0)) stale.element.remove();
    this.#links = links;
    let first = 0;
    while (first < tokens.length && this.#blocks[first]?.raw === tokens[first]?.raw) first++;
    for (const stale of this.#blocks.splice(first)) stale.element.remove();
    for (const token of tokens.slice(first)) {
      const element = document.createElement("div");
      element.append(render(token));
      this.#root.append(element);
      this.#blocks.push({ raw: token.raw, element });
    }
    this.#onRender();
  }
}
