// The conversations of this browser: a list that can be searched; each can be opened, renamed, pinned, exported and deleted.

import { useEffect, useRef, useState } from "preact/hooks";
import { chat, history, notices } from "../state/app";
import type { Conversation } from "../state/conversation";
import { t } from "../texts";
import { Action, Icon, Picture } from "./parts";
import { isWide, personasOpen, sidebarOpen } from "./places";

const SEARCH_MS = 120;

/** What moves conversations as files comes when somebody moves one. */
function transfer(run: (part: typeof import("./transfer")) => Promise<void>): void {
  import("./transfer").then(run).catch((error: unknown) => notices.pass({ text: error instanceof Error ? error.message : String(error) }));
}

function open(conversation: Conversation): void {
  if (!isWide()) sidebarOpen.value = false;
  void chat.show(conversation.id);
}

async function remove({ id, title }: Conversation): Promise<void> {
  const wasOpen = history.openId.value === id;
  if (wasOpen) await chat.end();
  history.delete(id);
  const undo = () => {
    history.restore(id);
    if (wasOpen && history.open.value === null) void chat.show(id);
  };
  notices.pass({ text: t("deleted", { name: title }), undo, onGone: () => history.purge(id) });
}

function Rename({ conversation: { id, title }, onEnd }: { conversation: Conversation; onEnd: () => void }) {
  const box = useRef<HTMLInputElement>(null);
  useEffect(() => box.current?.select(), []);
  const save = () => {
    history.rename(id, box.current?.value ?? "");
    onEnd();
  };
  return (
    <input
      class="rename"
      data-testid="rename-text"
      aria-label={t("sidebar.title")}
      dir="auto"
      ref={box}
      defaultValue={title}
      onBlur={save}
      onKeyDown={(event) => {
        if (event.key === "Enter") save();
        if (event.key === "Escape") {
          event.stopPropagation();
          onEnd();
        }
      }}
    />
  );
}

function Entry({ conversation }: { conversation: Conversation }) {
  const [renaming, setRenaming] = useState(false);
  const { id, pinned, persona } = conversation;
  const title = conversation.title === "" ? t("sidebar.untitled") : conversation.title;
  const current = history.openId.value === id;
  return (
    <li class={current ? "entry current" : "entry"} data-testid="conversation">
      {renaming ? (
        <Rename conversation={conversation} onEnd={() => setRenaming(false)} />
      ) : (
        <button
          type="button"
          class="entry-title"
          data-testid="open-conversation"
          dir="auto"
          title={title}
          aria-current={current ? "true" : undefined}
          onClick={() => open(conversation)}
        >
          {pinned ? <Icon name="pin" kind="pinned" /> : null}
          {persona === null ? null : <Picture picture={persona.picture} />}
          <span class="entry-text">{title}</span>
        </button>
      )}
      <details class="menu" data-testid="conversation-menu">
        <summary aria-label={t("sidebar.more", { title })} class="quiet small">
          <Icon name="more" />
        </summary>
        <div class="menu-items" onClick={({ currentTarget }) => currentTarget.closest("details")?.removeAttribute("open")}>
          <Action
            icon="pin"
            label={t(pinned ? "sidebar.unpin" : "sidebar.pin")}
            testId="pin"
            onClick={() => history.update(id, { pinned: !pinned })}
          />
          <Action icon="edit" label={t("sidebar.rename")} testId="rename" onClick={() => setRenaming(true)} />
          <Action
            icon="save"
            label={t("export")}
            testId="export-json"
            onClick={() => transfer(({ exportOne }) => exportOne(conversation, "json"))}
          />
          <Action
            icon="save"
            label={t("sidebar.markdown")}
            testId="export-markdown"
            onClick={() => transfer(({ exportOne }) => exportOne(conversation, "md"))}
          />
          <Action icon="close" label={t("delete")} testId="delete" onClick={() => void remove(conversation)} />
        </div>
      </details>
    </li>
  );
}

export function Sidebar() {
  const [query, setQuery] = useState("");
  const [found, setFound] = useState<ReadonlySet<string> | null>(null);
  const file = useRef<HTMLInputElement>(null);
  const list = history.list.value;
  useEffect(() => {
    if (query.trim() === "") {
      setFound(null);
      return;
    }
    const timer = setTimeout(() => void history.search(query.trim()).then(setFound), SEARCH_MS);
    return () => clearTimeout(timer);
  }, [query, list]);
  useEffect(() => {
    // One menu at a time, and none once something else is wanted.
    const closeMenus = (event: Event) => {
      for (const menu of document.querySelectorAll("details.menu[open]"))
        if (!menu.contains(event.target as Node)) menu.removeAttribute("open");
    };
    document.addEventListener("pointerdown", closeMenus);
    return () => document.removeEventListener("pointerdown", closeMenus);
  }, []);
  if (!sidebarOpen.value) return null;
  const shown = found === null ? list : list.filter(({ id }) => found.has(id));
  return (
    <>
      <div class="shade" onClick={() => (sidebarOpen.value = false)} />
      <aside id="sidebar" class="sidebar" data-testid="sidebar" aria-label={t("bar.conversations")}>
        <input
          type="search"
          class="search"
          data-testid="search"
          aria-label={t("sidebar.search")}
          placeholder={t("sidebar.search-short")}
          value={query}
          onInput={({ currentTarget }) => setQuery(currentTarget.value)}
        />
        <ul class="entries" data-testid="conversations">
          {shown.map((conversation) => (
            <Entry key={conversation.id} conversation={conversation} />
          ))}
        </ul>
        {shown.length > 0 ? null : <p class="muted none">{t(found === null ? "sidebar.none" : "sidebar.nothing-found")}</p>}
        <div class="sidebar-foot">
          <Action icon="person" label={t("chat.personas")} testId="sidebar-personas" onClick={() => (personasOpen.value = true)} />
          <Action icon="up" label={t("sidebar.import")} testId="import" onClick={() => file.current?.click()} />
          <Action
            icon="save"
            label={t("sidebar.export-all")}
            testId="export-all"
            disabled={list.length === 0}
            onClick={() => transfer(({ exportAll }) => exportAll())}
          />
          <input
            type="file"
            hidden
            multiple
            accept="application/json,.json"
            aria-label={t("sidebar.file")}
            data-testid="import-file"
            ref={file}
            onChange={({ currentTarget }) => {
              const files = [...(currentTarget.files ?? [])];
              transfer(({ importFiles }) => importFiles(files));
              currentTarget.value = "";
            }}
          />
        </div>
      </aside>
    </>
  );
}
