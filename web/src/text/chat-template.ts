// Renders a model's chat template with the variables that transformers gives it. Text in, text out.

import { ArtifactError } from "../api/errors";
import { MOST_CHARACTERS_AT_ONCE, TemplateError } from "./jinja/budget";
import type { Tokenizer } from "./tokenizer";
import { announced } from "./work";

/** A message as a template sees it, and whatever else a template is given: JSON values. */
export type TemplateMessage = Readonly<Record<string, unknown>>;
export type Variables = Readonly<Record<string, unknown>>;

/** A template that can be run. */
export type Program = (variables: Variables) => string;

type Parser = typeof import("./template-parser");
const loadParser = () =>
  import(
    /* @vite-ignore */ /* turbopackIgnore: true */ new URL(/* @vite-ignore */ "./template.js", import.meta.url).href
  ) as Promise<Parser>;

/**
 * Of an artifact without a tree: by a parser in JavaScript, which takes a part of Jinja2 otherwise, and loads only here.
 *
 * @throws ArtifactError when the source is no template
 */
export async function sourceProgram(source: string, load: () => Promise<Parser> = loadParser): Promise<Program> {
  const { parseTemplate } = await load();
  try {
    const run = announced("template", () => parseTemplate(source));
    return (variables) => {
      const text = run({ ...variables, bos_token: variables["bos_token"] ?? "", eos_token: variables["eos_token"] ?? "" });
      if (text.length > MOST_CHARACTERS_AT_ONCE)
        throw new Error(`it makes ${text.length} characters of them, more than ${MOST_CHARACTERS_AT_ONCE}`);
      return text;
    };
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

export class ChatTemplate {
  /**
   * @param specialTokens `bos_token`, `eos_token` and so on, those that there are
   * @param source the template's text, which says what it knows of
   */
  constructor(
    private readonly program: Program,
    private readonly specialTokens: Readonly<Record<string, string>>,
    readonly source: string,
  ) {}

  /** Exactly what transformers makes of these messages and variables. @throws TemplateError */
  fill({ messages, ...more }: Variables & { messages: readonly TemplateMessage[] }): string {
    const given = { messages: messages.map(normalized), tools: null, documents: null, ...this.specialTokens, ...more };
    return announced("template", () => {
      try {
        return this.program(given);
      } catch (error) {
        // Too deep for this stack, where Python would have said so too.
        throw error instanceof RangeError ? new TemplateError("maximum recursion depth exceeded") : error;
      }
    });
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const REASONING = ["reasoning_content", "thinking", "reasoning"];

/** As transformers does it: without what is null, and its reasoning under the first two names, whichever it has. */
function normalized(given: TemplateMessage): TemplateMessage {
  const message = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined));
  const found = REASONING.map((name) => message[name]).find((value) => value !== undefined);
  return found === undefined ? message : { thinking: found, ...message, reasoning_content: found };
}

/** Special tokens as the tokenizer names them, else as the model's ids do. */
export function specialTokensOf(
  tokenizer: Tokenizer,
  bosTokenId: number | null | undefined,
  eosTokenId: number | null | undefined,
): Record<string, string> {
  const text = (id: number | null | undefined) => (id === null || id === undefined ? undefined : tokenizer.tokenText(id));
  const [bos, eos] = [text(bosTokenId), text(eosTokenId)];
  return { ...(bos === undefined ? {} : { bos_token: bos }), ...(eos === undefined ? {} : { eos_token: eos }), ...tokenizer.specialTokens };
}
