// A file of its own, tokenizer.js, which loads with a model that has a tokenizer: the library that knows tokenizer.json, what it does
// otherwise, and what bounds it.

export { Tokenizer } from "@huggingface/tokenizers";
export { Growth } from "./growth";
export { addByteFallback, unicodeRules, withoutSpecialPieces } from "./library-rules";
