// The language that a person chose, kept in this browser; without a choice the browser's own. Knows no document.

import { signal } from "@preact/signals";
import { firstSpoken, isLanguage, type Language } from "../language";
import { speak } from "../texts";

const STORAGE_KEY = "wisp.language";

function stored(): Language | null {
  try {
    const found = localStorage.getItem(STORAGE_KEY);
    return isLanguage(found) ? found : null;
  } catch {
    return null; // Forbidden storage.
  }
}

/** Null: the browser's. */
export const chosenLanguage = signal<Language | null>(stored());

/** English, until the texts of another one have come, and where they do not. */
export function speakChosen(): Promise<void> {
  return speak(chosenLanguage.value ?? firstSpoken(navigator.languages)).catch(() => undefined);
}

export function chooseLanguage(wanted: Language | null): void {
  chosenLanguage.value = wanted;
  try {
    if (wanted === null) localStorage.removeItem(STORAGE_KEY);
    else localStorage.setItem(STORAGE_KEY, wanted);
  } catch {
    // Then it lasts as long as the page.
  }
  void speakChosen();
}
