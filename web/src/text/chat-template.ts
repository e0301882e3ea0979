// Renders a model's Jinja chat template with the variables that transformers gives it. Text in, text out.

import { Template } from "@huggingface/jinja";
import type { ChatMessage } from "../api";
import { RequestError } from "../errors";

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
