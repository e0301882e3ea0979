// Keeps what people type apart from the tokens that a chat template writes, so that nobody ends a turn by writing `<|im_end|>`.
//
// In the contents, each character that a control token could begin with is exchanged, before the template runs, for one of
// Unicode's private use that stands nowhere in the conversation. It is one character in the place of one, neither space nor
// letter, so trimming, splitting, slicing, replacing and writing as JSON treat it alike; and wherever the template puts it, the
// tokenizer sees by it that no token begins there (Tokenizer.encode) and reads the character itself.
//
// What the assistant said may hold what a model says, such as `<think>`, which templates look for: there only the first
// characters of whole special tokens are exchanged. Knows texts and tokens' names; neither templates nor ids.

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

const FIRST_MARK = 0xe000;
const LAST_MARK = 0xf8ff;

/** A conversation's private characters, each with the one that it stands for. */
export type Originals = ReadonlyMap<string, string>;
export const NO_ORIGINALS: Originals = new Map();

export function restored(text: string, originals: Originals): string {
  return originals.size === 0 ? text : text.replace(/[\ue000-\uf8ff]/g, (mark) => originals.get(mark) ?? mark);
}

const firstOf = (text: string): string => String.fromCodePoint(text.codePointAt(0) ?? 0);

/** Texts by their first character, and their lengths, longest first. */
class Index {
  private readonly found = new Set<string>();
  private readonly lengths = new Map<string, number[]>();

  constructor(texts: readonly string[]) {
    for (const text of texts) {
      this.found.add(text);
      const lengths = this.lengths.get(firstOf(text)) ?? [];
      if (!lengths.includes(text.length))
        this.lengths.set(
          firstOf(text),
          [...lengths, text.length].sort((a, b) => b - a),
        );
    }
  }

  /** The longest that begins at a place. */
  at(text: string, place: number, first: string): string | undefined {
    for (const length of this.lengths.get(first) ?? []) {
      const part = text.slice(place, place + length);
      if (this.found.has(part)) return part;
    }
    return undefined;
  }
}

/** The tokens of a model that mean something to it beyond their text. */
export class ControlTokens {
  readonly firsts: readonly string[];
  private readonly ordinary: Index;
  private readonly control: Index;
  private readonly special: Index;

  /**
   * Special tokens, and those that the template writes or that look like it: Qwen's `<tool_call>` is not called special.
   * Others, such as runs of spaces or Gemma's HTML tags, are words like any.
   */
  constructor(added: readonly AddedToken[], template: string) {
    const tokens = added.filter(({ content }) => content !== "");
    const isControl = ({ content, special }: AddedToken) =>
      special || /^<\|.+\|>$/.test(content) || (/^[^\s\p{L}\p{N}]..+/u.test(content) && template.includes(content));
    const texts = (some: readonly AddedToken[]) => some.map(({ content }) => content);
    const control = tokens.filter(isControl);
    this.control = new Index(texts(control));
    this.special = new Index(texts(tokens.filter(({ special }) => special)));
    this.ordinary = new Index(texts(tokens.filter((token) => !isControl(token))));
    this.firsts = [...new Set(texts(control).map(firstOf))];
  }

  /** @param conversation all that the template is given, as JSON: what stands there is no private character */
  marks(conversation: string): Marks {
    const originals = new Map<string, string>();
    let code = FIRST_MARK;
    for (const first of this.firsts) {
      // A template may write it as JSON does beyond ASCII, too.
      while (code < LAST_MARK && (conversation.includes(String.fromCharCode(code)) || conversation.includes(escaped(code)))) code += 1;
      originals.set(String.fromCharCode(code++), first);
    }
    return new Marks(originals, this.ordinary, this.control, this.special);
  }
}

const escaped = (code: number) => `\\u${code.toString(16)}`;

export class Marks {
  private readonly byFirst: ReadonlyMap<string, string>;
  private readonly firsts: RegExp;

  constructor(
    readonly originals: Originals,
    private readonly ordinary: Index,
    private readonly control: Index,
    private readonly special: Index,
  ) {
    this.byFirst = new Map([...originals].map(([mark, first]) => [first, mark]));
    const class_ = [...this.byFirst.keys()].map((first) => `\\u{${(first.codePointAt(0) ?? 0).toString(16)}}`).join("");
    this.firsts = new RegExp(class_ === "" ? "(?!)" : `[${class_}]`, "gu");
  }

  /** A text in which no control token begins. */
  typed(text: string): string {
    let end = 0; // of an ordinary token
    return text.replace(this.firsts, (first, place: number) => {
      if (place < end) return first;
      const word = this.ordinary.at(text, place, first);
      const longer = this.control.at(text, place, first);
      if (word === undefined || (longer !== undefined && longer.length > word.length)) return this.byFirst.get(first) ?? first;
      end = place + word.length;
      return first;
    });
  }

  /** A text of the assistant's, in which no special token begins. */
  said(text: string): string {
    return text.replace(this.firsts, (first, place: number) =>
      this.special.at(text, place, first) === undefined ? first : (this.byFirst.get(first) ?? first),
    );
  }

  /** What a template made of such texts, with characters that it wrote as JSON does beyond ASCII as themselves. */
  unescaped(text: string): string {
    return text.replace(/\\u([ef][0-9a-f]{3})/g, (all, code: string) => {
      const mark = String.fromCharCode(parseInt(code, 16));
      return this.originals.has(mark) ? mark : all;
    });
  }
}

/** Every text within a JSON value, keys too. */
export function everyText(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((item) => everyText(item, change));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [change(key), everyText(item, change)]));
}
