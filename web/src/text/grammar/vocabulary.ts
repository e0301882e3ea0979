// A tokenizer's vocabulary as the engine of grammars takes it. Knows tokens and how their texts are written; no grammar.

import type { AddedToken } from "../contents";
import { BYTE_OF_LETTER } from "../token-bytes";

export interface Vocabulary {
  /** Of each token, by id; none for what no answer may hold: control tokens, and ids without a token. */
  bytes: readonly Uint8Array[];
  stopTokenIds: readonly number[];
  /** Tokens whose texts, one after another, are `text` to the last byte; none where the tokenizer has no such. */
  encode(text: string): number[];
}

/** SentencePiece's space. */
const SPACE = "\u2581";

/** @param decoder, added `decoder` and `added_tokens` of tokenizer.json; @param size of the logits */
export function vocabularyOf(
  {
    decoder,
    added,
    tokenText,
    encode,
  }: { decoder: unknown; added: unknown; tokenText: (id: number) => string | undefined; encode: (text: string) => number[] },
  size: number,
  stopTokenIds: readonly number[],
): Vocabulary {
  const written = JSON.stringify(decoder ?? null);
  const byteLevel = written.includes('"ByteLevel"');
  const byteFallback = written.includes('"ByteFallback"');
  const utf8 = (text: string) => new TextEncoder().encode(text);
  const bytesOf = (token: string): Uint8Array => {
    const single = byteFallback ? /^<0x([0-9A-F]{2})>$/.exec(token)?.[1] : undefined;
    if (single !== undefined) return Uint8Array.of(parseInt(single, 16));
    if (!byteLevel) return utf8(token.replaceAll(SPACE, " "));
    return Uint8Array.from(Array.from(token).flatMap((character) => BYTE_OF_LETTER.get(character) ?? [...utf8(character)]));
  };
  const bytes = Array.from({ length: size }, (_, id) => bytesOf(tokenText(id) ?? ""));
  // Added tokens are written as they are, whatever the others are.
  for (const { id, content, special } of (Array.isArray(added) ? added : []) as AddedToken[])
    if (id < size) bytes[id] = special ? NONE : utf8(content);
  for (const id of stopTokenIds) bytes[id] = NONE;
  return {
    bytes,
    stopTokenIds,
    encode(text) {
      const wanted = utf8(text);
      const isText = (ids: readonly number[]): boolean => {
        const found = ids.flatMap((id) => [...(bytes[id] ?? NONE)]);
        return found.length === wanted.length && found.every((byte, i) => byte === wanted[i]);
      };
      const ids = encode(text);
      if (isText(ids)) return ids;
      // Some tokenizers put a space before every text.
      return isText(ids.slice(1)) ? ids.slice(1) : [];
    },
  };
}

const NONE = new Uint8Array();
