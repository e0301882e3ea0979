// How much longer a tokenizer may make a text. tokenizer.json is a stranger's: replacements that multiply, one behind the
// other, would fill the visitor's memory, so what they would make is counted before it is made. Knows the library's shape.

/** Characters that any text may grow by, and how many times its own length besides. Published ones grow to three times it. */
const ANY_TEXT = 2 ** 16;
const TIMES = 8;

type Step = Partial<{ config: { type?: unknown; content?: unknown }; pattern: unknown; normalize: (text: string) => string }>;
type Steps = Step & Partial<Record<"normalizers" | "tokenizers" | "decoders", readonly (Step | null)[]>>;

export class Growth {
  private left = 0;

  /** @param tooLong throws, given how much a text may grow */
  constructor(private readonly tooLong: (allowed: string) => never) {}

  /** Before a text of this length is read or written. */
  begin(length: number): void {
    this.left = ANY_TEXT + TIMES * length;
  }

  /** Counts from now on what a normalizer, a pre-tokenizer or a decoder, and those that it is made of, add to a text. */
  watch(step: object | null): void {
    if (step === null) return;
    const it = step as Steps;
    for (const inner of [...(it.normalizers ?? []), ...(it.tokenizers ?? []), ...(it.decoders ?? [])]) this.watch(inner);
    if (it.config?.type === "Replace" && it.pattern instanceof RegExp) it.pattern = this.counting(it.pattern);
    else if (it.config?.type === "Prepend" && it.normalize !== undefined) {
      const normalize = it.normalize.bind(step);
      it.normalize = (text) => {
        const longer = normalize(text);
        this.spend(longer.length - text.length);
        return longer;
      };
    }
  }

  /** What stands in a pattern's place for `replaceAll`. */
  private counting(pattern: RegExp): { [Symbol.replace]: (text: string, content: string) => string } {
    return {
      [Symbol.replace]: (text, content) => {
        const matches = (text.length + 1) * content.length <= this.left && !content.includes("$") ? 0 : count(text, pattern);
        if (added(text.length, content, matches) > this.left) this.spend(Infinity);
        const replaced = text.replaceAll(pattern, content);
        this.spend(replaced.length - text.length);
        return replaced;
      },
    };
  }

  private spend(characters: number): void {
    this.left -= Math.max(0, characters);
    if (this.left < 0) this.tooLong(`${TIMES} times its length and ${ANY_TEXT} characters`);
  }
}

function count(text: string, pattern: RegExp): number {
  let matches = 0;
  for (const found of text.matchAll(pattern)) matches += found.length > 0 ? 1 : 0;
  return matches;
}

/** At most: `$1` and `$&` repeat what was matched, "$`" and "$'" all that is before it or behind it. */
function added(length: number, content: string, matches: number): number {
  const repeated = content.split("$").length - 1;
  const around = /\$[`']/.test(content) ? matches : 1;
  return matches * content.length + repeated * around * length;
}
