// The inspector: the loaded model's network, its kernels and its device, beside the chat where there is room, else over it.

import { useEffect, useMemo, useRef } from "preact/hooks";
import { models } from "../state/app";
import { Inspection, type Tab, TABS } from "../state/inspection";
import type { Loaded } from "../state/models";
import { t } from "../texts";
import styles from "./inspector.css?inline";
import { DeviceTab } from "./inspector-device";
import { NetworkTab } from "./inspector-network";
import { Icon } from "./parts";
import { inspectorOpen } from "./places";

/** There is room for the chat beside it. */
const BESIDE = "(min-width: 80rem)";

function useStyles(): void {
  useEffect(() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(styles);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    return () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
    };
  }, []);
}

function Tabs({ inspection }: { inspection: Inspection }) {
  const { value: current } = inspection.tab;
  const list = useRef<HTMLDivElement>(null);
  const onKey = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step === undefined ? undefined : TABS[(TABS.indexOf(current) + step + TABS.length) % TABS.length];
    if (next === undefined) return;
    inspection.tab.value = next;
    list.current?.querySelector<HTMLElement>(`#tab-${next}`)?.focus();
  };
  return (
    <div class="ins-tabs" role="tablist" aria-label={t("inspector.tabs")} ref={list} onKeyDown={onKey}>
      {TABS.map((tab) => (
        <button
          type="button"
          role="tab"
          key={tab}
          id={`tab-${tab}`}
          data-testid={`tab-${tab}`}
          aria-selected={tab === current}
          aria-controls="inspector-part"
          tabIndex={tab === current ? 0 : -1}
          onClick={() => (inspection.tab.value = tab)}
        >
          {t(`inspector.${tab}`)}
        </button>
      ))}
    </div>
  );
}

function Part({ tab, inspection }: { tab: Tab; inspection: Inspection }) {
  switch (tab) {
    case "network":
      return <NetworkTab inspection={inspection} />;
    case "device":
      return <DeviceTab inspection={inspection} />;
  }
}

function Body({ loaded }: { loaded: Loaded }) {
  const inspection = useMemo(() => new Inspection(loaded), [loaded.engine, loaded.info]);
  const { value: fault } = inspection.fault;
  return (
    <>
      <Tabs inspection={inspection} />
      <div id="inspector-part" class="ins-part" role="tabpanel" tabIndex={0} aria-labelledby={`tab-${inspection.tab.value}`}>
        {fault !== null ? (
          <p class="notice bad" role="alert">
            {fault}
          </p>
        ) : inspection.read.value === null ? (
          <p class="muted" role="status">
            {t("inspector.loading")}
          </p>
        ) : (
          <Part tab={inspection.tab.value} inspection={inspection} />
        )}
      </div>
    </>
  );
}

export function Inspector() {
  useStyles();
  const dialog = useRef<HTMLDialogElement>(null);
  const { value: loaded } = models.loaded;
  useEffect(() => {
    if (matchMedia(BESIDE).matches) dialog.current?.show();
    else dialog.current?.showModal();
  }, []);
  const close = () => (inspectorOpen.value = false);
  useEffect(() => {
    if (loaded === null) close();
  }, [loaded]);
  return (
    <dialog
      id="inspector"
      class="inspector"
      data-testid="inspector"
      aria-labelledby="inspector-title"
      ref={dialog}
      onClose={close}
      onKeyDown={(event) => {
        if (event.key === "Escape") close();
      }}
    >
      <div class="ins-head">
        <h2 id="inspector-title">{t("inspector.title")}</h2>
        <span class="muted ins-model">{loaded?.model.name}</span>
        <button type="button" class="quiet" aria-label={t("close")} title={t("close.key")} data-testid="close-inspector" onClick={close}>
          <Icon name="close" />
        </button>
      </div>
      {loaded === null ? null : <Body loaded={loaded} />}
    </dialog>
  );
}
