// The bytes that a token stands for, which may be a part of a character. Knows how tokens are written; no ids.

/** GPT-2's letters for bytes: those that can be seen stand for themselves, the others are numbered on from U+0100. */
export const BYTE_OF_LETTER: ReadonlyMap<string, number> = (() => {
  const shown = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
  let next = 256;
  return new Map(Array.from({ length: 256 }, (_, byte) => [String.fromCharCode(shown(byte) ? byte : next++), byte]));
})();

export type TokenSpelling = "letters for bytes" | "text";

/** @param decoder as tokenizer.json has it */
export function spellingOf(decoder: unknown): TokenSpelling {
  return JSON.stringify(decoder ?? null).includes('"ByteLevel"') ? "letters for bytes" : "text";
}

/** @param token as the vocabulary has it, no added one */
export function tokenBytes(token: string, spelling: TokenSpelling): number[] {
  const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
  if (byte !== undefined && spelling === "text") return [parseInt(byte, 16)];
  const encode = (text: string) => Array.from(new TextEncoder().encode(text));
  if (spelling === "text") return encode(token.replace(/\u2581/g, " "));
  return Array.from(token).flatMap((letter) => BYTE_OF_LETTER.get(letter) ?? encode(letter));
}
