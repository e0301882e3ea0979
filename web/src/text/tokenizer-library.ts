// A file of its own, tokenizer.js, which loads with a model that has a tokenizer: the library that knows tokenizer.json.

export { Tokenizer } from "@huggingface/tokenizers";
