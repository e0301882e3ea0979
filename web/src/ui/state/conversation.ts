// What a conversation is: its own record and one record a message. Messages form a tree, for an edited question and a second
// answer stand beside the first; the way from a leaf to the root is what is shown and sent. Knows no storage and no document.

import type { FinishReason, ToolCall, Usage } from "../../api/types";
import type { Choices } from "./choices";

export interface Message {
  id: string;
  conversation: string;
  /** The message before it; null for the first one. */
  parent: string | null;
  role: "user" | "assistant";
  content: string;
  /** Milliseconds since 1970. */
  created: number;
  /** Of answers: what the model thought before, and for how many seconds. */
  thoughts?: string;
  thoughtSeconds?: number;
  toolCalls?: ToolCall[];
  /** Why the answer ended; null while it does not, and for good where the page went away. */
  reason?: FinishReason | null;
  /** What went wrong. */
  problem?: string;
  usage?: Usage | null;
  /** The name of the model that answered. */
  model?: string;
}

export interface Conversation {
  id: string;
  title: string;
  /** Somebody gave the title, which then stays. */
  named: boolean;
  pinned: boolean;
  created: number;
  updated: number;
  /** Deleted, and kept for an undo. */
  deleted: number | null;
  /** The model that answered last, as the catalogue calls it. */
  model: string | null;
  /** What it was begun as; the choices below were the persona's then. */
  persona: { name: string; picture: string } | null;
  choices: Choices;
  /** The last message of what is shown; null while there is none. */
  leaf: string | null;
  /** The model no longer sees this message nor those before it. */
  forgotten: string | null;
}

export type Messages = ReadonlyMap<string, Message>;

const TITLE_LENGTH = 60;

/** Messages from the first one to `leaf`, which may be null. */
export function pathTo(messages: Messages, leaf: string | null): Message[] {
  const path: Message[] = [];
  const seen = new Set<string>();
  for (let id = leaf; id !== null && !seen.has(id);) {
    seen.add(id);
    const message = messages.get(id);
    if (message === undefined) break;
    path.push(message);
    id = message.parent;
  }
  return path.reverse();
}

/** Messages by the one before them, the oldest first. */
export type Children = ReadonlyMap<string | null, readonly Message[]>;

export function childrenOf(messages: Messages): Children {
  const children = new Map<string | null, Message[]>();
  for (const message of messages.values()) {
    const beside = children.get(message.parent);
    if (beside === undefined) children.set(message.parent, [message]);
    else beside.push(message);
  }
  for (const beside of children.values()) beside.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  return children;
}

/** A message and what stands beside it, the oldest first. */
export function branchesOf(children: Children, { parent, role }: Message): Message[] {
  return (children.get(parent) ?? []).filter((message) => message.role === role);
}

/** A message and all that follows it on any branch; the last one is where the newest of them lead. */
function followers(children: Children, root: string, newestOnly: boolean): string[] {
  const found = [root];
  const seen = new Set(found);
  for (let i = 0; i < found.length; i++) {
    const after = (children.get(found[i] ?? "") ?? []).filter(({ id }) => !seen.has(id));
    for (const { id } of newestOnly ? after.slice(-1) : after) {
      seen.add(id);
      found.push(id);
    }
  }
  return found;
}

/** Where the newest messages after `from` lead. */
export const leafAfter = (children: Children, from: string): string => followers(children, from, true).at(-1) ?? from;

/** A message and all that follows it on any branch. */
export const withFollowers = (children: Children, root: string): string[] => followers(children, root, false);

/** Whether `leaf` is `ancestor` or comes after it. */
export function isAfter(messages: Messages, leaf: string | null, ancestor: string | null): boolean {
  return ancestor === null || pathTo(messages, leaf).some(({ id }) => id === ancestor);
}

/** A title for a conversation that begins so. */
export function titleOf(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  const letters = Array.from(line);
  if (letters.length <= TITLE_LENGTH) return line;
  const cut = letters.slice(0, TITLE_LENGTH).join("");
  return `${cut.replace(/\s+\S*$/, "") || cut}…`;
}

/** Pinned ones first, then the latest. */
export function inOrder(conversations: Iterable<Conversation>): Conversation[] {
  return [...conversations]
    .filter(({ deleted }) => deleted === null)
    .sort((a, b) => Number(b.pinned) - Number(a.pinned) || b.updated - a.updated || (a.id < b.id ? -1 : 1));
}
