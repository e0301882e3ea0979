// Where the library of tokenizers does otherwise than what tokenizer.json means. Knows the library's shape.

import type { Tokenizer } from "@huggingface/tokenizers";

type Json = Record<string, unknown>;
type Model = NonNullable<Tokenizer["model"]>;

/** What `@huggingface/tokenizers` 0.2 leaves out for Unigram models: a character without a piece becomes its bytes. */
export function addByteFallback(model: Model): void {
  const encode = model.encode.bind(model);
  const bytesOf = (text: string): string[] =>
    Array.from(new TextEncoder().encode(text), (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  model.encode = (tokens) =>
    encode(tokens).flatMap((piece) => {
      if (model.tokens_to_ids.has(piece)) return [piece];
      const bytes = bytesOf(piece);
      return bytes.every((byte) => model.tokens_to_ids.has(byte)) ? bytes : [piece];
    });
}

/**
 * What is encoded here is text: special tokens were found before. A vocabulary may hold them as pieces too (Unigram's, and BPE's
 * that merges nothing in words it knows); what somebody wrote like one is encoded in two halves.
 */
export function withoutSpecialPieces(model: Model, specials: ReadonlySet<string>): void {
  const encode = model.encode.bind(model);
  const apart = (piece: string): string[] => {
    if (!specials.has(piece) || piece.length < 2) return [piece];
    const half = Math.ceil(piece.length / 2);
    return [piece.slice(0, half), piece.slice(half)].flatMap((part) => encode([part]).flatMap(apart));
  };
  model.encode = (tokens) => encode(tokens).flatMap(apart);
}

// Unicode's white space, for character classes: with U+0085 and without U+FEFF, where JavaScript's `\s` is the other way round.
const SPACES = "\\t-\\r\\x20\\x85\\xA0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000";
/** GPT-2's expression, by which `ByteLevel` splits unless it says otherwise. */
const GPT2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACES}\\p{L}\\p{N}]+|[${SPACES}]+(?![^${SPACES}])|[${SPACES}]+`;

/**
 * What `@huggingface/tokenizers` 0.2 takes otherwise: `Digits` splits at every number of Unicode, not at 0 to 9 alone, and
 * `ByteLevel` at Unicode's white space. The same rules as a `Split`, in a pre-tokenizer or anywhere in a sequence of them.
 */
export function unicodeRules(preTokenizer: unknown): unknown {
  if (typeof preTokenizer !== "object" || preTokenizer === null) return preTokenizer;
  const { type, pretokenizers, individual_digits: individual, use_regex: useRegex, add_prefix_space: prefix } = preTokenizer as Json;
  if (type === "Sequence" && Array.isArray(pretokenizers)) return { ...preTokenizer, pretokenizers: pretokenizers.map(unicodeRules) };
  const split = (expression: string) => ({ type: "Split", pattern: { Regex: expression }, behavior: "Isolated", invert: false });
  if (type === "Digits") return split(individual === true ? "\\p{N}" : "\\p{N}+");
  if (type !== "ByteLevel" || useRegex === false) return preTokenizer;
  const prefixed = prefix === false ? [] : [{ type: "Replace", pattern: { Regex: "(?<![\\s\\S])([^ ])" }, content: " $1" }]; // Before the split.
  return { type: "Sequence", pretokenizers: [...prefixed, split(GPT2), { ...preTokenizer, use_regex: false, add_prefix_space: false }] };
}
