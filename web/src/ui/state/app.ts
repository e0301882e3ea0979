// The page's parts, each made once, and the order in which they start.

import { effect } from "@preact/signals";
import type { Engine } from "../../api/types";
import { t } from "../texts";
import { Chat } from "./chat";
import { History, type Remembered } from "./history";
import { Models } from "./models";
import { Notices } from "./notices";
import { Personas } from "./personas";
import { openRepository } from "./repository";
import { Settings } from "./settings";

declare global {
  interface Window {
    /** The loaded engine, for headless tests. */
    wisp: Engine | null;
  }
}

window.wisp = null;

export const notices = new Notices();
export const history = new History();
export const settings = new Settings(history);
export const models = new Models(notices);
export const personas = new Personas(history);
export const chat = new Chat(history, settings, models, notices);

/** Of this tab; null where the browser forbids it. */
function sessionMemory(): Remembered | null {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

effect(() => {
  const { value: loaded } = models.loaded;
  if (loaded !== null) settings.useModel(loaded.info);
});
effect(() => {
  const fault = history.fault.value ?? personas.fault.value;
  if (fault === null) return;
  const { message } = fault;
  notices.show(t("notice.not-kept", { error: message }), [], true);
});

export async function start(): Promise<void> {
  await history.start(await openRepository(), new BroadcastChannel("wisp.conversations"), sessionMemory());
  await personas.refresh();
  await models.start();
}
