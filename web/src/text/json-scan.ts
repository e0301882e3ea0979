// Finds where a JSON value ends in a text that comes in pieces. Trusts that it is JSON; knows brackets and strings alone.

export class JsonScan {
  private depth = 0;
  private quoted = false;
  private escaped = false;
  private at: number;

  /** @param start where an object, a list or a string begins */
  constructor(start = 0) {
    this.at = start;
  }

  /** Where the value ends in the text so far; undefined: not yet. Each call gets the same text, longer. */
  end(text: string): number | undefined {
    while (this.at < text.length) {
      const character = text[this.at++];
      if (this.escaped) this.escaped = false;
      else if (this.quoted && character === "\\") this.escaped = true;
      else if (character === '"') this.quoted = !this.quoted;
      else if (this.quoted) continue;
      else if (character === "{" || character === "[") this.depth += 1;
      else if (character === "}" || character === "]") this.depth -= 1;
      else continue;
      if (this.depth <= 0 && !this.quoted && !this.escaped) return this.at;
    }
    return undefined;
  }
}
