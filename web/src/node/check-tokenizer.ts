// Encodes texts and renders conversations in Node with the very code that pages run, so that `wisp compile` can hold it
// against Hugging Face's tokenizers and Jinja. A request as JSON on stdin, an answer as JSON on stdout; browsers never
// load it. The other side is compiler/check/tokenizer.py.

import { readFileSync } from "node:fs";
import { fail } from "../artifact/checks";
import { checkTree } from "../artifact/template-tree";
import { ChatTemplate, type Program, specialTokensOf, type TemplateMessage } from "../text/chat-template";
import * as library from "../text/tokenizer-library";
import { treeProgram } from "../text/tree-program";
import { ControlTokens, restored } from "../text/contents";
import { Tokenizer } from "../text/tokenizer";
import { type Turns, TurnWriter } from "../text/turns";

type Json = Record<string, unknown>;

interface Request {
  /** The content of tokenizer.json and of tokenizer_config.json. */
  tokenizer: string;
  config: string | null;
  texts: string[];
  /** The template's syntax tree, as in model.json. */
  template: unknown;
  bosTokenId: number | null;
  eosTokenId: number | null;
  /** Messages, and what else the template is given, a set a conversation. */
  given: (Json & { messages: TemplateMessage[] })[];
  /** The template's text and conversations as chat requests have them, whose prompts are wanted. */
  source?: string;
  turns?: { turns: Turns; asText: boolean }[];
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
  const { config, texts } = request;
  const tokenizer = new Tokenizer(parse(request.tokenizer), config === null ? {} : parse(config), library);
  const encoded = texts.map((text) =>
    attempt(() => {
      const ids = tokenizer.encode(text, false);
      return { ids, special: tokenizer.encode(text, true), decoded: tokenizer.decode(ids, true) };
    }),
  );
  if (request.template === null) return { encoded, rendered: [], untaken: [] };
  const tree = checkTree(request.template, "chat_template_tree", (path, got, expected) => fail("model.json", path, got, expected));
  const branches = new Branches(tree);
  const special = specialTokensOf(tokenizer, request.bosTokenId, request.eosTokenId);
  const template = new ChatTemplate(treeProgram(tree, branches.take), special, "");
  const rendered = request.given.map((variables) => attempt(() => ({ text: template.fill(variables) })));
  const written = prompts(request, tokenizer, treeProgram(tree));
  return { encoded, rendered, untaken: branches.untaken(), written };
}

function prompts({ turns = [], source = "", bosTokenId, eosTokenId }: Request, tokenizer: Tokenizer, program: Program): Outcome<Json>[] {
  const template = new ChatTemplate(program, specialTokensOf(tokenizer, bosTokenId, eosTokenId), source);
  const writer = new TurnWriter(template, new ControlTokens(tokenizer.addedTokens, source));
  return turns.map(({ turns: given, asText }) =>
    attempt(() => {
      const { text, originals } = writer.write(given, asText);
      return { text: restored(text, originals), ids: tokenizer.encode(text, false, originals) };
    }),
  );
}

/** Which ways there are through a template, and which of them were gone. */
class Branches {
  private readonly open = new Map<unknown, Set<number>>();

  constructor(tree: unknown) {
    this.find(tree);
  }

  private find(node: unknown): void {
    if (!Array.isArray(node)) return;
    const [kind, second, , , otherwise] = node as unknown[];
    const twofold = kind === "CondExpr" || (kind === "For" && Array.isArray(otherwise) && otherwise.length > 0);
    const ways = kind === "If" && Array.isArray(second) ? second.length + 1 : twofold ? 2 : kind === "For" ? 1 : 0;
    if (ways > 0) this.open.set(node, new Set(Array.from({ length: ways }, (_, i) => i)));
    for (const part of node) this.find(part);
  }

  take = (place: unknown, branch: number): void => {
    this.open.get(place)?.delete(branch);
  };

  /** The beginning of each node that is left, with the numbers of its ways. */
  untaken(): string[] {
    const left = [...this.open].filter(([, ways]) => ways.size > 0);
    return left.map(([node, ways]) => `${[...ways].join(" and ")} of ${JSON.stringify(node).slice(0, 200)}`);
  }
}

const request = JSON.parse(readFileSync(0, "utf8")) as Request;
process.stdout.write(JSON.stringify(attempt(() => answer(request))));
