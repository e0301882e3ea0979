// The page in German.

import type { Texts } from "./en";

export const texts: Texts = {
  // The bar
  "bar.conversations": "Unterhaltungen",
  "bar.start": "Wisp, Startseite",
  "bar.variant": "Die für dieses Gerät gewählte Variante: {variant}",
  "bar.actions": "Aktionen",
  "bar.device": "Gerät",
  "bar.settings": "Einstellungen",
  newChat: "Neuer Chat",
  "page.part-failed": "Ein Teil der Seite konnte nicht geladen werden. Lade die Seite neu.",

  // Language
  "language.name": "Sprache",
  "language.browser": "Die des Browsers: {name}",
};
