// The page in Spanish.

import type { Texts } from "./en";

export const texts: Texts = {
  // The bar
  "bar.conversations": "Conversaciones",
  "bar.start": "Wisp, página de inicio",
  "bar.variant": "La variante elegida para este dispositivo: {variant}",
  "bar.actions": "Acciones",
  "bar.device": "Dispositivo",
  "bar.settings": "Ajustes",
  newChat: "Chat nuevo",
  "page.part-failed": "No se pudo cargar una parte de la página. Vuelve a cargarla.",

  // Language
  "language.name": "Idioma",
  "language.browser": "El del navegador: {name}",
};
