// A drawer at the page's edge over the rest of it: a modal dialog of the browser's own.

import { type Signal, useSignalEffect } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
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
        <button class="quiet" aria-label="Close" title="Close (Escape)" data-testid={`close-${id}`}>
          <Icon name="close" />
        </button>
      </form>
      {children}
    </dialog>
  );
}
