// Makes of OpenAI's messages what a chat template takes, and of what it writes the prompt: roles and tools that it does not know
// in words that it does, parts of a message where it takes a text, the last message to be continued. Where a template has a way
// of its own, the prompt is transformers' to the byte; where it would leave a message out, that is refused.

import { RequestError } from "../api/errors";
import type { ChatMessage, ChatTextPart, FunctionTool } from "../api/types";
import type { ChatTemplate, Variables } from "./chat-template";
import { type ControlTokens, everyText, type Marks, NO_ORIGINALS, type Originals } from "./contents";
import { instructions, toolResponse, type ToolSupport, toolSupport } from "./tools";

export interface Turns {
  messages: readonly ChatMessage[];
  tools: readonly FunctionTool[];
  /** What the template is given besides. */
  variables: Variables;
  /** Undefined: unless the last message is continued. */
  addGenerationPrompt: boolean | undefined;
  /** Undefined: when the last message is the assistant's and calls nothing. */
  continueFinalMessage: boolean | undefined;
}

export interface Prompt {
  text: string;
  /** Of the private characters in it. */
  originals: Originals;
  /** Of the message that is continued; empty where none is. */
  continued: string;
}

/** transformers writes this behind the message that is continued, too, and cuts there. */
const CONTINUE_HERE = "CONTINUE_FINAL_MESSAGE_TAG ";

const PROBE = "\ue0a0 probe";

type Message = Record<string, unknown> & { role: string; content?: string | ChatTextPart[] | null };

const PLAIN = (text: string) => text;
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
const isAssistant = ({ role }: { role: string }) => role === "assistant";

export class TurnWriter {
  readonly tools: ToolSupport;
  private partsTaken: boolean | undefined;
  private systemTaken: boolean | undefined;

  constructor(
    private readonly template: ChatTemplate,
    private readonly controls: ControlTokens,
  ) {
    this.tools = toolSupport(template.source);
  }

  /**
   * @param asText special tokens in contents are text
   * @throws RequestError with the template's own words when it refuses the messages (roles out of order, for example)
   */
  write(turns: Turns, asText: boolean): Prompt {
    const { messages, tools, variables } = turns;
    const documents = variables["documents"] ?? null;
    const conversation = JSON.stringify([messages, tools, variables]) + this.template.source;
    const marks = asText ? this.controls.marks(conversation) : undefined;
    const typed = marks === undefined ? PLAIN : (text: string) => marks.typed(text);
    const prepared = messages.map((message) => this.prepared(message, marks));
    const given: Variables = {
      ...variables,
      ...(documents === null ? {} : { documents: everyText(documents, typed) }),
      tools: tools.length === 0 ? null : everyText(tools, typed),
    };
    const { continued, list } = this.continued(turns, prepared);
    const more = { ...given, add_generation_prompt: turns.addGenerationPrompt ?? !continued };
    const text = this.render(this.withTools(list, given), more, messages);
    this.checkAllThere(text, list, more, messages);
    const originals = marks?.originals ?? NO_ORIGINALS;
    const made = marks?.unescaped(text) ?? text;
    return { text: continued ? cut(made) : made, originals, continued: continued ? plain(messages.at(-1)?.content) : "" };
  }

  /** What answers to a prompt begin with: a model whose template knows thoughts may think, or the prompt makes it. */
  thinks(prompt: string): "open" | "maybe" | "none" {
    if (!this.template.source.includes("</think>")) return "none";
    return /<think>\s*$/.test(prompt) ? "open" : "maybe";
  }

  /** A message as the template takes it, before tools. */
  private prepared(message: ChatMessage, marks: Marks | undefined): Message {
    const change =
      marks === undefined ? PLAIN : isAssistant(message) ? (text: string) => marks.said(text) : (text: string) => marks.typed(text);
    const { content, tool_calls: calls } = message;
    const known = message.role !== "developer" || /['"]developer['"]/.test(this.template.source);
    const whole = {
      ...message,
      role: known ? message.role : "system",
      ...(Array.isArray(content) ? { content: this.takesParts() ? content : content.map(({ text }) => text).join("\n") } : {}),
      ...(calls === undefined ? {} : { tool_calls: this.tools.calls ? calls.map(withObject) : calls }),
    };
    return everyText(whole, change) as Message;
  }

  /** Whether the template goes through the parts of a message itself. */
  private takesParts(): boolean {
    this.partsTaken ??= this.writes({ role: "user", content: [{ type: "text", text: PROBE }] });
    return this.partsTaken;
  }

  private takesSystem(): boolean {
    this.systemTaken ??= this.writes({ role: "system", content: PROBE });
    return this.systemTaken;
  }

  /** Whether the template writes the text of such a message, and not the message as a list of Python's. */
  private writes(message: Message): boolean {
    const others = message.role === "user" ? [] : [{ role: "user", content: "a question" }];
    try {
      const text = this.template.fill({ messages: [message, ...others], add_generation_prompt: true });
      return text.includes(PROBE) && !/['"]type['"]/.test(text);
    } catch {
      return false;
    }
  }

  private continued(turns: Turns, messages: Message[]): { continued: boolean; list: Message[] } {
    const { continueFinalMessage, addGenerationPrompt } = turns;
    const last = messages.at(-1);
    const calls = last?.["tool_calls"] as unknown[] | undefined;
    const mayBe = last !== undefined && isAssistant(last) && (calls ?? []).length === 0 && addGenerationPrompt !== true;
    if (last === undefined || !(continueFinalMessage ?? mayBe)) return { continued: false, list: messages };
    if (addGenerationPrompt === true)
      throw new RequestError({ what: "continue_final_message and add_generation_prompt", got: "both", expected: "one of them" });
    const content = tagged(last.content ?? undefined);
    if (content === undefined)
      throw new RequestError({ what: "continue_final_message", got: "a last message without a text", expected: "a text to continue" });
    return { continued: true, list: [...messages.slice(0, -1), { ...last, content }] };
  }

  /** The messages with tools where the template looks for them, or in words. */
  private withTools(messages: readonly Message[], { tools }: Variables): Message[] {
    const support = this.tools;
    const written = messages.map((message) => {
      const calls = message["tool_calls"] as Parameters<typeof support.format.write>[0] | undefined;
      if (support.calls || calls === undefined || calls.length === 0) return message;
      const text = support.format.write(calls.map(withText));
      const said = plain(message.content);
      const content = said === "" ? text : `${said}\n${text}`;
      return { ...message, tool_calls: undefined, content };
    });
    const answered = support.results ? written : withResponses(written);
    if (support.tools === "variable" || !Array.isArray(tools)) return answered;
    const list = tools as FunctionTool[];
    if (support.tools === "none") return withInstructions(answered, instructions(list), this.takesSystem() ? "system" : "user");
    // Phi-4-mini: the functions as JSON in a field of the system message.
    const [first, ...rest] = answered;
    const text = JSON.stringify(list.map((tool) => tool.function));
    if (first?.role === "system") return [{ ...first, tools: text }, ...rest];
    return [{ role: "system", content: "", tools: text }, ...answered];
  }

  private render(messages: readonly Message[], more: Variables, asked: readonly ChatMessage[]): string {
    try {
      return this.template.fill({ ...more, messages: messages });
    } catch (error) {
      throw new RequestError({
        what: `The model's chat template refuses the messages: ${messageOf(error)}`,
        got: `roles ${asked.map(({ role }) => role).join(", ")}`,
        expected: "roles that the template accepts, usually an optional system message, then user and assistant in turn",
      });
    }
  }

  /** @throws RequestError for a message of some other role than the common two that the template leaves out */
  private checkAllThere(text: string, messages: readonly Message[], more: Variables, asked: readonly ChatMessage[]): void {
    for (const [i, { role, content }] of messages.entries()) {
      if (role === "user" || role === "assistant" || typeof content !== "string") continue;
      if (content.trim() === "" || text.includes(content.trim())) continue;
      let without: string;
      try {
        without = this.template.fill({
          ...more,
          messages: this.withTools(
            messages.filter((_, j) => j !== i),
            more,
          ),
        });
      } catch {
        continue;
      }
      if (without !== text) continue;
      throw new RequestError({
        what: `The model's chat template leaves messages[${i}] out`,
        got: `role ${asked[i]?.role ?? role}`,
        expected: "a role that it writes, usually system, user or assistant",
        remedy: "Put the text into a message of another role.",
      });
    }
  }
}

/** A message's text, whether it came whole or in parts. */
const plain = (content: Message["content"]): string =>
  Array.isArray(content) ? content.map(({ text }) => text).join("") : (content ?? "");

const withObject = (call: { function: { name: string; arguments: string } }) => {
  let given: unknown = call.function.arguments;
  try {
    const parsed: unknown = JSON.parse(call.function.arguments);
    if (typeof parsed === "object" && parsed !== null) given = parsed; // as templates expect it
  } catch {
    // What the model wrote there is no JSON: it stays a text.
  }
  return { ...call, function: { ...call.function, arguments: given } };
};

const withText = <Call extends { function: { arguments: unknown } }>(call: Call) => {
  const { arguments: given } = call.function;
  return { ...call, function: { ...call.function, arguments: typeof given === "string" ? given : JSON.stringify(given) } };
};

function tagged(content: string | ChatTextPart[] | undefined): string | ChatTextPart[] | undefined {
  if (content === undefined || typeof content === "string") return content === undefined ? undefined : content + CONTINUE_HERE;
  const last = content.at(-1);
  return last === undefined ? undefined : [...content.slice(0, -1), { ...last, text: last.text + CONTINUE_HERE }];
}

/** As transformers cuts. @throws RequestError when the template dropped the message */
function cut(text: string): string {
  const at = text.lastIndexOf(CONTINUE_HERE.trim());
  if (at < 0)
    throw new RequestError({
      what: "The last message cannot be continued",
      got: "a chat template that leaves it out, or a part of it",
      expected: "one that writes it whole",
      remedy: "Set continue_final_message to false, or leave the message out.",
    });
  const before = text.slice(0, at);
  return text.startsWith(CONTINUE_HERE, at) ? before : before.replace(/[\t-\r\x1c-\x20\x85\p{Z}]+$/u, ""); // eslint-disable-line no-control-regex -- Python's white space
}

/** Results of tools as what the user says, those that follow one another in one message. */
function withResponses(messages: readonly Message[]): Message[] {
  const found: Message[] = [];
  let open = false;
  for (const message of messages) {
    const { role, content } = message;
    if (role !== "tool" && role !== "function") {
      found.push(message);
      open = false;
      continue;
    }
    const text = toolResponse(plain(content));
    const last = found.at(-1);
    if (open && typeof last?.content === "string") last.content += `\n${text}`;
    else found.push({ role: "user", content: text });
    open = true;
  }
  return found;
}

/** Behind what the first message of this role says. */
function withInstructions(messages: readonly Message[], text: string, role: "system" | "user"): Message[] {
  const [first, ...rest] = messages;
  if (first?.role !== role) return [{ role, content: text }, ...messages];
  const said = plain(first.content);
  const content = said === "" ? text : `${said}\n\n${text}`;
  return [{ ...first, content }, ...rest];
}
