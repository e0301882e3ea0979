// Conversations as files: downloads, and what somebody opens.

import { history, notices } from "../state/app";
import type { Conversation } from "../state/conversation";
import { t } from "../texts";
import { asMarkdown, fileOf, readFile, withNewIds } from "../state/transfer";

/** Offers a text as a file. */
export function download(name: string, text: string, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** A title as a file's name. */
export const fileName = (title: string): string =>
  title
    .replace(/[\p{C}\\/:*?"<>|.…]+/gu, " ")
    .trim()
    .slice(0, 60)
    .trim() || "conversation";

export async function exportOne(conversation: Conversation, kind: "json" | "md"): Promise<void> {
  const messages = await history.messagesOf(conversation.id);
  const name = `${fileName(conversation.title)}.${kind}`;
  if (kind === "md") download(name, asMarkdown(conversation, messages), "text/markdown");
  else download(name, fileOf([{ conversation, messages }]), "application/json");
}

export async function exportAll(): Promise<void> {
  const all = history.list.value.map(async (conversation) => ({ conversation, messages: await history.messagesOf(conversation.id) }));
  download("wisp-conversations.json", fileOf(await Promise.all(all)), "application/json");
}

export async function importFiles(files: readonly File[]): Promise<void> {
  let [added, known] = [0, 0];
  try {
    const read = await Promise.all(files.map(async (file) => readFile(await file.text(), file.name)));
    for (const { conversation, messages } of read.flat().map(withNewIds)) {
      if (history.import(conversation, messages)) known++;
      added++;
    }
  } catch (error) {
    notices.pass({ text: error instanceof Error ? error.message : String(error) });
    return;
  }
  notices.pass({ text: known === 0 ? t("transfer.read", { n: added }) : t("transfer.read-known", { n: added, known }) });
}
