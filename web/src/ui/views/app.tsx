// The frame: bar, list of conversations, what is chosen or said, and the drawers.

import { signal, useComputed, useSignalEffect } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect } from "preact/hooks";
import { directionOf, language } from "../language";
import { chat, models, notices } from "../state/app";
import { place } from "../state/device";
import { t } from "../texts";
import { DeviceDrawer } from "./device";
import { LazyDrawer } from "./dialog";
import { Icon } from "./parts";
import { deviceOpen, inspectorOpen, managerOpen, personasOpen, settingsOpen, sidebarOpen } from "./places";
import { SettingsDrawer } from "./settings";
import { Sidebar } from "./sidebar";
import { Start } from "./start";
import { ToastView } from "./toast";

function Bar() {
  const { value: loaded } = models.loaded;
  return (
    <header class="bar">
      <button
        type="button"
        class="quiet"
        data-testid="open-sidebar"
        aria-expanded={sidebarOpen.value}
        aria-controls="sidebar"
        aria-label={t("bar.conversations")}
        title={t("bar.conversations")}
        onClick={() => (sidebarOpen.value = !sidebarOpen.value)}
      >
        <Icon name="list" />
      </button>
      <a class="brand" href="./" aria-label={t("bar.start")}>
        <Icon name="wisp" kind="logo" />
        <span>Wisp</span>
      </a>
      {loaded === null ? null : (
        <p id="model-label" class="model-label" data-testid="model-label">
          {loaded.model.name}
          <span class="variant" data-testid="place" title={t("bar.variant", { variant: loaded.info.variant })}>
            {place(loaded.info)}
          </span>
        </p>
      )}
      <nav class="actions" aria-label={t("bar.actions")}>
        {loaded === null ? null : (
          <button type="button" id="new-chat" class="quiet" data-testid="new-chat" title={t("newChat")} onClick={() => void chat.newChat()}>
            <Icon name="plus" />
            <span>{t("newChat")}</span>
          </button>
        )}
        <button
          type="button"
          id="open-device"
          class="quiet"
          data-testid="open-device"
          aria-haspopup="dialog"
          title={t("device.title")}
          onClick={() => (deviceOpen.value = true)}
        >
          <Icon name="chip" />
          <span>{t("bar.device")}</span>
        </button>
        <button
          type="button"
          id="open-settings"
          class="quiet"
          data-testid="open-settings"
          aria-haspopup="dialog"
          title={t("bar.settings")}
          onClick={() => (settingsOpen.value = true)}
        >
          <Icon name="sliders" />
          <span>{t("bar.settings")}</span>
        </button>
      </nav>
    </header>
  );
}

/** What shows a conversation comes while the first model loads. */
const chatView = signal<{ ChatView: ComponentType } | null>(null);

function loadChatView(): void {
  import("./chat").then(
    ({ ChatView }) => (chatView.value = { ChatView }),
    () => (models.loadError.value = t("page.part-failed")),
  );
}

/** What shows a model's inside comes when it is first wanted. */
const inspector = signal<{ Inspector: ComponentType } | null>(null);

function loadInspector(): void {
  import("./inspector").then(
    ({ Inspector }) => (inspector.value = { Inspector }),
    () => {
      inspectorOpen.value = false;
      notices.show(t("page.part-failed"), [], true);
    },
  );
}

export function App() {
  const { value: loaded } = models.loaded;
  const Inspector = inspector.value?.Inspector;
  const ChatView = chatView.value?.ChatView;
  const loads = useComputed(() => models.progress.value !== null);
  useSignalEffect(() => {
    if (loads.value && chatView.peek() === null) loadChatView();
  });
  useSignalEffect(() => {
    document.documentElement.lang = language.value;
    document.documentElement.dir = directionOf(language.value);
  });
  useSignalEffect(() => {
    if (inspectorOpen.value && inspector.peek() === null) loadInspector();
  });
  useSignalEffect(() => {
    const name = models.loaded.value?.model.name;
    document.title = name === undefined ? "Wisp" : `${name} · Wisp`;
  });
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "Escape" && document.querySelector("dialog[open]") === null) chat.stop();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  return (
    <>
      <Bar />
      <Sidebar />
      {loaded === null || ChatView === undefined ? <Start /> : <ChatView />}
      {inspectorOpen.value && Inspector !== undefined ? <Inspector /> : null}
      <ToastView />
      <p id="status" class="visually-hidden" role="status" data-testid="status">
        {notices.announcement}
      </p>
      <SettingsDrawer />
      <LazyDrawer
        id="personas"
        title={t("chat.personas")}
        open={personasOpen}
        load={() => import("./personas").then(({ Personas }) => Personas)}
      />
      <LazyDrawer
        id="manager"
        title={t("manager.title")}
        open={managerOpen}
        load={() => import("./manager").then(({ ManagerView }) => ManagerView)}
      />
      <DeviceDrawer />
    </>
  );
}
