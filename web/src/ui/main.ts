// The page: choose a model, load it, chat. This module wires the parts together and owns the engine.

import "./style.css";
import type { Engine, EngineInfo } from "../api/types";
import { tooOld } from "../api/browsers";
import { cpuMissing } from "../page/device";
import { createEngine, type WispError } from "../page/engine";
import { fetchCatalogue, Picker, type Model } from "./catalogue";
import { Chat } from "./chat";
import { deviceFacts, deviceLine, type DeviceReport, type Means, missingNotice, modelFacts, place, probeDevice, whyCpu } from "./device";
import { byId, el } from "./dom";
import { ProgressView } from "./loading";
import { keepPage, prepareIsolation } from "./service-worker";
import { Settings } from "./settings";

declare global {
  interface Window {
    /** The loaded engine, for headless tests. */
    wisp: Engine | null;
  }
}

/** A download this small needs no question first. */
const AUTOLOAD_BYTES = 50_000_000;

window.wisp = null;

const parameters = new URLSearchParams(location.search);
const start = byId("start", HTMLElement);
const chatView = byId("chat", HTMLElement);
const loadError = byId("load-error", HTMLElement);
const modelLabel = byId("model-label", HTMLElement);
const newChat = byId("new-chat", HTMLButtonElement);
const changeModel = byId("change-model", HTMLButtonElement);

let report: DeviceReport | null = null;
let loading: AbortController | null = null;
let current: Model | null = null;

const settings = new Settings();
const chat = new Chat(settings);
const picker = new Picker((model) => void load(model), canRun);
const progress = new ProgressView(() => loading?.abort());

/** What the model can run on here; variants are named after their backends. */
function meansOf(model: Model): Means {
  const has = (backend: string) => model.variants.some((name) => name.startsWith(backend));
  const cpu = report !== null && has("wasm") && cpuMissing() === undefined;
  if (report?.status === "ready" && has("webgpu")) return report.offer.software && cpu ? "cpu" : "gpu";
  return cpu ? "cpu" : "none";
}

function canRun(model: Model): boolean {
  return meansOf(model) !== "none";
}

async function probe(): Promise<void> {
  report = await probeDevice();
  byId("device-facts", HTMLElement).replaceChildren(...deviceFacts(report));
  showMeans();
}

/** What the device offers for the models of the catalogue; before they are known, for none. */
function showMeans(): void {
  if (report === null) return;
  const missing = byId("device-missing", HTMLElement);
  const all = picker.models.map(meansOf);
  const means = all.includes("cpu") ? "cpu" : report.status === "ready" ? "gpu" : "none";
  if (report.status === "missing" && picker.known) {
    missing.replaceChildren(...missingNotice(report, means, () => void probe()));
    missing.classList.toggle("bad", means === "none");
  }
  missing.hidden = report.status === "ready" || !picker.known;
  byId("device-line", HTMLElement).textContent = deviceLine(report, means);
  picker.refresh();
}

async function load(model: Model): Promise<void> {
  if (loading !== null) return;
  const controller = new AbortController();
  loading = controller;
  current = model;
  await unload();
  showStart();
  picker.hidden = true;
  progress.start(model.name);
  try {
    const engine = await createEngine(model.url, {
      backend: parameters.get("backend") ?? "auto",
      signal: controller.signal,
      onProgress: (state) => progress.update(state),
      onRecovering: (error) => onRecovering(error),
      onBackendChange: (info) => onMoved(model, info),
      onDeviceLost: (error) => onDeviceLost(model, error),
    });
    window.wisp = engine;
    showChat(model, engine);
  } catch (error) {
    if (controller.signal.aborted) {
      picker.hidden = false;
      picker.focus();
    } else {
      showLoadError(error);
    }
  } finally {
    loading = null;
    progress.stop();
  }
}

async function unload(): Promise<void> {
  const engine = window.wisp;
  window.wisp = null;
  chat.detach();
  await engine?.dispose();
}

function onDeviceLost(model: Model, error: Error): void {
  chat.detach();
  chat.showNotice(error.message, [{ label: "Load the model again", run: () => void load(model) }], true);
}

function onRecovering(error: WispError): void {
  chat.showNotice(`${error.what}. The model is being started again; then the conversation goes on by itself.`);
}

function onMoved(model: Model, info: EngineInfo): void {
  showInfo(model, info);
  chat.hideNotice();
  // The last reason is the newest; the device panel has them all.
  if (info.backend === "wasm") void explainCpu({ ...info, skipped: info.skipped.slice(-1) }, "The conversation continues");
}

/** Says that the model runs on the CPU and why, and how it gets more threads where the host gives the page only one. */
async function explainCpu(info: EngineInfo, lead: string): Promise<void> {
  const why = whyCpu(info);
  const text = `${lead} on the ${place(info)}${why === "" ? "." : `: ${why}.`}`;
  chat.showNotice(text);
  if (info.hints.length === 0 || !(await prepareIsolation())) return;
  const reload = { label: "Reload with more threads", run: () => location.reload() };
  chat.showNotice(`${text} This host gives the page one thread; after a reload it has more.`, [reload]);
}

function showStart(): void {
  loadError.hidden = true;
  start.hidden = false;
  chatView.hidden = true;
  modelLabel.hidden = newChat.hidden = changeModel.hidden = true;
  byId("device-model", HTMLElement).replaceChildren();
  document.title = "Wisp";
}

function showChat(model: Model, engine: Engine): void {
  start.hidden = true;
  chatView.hidden = false;
  showInfo(model, engine.info);
  modelLabel.hidden = newChat.hidden = changeModel.hidden = false;
  document.title = `${model.name} · Wisp`;
  settings.useModel(engine.info);
  chat.attach(engine, model.suggestions);
  if (engine.info.backend === "wasm") void explainCpu(engine.info, "This model runs");
  // A reload then loads the same model, from the browser's cache.
  parameters.set("model", model.id);
  history.replaceState(null, "", `?${parameters.toString()}`);
}

function showInfo(model: Model, info: EngineInfo): void {
  const title = `The variant chosen for this device: ${info.variant}`;
  modelLabel.replaceChildren(model.name, el("span", { class: "variant", "data-testid": "place", title }, place(info)));
  byId("device-model", HTMLElement).replaceChildren(...modelFacts(model, info));
}

function showLoadError(error: unknown): void {
  byId("load-error-text", HTMLElement).textContent = error instanceof Error ? error.message : String(error);
  loadError.hidden = false;
  picker.hidden = false;
  byId("retry", HTMLButtonElement).focus();
}

function wireDialog(id: string, opener: string): HTMLDialogElement {
  const dialog = byId(id, HTMLDialogElement);
  byId(opener, HTMLButtonElement).addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
  return dialog;
}

async function main(): Promise<void> {
  if (tooOld() !== undefined) return; // check.js says it.
  keepPage();
  wireDialog("settings", "open-settings");
  const deviceDialog = wireDialog("device", "open-device");
  byId("retry", HTMLButtonElement).addEventListener("click", () => {
    const model = picker.selected ?? current;
    if (model !== null) void load(model);
  });
  changeModel.addEventListener("click", () => {
    deviceDialog.close();
    void chat
      .newChat()
      .then(unload)
      .then(() => {
        showStart();
        picker.hidden = false;
        picker.focus();
      });
  });
  const probing = probe();
  try {
    const catalogue = await fetchCatalogue();
    const wanted = parameters.get("model");
    picker.show(catalogue, wanted);
    showMeans();
    await probing;
    if (wanted === null) picker.prefer(canRun);
    const model = picker.selected;
    const asked = model !== undefined && model.id === wanted;
    const small = catalogue.models.length === 1 && model !== undefined && model.weight_bytes < AUTOLOAD_BYTES;
    if (model !== undefined && canRun(model) && (asked || small)) await load(model);
  } catch (error) {
    picker.showError(error);
    showMeans();
  }
}

void main();
