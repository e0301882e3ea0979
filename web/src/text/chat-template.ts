// Renders a model's Jinja chat template with the variables that transformers gives it. Text in, text out.

import { Template } from "@huggingface/jinja";
import type { ChatMessage } from "../api/types";
import { ArtifactError, RequestError } from "../api/errors";
import type { Tokenizer } from "./tokenizer";
import { announced } from "./work";

/** A prompt of more characters fits no context, and memory only just. */
const MOST_CHARACTERS = 2 ** 24;

export interface TemplateTokens {
  bosToken: string | undefined;
  eosToken: string | undefined;
}

export class ChatTemplate {
  private readonly template: Template;

  /** @throws ArtifactError when the source is no template */
  constructor(
    source: string,
    private readonly tokens: TemplateTokens,
  ) {
    try {
      this.template = announced("template", () => new Template(source));
    } catch (error) {
      throw new ArtifactError({
        file: "model.json",
        what: "chat_template is no template that this page can read",
        got: messageOf(error),
        expected: "a Jinja template",
        remedy: "Correct the checkpoint's chat template and compile it again.",
      });
    }
  }

  /** @throws RequestError with the template's own words when it refuses the messages (roles out of order, for example) */
  render(messages: readonly ChatMessage[], addGenerationPrompt: boolean): string {
    const plain = messages.map(({ role, content }) => ({ role, content: textOf(content) }));
    try {
      return announced("template", () =>
        limited(
          this.template.render({
            messages: plain,
            add_generation_prompt: addGenerationPrompt,
            tools: null,
            documents: null,
            bos_token: this.tokens.bosToken ?? "",
            eos_token: this.tokens.eosToken ?? "",
          }),
        ),
      );
    } catch (error) {
      throw new RequestError({
        what: `The model's chat template refuses the messages: ${messageOf(error)}`,
        got: `roles ${plain.map(({ role }) => role).join(", ")}`,
        expected: "roles that the template accepts, usually an optional system message, then user and assistant in turn",
      });
    }
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function limited(text: string): string {
  if (text.length > MOST_CHARACTERS) throw new Error(`it makes ${text.length} characters of them, more than ${MOST_CHARACTERS}`);
  return text;
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
