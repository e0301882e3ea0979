// Turns a stream of ids into a stream of text, in time linear in the answer. Knows a decode function, no tokenizer.
//
// What a token adds depends on its neighbours (spaces, byte pieces of one character), so a short window of the latest ids is
// decoded twice, without and with the new one, and the difference is the new text. Half a character ends in U+FFFD: it is
// held back until its other bytes come.

const REPLACEMENT = "\ufffd";
/** A character has at most four bytes, so at most four tokens; after this many a replacement character is really there. */
const MOST_HELD = 6;

export class Detokenizer {
  /** Ids before `read` are out already; they give the context that the later ones are decoded in. */
  private window: number[] = [];
  private read = 0;

  /** @param decode must skip special tokens if they are not to be seen */
  constructor(private readonly decode: (ids: readonly number[]) => string) {}

  /** The text that became certain with this id; often "". */
  push(id: number): string {
    this.window.push(id);
    return this.advance(this.window.length - this.read > MOST_HELD);
  }

  /** What was held back, at the end of the answer. */
  flush(): string {
    return this.advance(true);
  }

  private advance(force: boolean): string {
    const before = this.decode(this.window.slice(0, this.read));
    const text = this.decode(this.window);
    if (!force && text.endsWith(REPLACEMENT)) return "";
    if (text.length <= before.length) {
      // A token without text: keep it as context, but do not let the window grow.
      if (this.window.length > 2 * MOST_HELD) this.trim();
      return "";
    }
    const added = text.slice(before.length);
    this.trim();
    return added;
  }

  /** The ids of the last piece stay, as context for the next one. */
  private trim(): void {
    this.window = this.window.slice(this.read);
    this.read = this.window.length;
  }
}
