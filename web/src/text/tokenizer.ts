// Text to ids and back with Hugging Face's tokenizer.json. Knows no GPU and no chat.
//
// As in Hugging Face's tokenizers, a special token's text inside `text` becomes that token's id, whoever wrote it; contents.ts
// keeps what users write apart.

import type { Tokenizer as HfTokenizer } from "@huggingface/tokenizers";
import { ArtifactError } from "../api/errors";
import { type AddedToken, NO_ORIGINALS, type Originals, restored } from "./contents";
import { type Vocabulary, vocabularyOf } from "./grammar/vocabulary";
import { spellingOf, tokenBytes, type TokenSpelling } from "./token-bytes";
import { announced } from "./work";

type Json = Record<string, unknown>;
type Library = typeof import("./tokenizer-library");
type Growth = InstanceType<Library["Growth"]>;

/** Characters; only few have as many. */
const LONGEST_TOKEN = 128;

/** The text of a special token in tokenizer_config.json: a string, or an object with `content`. */
function specialToken(config: Json, key: string): string | undefined {
  const value = config[key];
  if (typeof value === "string") return value;
  if (typeof value !== "object" || value === null) return undefined;
  const { content } = value as { content?: unknown };
  return typeof content === "string" ? content : undefined;
}

function tooLong(allowed: string): never {
  throw new ArtifactError({
    file: "tokenizer.json",
    what: "it makes a text too long",
    got: `more than ${allowed}`,
    remedy: "Take that file of the original model.",
  });
}

export class Tokenizer {
  /** Those that tokenizer_config.json names, `bos_token` and so on. */
  readonly specialTokens: Readonly<Record<string, string>>;
  readonly addedTokens: readonly AddedToken[];
  private readonly inner: HfTokenizer;
  private readonly special: ReadonlySet<number>;
  private readonly spelling: TokenSpelling;
  /** Of the text that is being encoded. */
  private originals = NO_ORIGINALS;
  private readonly growth: Growth;
  private readonly decoder: unknown;

  /**
   * @param tokenizer, config the parsed tokenizer.json and tokenizer_config.json
   * @param library tokenizer-library.ts
   */
  constructor(tokenizer: Json, config: Json, library: Library) {
    const preTokenizer = library.unicodeRules(tokenizer["pre_tokenizer"]);
    this.inner = announced("building the tokenizer", () => new library.Tokenizer({ ...tokenizer, pre_tokenizer: preTokenizer }, config));
    this.growth = new library.Growth(tooLong);
    for (const steps of [this.inner.normalizer, this.inner.pre_tokenizer, this.inner.decoder]) this.growth.watch(steps);
    const { type, byte_fallback: byteFallback } = tokenizer["model"] as Json;
    if (type === "Unigram" && byteFallback === true && this.inner.model !== null) library.addByteFallback(this.inner.model);
    this.addedTokens = ((tokenizer["added_tokens"] ?? []) as AddedToken[]).map(({ id, content, special }) => ({ id, content, special }));
    const specials = this.addedTokens.filter(({ special }) => special).map(({ content }) => content);
    if (this.inner.model !== null) library.withoutSpecialPieces(this.inner.model, new Set(specials));
    this.special = new Set(this.addedTokens.filter(({ special }) => special).map(({ id }) => id));
    this.spelling = spellingOf(tokenizer["decoder"]);
    this.restorePrivate();
    this.decoder = tokenizer["decoder"];
    const names = Object.keys(config).filter((key) => key.endsWith("_token"));
    this.specialTokens = Object.fromEntries(
      names.flatMap((name) => {
        const text = specialToken(config, name);
        return text === undefined ? [] : [[name, text]];
      }),
    );
  }

  /** Characters that stand for others become those when no token is looked for any more: before the text is split. */
  private restorePrivate(): void {
    type Split = (text: string, options?: unknown) => string[];
    const inner = this.inner as unknown as { pre_tokenizer: Split | null };
    const split = inner.pre_tokenizer;
    inner.pre_tokenizer = (text, options) => {
      const own = restored(text, this.originals);
      return split === null ? [own] : split(own, options);
    };
  }

  /**
   * @param addSpecialTokens what the tokenizer's post-processor adds, such as BOS; chat templates write their own
   * @param originals of the text's private characters: where one stands no special token begins
   * @throws ArtifactError where the text becomes much longer by it
   */
  encode(text: string, addSpecialTokens: boolean, originals: Originals = NO_ORIGINALS): number[] {
    this.originals = originals;
    this.growth.begin(text.length);
    return announced("tokenizer", () => this.inner.encode(text, { add_special_tokens: addSpecialTokens }).ids);
  }

  /**
   * Ids that no token has (a vocabulary padded to a round size) have no text.
   *
   * @param kept special tokens that are not skipped
   */
  decode(ids: readonly number[], skipSpecialTokens: boolean, kept?: ReadonlySet<number>): string {
    const some = kept !== undefined && kept.size > 0;
    const skipped = (id: number) => some && skipSpecialTokens && this.special.has(id) && !kept.has(id);
    const known = ids.filter((id) => this.inner.id_to_token(id) !== undefined && !skipped(id));
    if (known.length === 0) return "";
    this.growth.begin(LONGEST_TOKEN * known.length);
    // Cleaning up spaces would change text that the model meant.
    return this.inner.decode(known, { skip_special_tokens: skipSpecialTokens && !some, clean_up_tokenization_spaces: false });
  }

  /** Of a token that is looked for in texts; undefined for other texts. */
  addedTokenId(text: string): number | undefined {
    return this.addedTokens.find(({ content }) => content === text)?.id;
  }

  isSpecial(id: number): boolean {
    return this.special.has(id);
  }

  /** The UTF-8 that a token adds to an answer, which may be a part of a character's; none for an id without a token. */
  bytesOf(id: number): number[] {
    const added = this.addedTokens.find((token) => token.id === id);
    if (added !== undefined) return Array.from(new TextEncoder().encode(added.content));
    return tokenBytes(this.tokenText(id) ?? "", this.spelling);
  }

  /** The token's own text; undefined for an id outside the vocabulary. */
  tokenText(id: number): string | undefined {
    return this.inner.id_to_token(id);
  }

  /** As grammars are matched over it. @param size of the logits */
  vocabulary(size: number, stopTokenIds: readonly number[]): Vocabulary {
    const { decoder, addedTokens: added } = this;
    const tokenText = (id: number) => this.tokenText(id);
    return vocabularyOf({ decoder, added, tokenText, encode: (text) => this.encode(text, false) }, size, stopTokenIds);
  }
}
