// What the page tells a person outside of the conversation: one notice at a time, a passing word with an undo, and what is read
// out to those who do not see the page. Knows no document.

import { signal } from "@preact/signals";

export interface NoticeAction {
  label: string;
  run: () => void;
}

export interface Notice {
  text: string;
  actions: NoticeAction[];
  bad: boolean;
}

export interface Toast {
  text: string;
  undo?: () => void;
  /** When it goes without an undo. */
  onGone?: () => void;
}

const TOAST_MS = 8000;

export class Notices {
  readonly notice = signal<Notice | null>(null);
  readonly toast = signal<Toast | null>(null);
  readonly announcement = signal("");
  #timer: ReturnType<typeof setTimeout> | undefined;

  show(text: string, actions: NoticeAction[] = [], bad = false): void {
    this.notice.value = { text, actions, bad };
  }

  hide(): void {
    this.notice.value = null;
  }

  announce(text: string): void {
    this.announcement.value = text;
  }

  /** For some seconds, or until the next one. */
  pass(toast: Toast): void {
    this.#end();
    this.toast.value = toast;
    this.announce(toast.text);
    this.#timer = setTimeout(() => this.#end(), TOAST_MS);
  }

  undo(): void {
    const toast = this.toast.value;
    clearTimeout(this.#timer);
    this.toast.value = null;
    toast?.undo?.();
  }

  dismiss(): void {
    this.#end();
  }

  #end(): void {
    clearTimeout(this.#timer);
    const toast = this.toast.value;
    this.toast.value = null;
    toast?.onGone?.();
  }
}
