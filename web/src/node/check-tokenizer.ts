// Encodes texts and renders conversations in Node with the very code that pages run, so that `wisp compile` can hold it
// against Hugging Face's tokenizers and Jinja. A request as JSON on stdin, an answer as JSON on stdout; browsers never
// load it. The other side is compiler/check/tokenizer.py.

import { readFileSync } from "node:fs";
import type { ChatMessage } from "../api/types";
import { chatTemplateOf } from "../text/chat-template";
import { Tokenizer } from "../text/tokenizer";

type Json = Record<string, unknown>;

interface Request {
  /** The content of tokenizer.json and of tokenizer_config.json. */
  tokenizer: string;
  config: string | null;
  texts: string[];
  template: string | null;
  bosTokenId: number | null;
  eosTokenId: number | null;
  conversations: ChatMessage[][];
}

type Outcome<T> = T | { error: string };

function attempt<T>(make: () => T): Outcome<T> {
  try {
    return make();
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

const parse = (text: string): Json => JSON.parse(text) as Json;

function answer(request: Request): Json {
  const { config, template, texts, conversations } = request;
  const tokenizer = new Tokenizer(parse(request.tokenizer), config === null ? {} : parse(config));
  const encoded = texts.map((text) =>
    attempt(() => {
      const ids = tokenizer.encode(text, false);
      return { ids, special: tokenizer.encode(text, true), decoded: tokenizer.decode(ids, true) };
    }),
  );
  if (template === null) return { encoded, rendered: [] };
  // One that is no template at all renders no conversation.
  const render = (messages: ChatMessage[]) =>
    chatTemplateOf(template, tokenizer, request.bosTokenId, request.eosTokenId).render(messages, true);
  return { encoded, rendered: conversations.map((messages) => attempt(() => ({ text: render(messages) }))) };
}

const request = JSON.parse(readFileSync(0, "utf8")) as Request;
process.stdout.write(JSON.stringify(attempt(() => answer(request))));
