// Markdown that a model writes, as elements.
//
// The text is untrusted. HTML in it is shown as text, images become their description, and what marked makes of the rest
// passes DOMPurify with a short list of elements before it reaches the page. Only http, https and mailto links are live.

import DOMPurify, { type Config } from "dompurify";
import { Lexer, Marked, type Token } from "marked";

const ELEMENTS = "a p br hr strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td".split(" ");

const SANITIZE: Config & { RETURN_DOM_FRAGMENT: true } = {
  ALLOWED_TAGS: ELEMENTS,
  ALLOWED_ATTR: ["href", "title", "start", "align", "data-language"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const LIVE_PROTOCOLS = ["http:", "https:", "mailto:"];

function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** What the line that opens code says its language is; empty where it does not. */
export function languageOf(info: string): string {
  return /^\s*([\w+#.-]{1,20})/.exec(info)?.[1]?.toLowerCase() ?? "";
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    code: ({ text, lang = "" }) => {
      const language = languageOf(lang);
      const attribute = language === "" ? "" : ` data-language="${escapeHtml(language)}"`;
      return `<pre><code${attribute}>${escapeHtml(text.replace(/\n$/, ""))}\n</code></pre>\n`;
    },
    html: ({ text }) => escapeHtml(text),
    image: ({ text, href }) => escapeHtml(text === "" ? href : text),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** Empty where the address is not absolute. */
function protocolOf(address: string): string {
  try {
    return new URL(address).protocol;
  } catch {
    return "";
  }
}

const purifier = DOMPurify(window);
purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  if (!LIVE_PROTOCOLS.includes(protocolOf(node.getAttribute("href") ?? ""))) {
    node.removeAttribute("href");
    return;
  }
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** Where `[label]` leads, by label as marked writes it. */
export type LinkTargets = Record<string, { href: string; title: string | undefined }>;

export interface Lexed {
  /** The blocks of a source in order, blank lines among them. */
  tokens: Token[];
  /** What was given, and what the source itself defines. */
  links: LinkTargets;
}

/** The blocks of a source that knows these link targets. Throws RangeError for a source nested too deeply. */
export function lexBlocks(source: string, links: LinkTargets): Lexed {
  const lexer = new Lexer(marked.defaults);
  Object.assign(lexer.tokens.links, links);
  const tokens = lexer.lex(source);
  return { tokens: [...tokens], links: { ...tokens.links } as LinkTargets };
}

/** Blocks as clean elements. */
export function render(tokens: Token[]): DocumentFragment {
  return purifier.sanitize(marked.parser(tokens), SANITIZE);
}
