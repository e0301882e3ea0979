// A drawer at the page's edge over the rest of it: a modal dialog of the browser's own.

import { type Signal, useSignal, useSignalEffect } from "@preact/signals";
import type { ComponentChildren, ComponentType } from "preact";
import { useRef } from "preact/hooks";
import { t } from "../texts";
import { Icon } from "./parts";

interface DrawerProps {
  id: string;
  title: string;
  open: Signal<boolean>;
  children: ComponentChildren;
}

export function Drawer({ id, title, open, children }: DrawerProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useSignalEffect(() => {
    if (open.value && dialog.current?.open === false) dialog.current.showModal();
    if (!open.value && dialog.current?.open === true) dialog.current.close();
  });
  return (
    <dialog
      id={id}
      class="drawer"
      data-testid={id}
      aria-labelledby={`${id}-title`}
      ref={dialog}
      onClose={() => (open.value = false)}
      onClick={(event) => {
        if (event.target === dialog.current) open.value = false; // the backdrop
      }}
    >
      <form method="dialog" class="drawer-head">
        <h2 id={`${id}-title`}>{title}</h2>
        <button class="quiet" aria-label={t("close")} title={t("close.key")} data-testid={`close-${id}`}>
          <Icon name="close" />
        </button>
      </form>
      {children}
    </dialog>
  );
}

interface LazyDrawerProps extends Omit<DrawerProps, "children"> {
  load: () => Promise<ComponentType>;
}

/** One whose contents come when it is first opened. */
export function LazyDrawer({ load, ...props }: LazyDrawerProps) {
  const contents = useSignal<{ Contents: ComponentType } | null>(null);
  const failed = useSignal(false);
  useSignalEffect(() => {
    if (!props.open.value || contents.peek() !== null) return;
    failed.value = false;
    load().then(
      (Contents) => (contents.value = { Contents }),
      () => (failed.value = true),
    );
  });
  const Contents = contents.value?.Contents;
  return (
    <Drawer {...props}>
      {Contents === undefined ? (
        <p class="drawer-body muted" role="status">
          {t(failed.value ? "drawer.failed" : "loading")}
        </p>
      ) : (
        <Contents />
      )}
    </Drawer>
  );
}
