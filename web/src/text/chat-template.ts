// Renders a model's Jinja chat template with the variables that transformers gives it. Text in, text out.

import { Template } from "@huggingface/jinja";
import type { ChatMessage } from "../api";
import { RequestError } from "../errors";
import type { Tokenizer } from "./tokenizer";

export interface TemplateTokens {
  bosToken: string | undefined;
  eosToken: string | undefined;
}

export class ChatTemplate {
  private template: Template | undefined;

  constructor(
    private readonly source: string,
    private readonly tokens: TemplateTokens,
  ) {}

  /** @throws RequestError with the template's own words when it refuses the messages (roles out of order, for example) */
  render(messages: readonly ChatMessage[], addGenerationPrompt: boolean): string {
    const plain = messages.map(({ role, content }) => ({ role, content: textOf(content) }));
    try {
      this.template ??= new Template(this.source);
      return this.template.render({
        messages: plain,
        add_generation_prompt: addGenerationPrompt,
        tools: null,
        documents: null,
        bos_token: this.tokens.bosToken ?? "",
        eos_token: this.tokens.eosToken ?? "",
      });
    } catch (error) {
      throw new RequestError({
        what: `The model's chat template refuses the messages: ${error instanceof Error ? error.message : String(error)}`,
        got: `roles ${plain.map(({ role }) => role).join(", ")}`,
        expected: "roles that the template accepts, usually an optional system message, then user and assistant in turn",
      });
    }
  }
}

function textOf(content: ChatMessage["content"]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("");
}

/** A model's template, with its special tokens as the tokenizer names them, else as the model's ids do. */
export function chatTemplateOf(
  source: string,
  tokenizer: Tokenizer,
  bosTokenId: number | null | undefined,
  eosTokenId: number | null | undefined,
): ChatTemplate {
  const text = (id: number | null | undefined) => (id === null || id === undefined ? undefined : tokenizer.tokenText(id));
  return new ChatTemplate(source, {
    bosToken: tokenizer.bosToken ?? text(bosTokenId),
    eosToken: tokenizer.eosToken ?? text(eosTokenId),
  });
}
