// Which parts of the page are open. The list of conversations stays as it was left, on wide screens.

import { effect, signal } from "@preact/signals";

const SIDEBAR_KEY = "wisp.sidebar";
const WIDE = "(min-width: 64rem)";

export const isWide = (): boolean => matchMedia(WIDE).matches;

function wasClosed(): boolean {
  try {
    return localStorage.getItem(SIDEBAR_KEY) === "closed";
  } catch {
    return false;
  }
}

export const settingsOpen = signal(false);
export const personasOpen = signal(false);
export const managerOpen = signal(false);
export const deviceOpen = signal(false);
export const inspectorOpen = signal(false);
export const sidebarOpen = signal(isWide() && !wasClosed());

effect(() => {
  const state = sidebarOpen.value ? "open" : "closed";
  if (!isWide()) return;
  try {
    localStorage.setItem(SIDEBAR_KEY, state);
  } catch {
    // Then it opens anew the next time.
  }
});
