// The models that the server offers, and the form that chooses one.

import { byId, el } from "./dom";
import { address, bytes, count, parameters } from "./format";

export interface Model {
  id: string;
  name: string;
  /** Absent on servers of earlier versions, which know models that generate text alone. */
  task?: "text-generation" | "embedding";
  parameters: number;
  quantization: string;
  context: number;
  weight_bytes: number;
  variants: string[];
  suggestions: string[];
  /** Of the weights, and where they were published; null where the artifact does not say. */
  license: string | null;
  homepage: string | null;
  url: string;
}

interface Catalogue {
  models: Model[];
  invalid: { id: string; error: string }[];
}

export async function fetchCatalogue(): Promise<Catalogue> {
  const address = document.documentElement.dataset["catalogue"] ?? "/models";
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: the server answered ${response.status} ${response.statusText}`);
  return (await response.json()) as Catalogue;
}

/** License and place of publication in a line. */
function origin({ license, homepage }: Model): string {
  return `License of the weights: ${license ?? "not stated"}${homepage === null ? "" : `, from ${address(homepage)}`}`;
}

/** The list of models; `onLoad` runs when the form is submitted. */
export class Picker {
  readonly #form = byId("picker", HTMLFormElement);
  readonly #fieldset = byId("models", HTMLFieldSetElement);
  readonly #button = byId("load", HTMLButtonElement);
  #models: Model[] = [];

  constructor(
    onLoad: (model: Model) => void,
    readonly canRun: (model: Model) => boolean,
  ) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      const model = this.selected;
      if (model !== undefined && canRun(model)) onLoad(model);
    });
    this.#form.addEventListener("change", () => this.refresh());
  }

  get selected(): Model | undefined {
    const chosen = new FormData(this.#form).get("model");
    return this.#models.find((model) => model.id === chosen);
  }

  show({ models: all, invalid }: Catalogue, preselected: string | null): void {
    const models = all.filter(({ task }) => task !== "embedding");
    this.#models = models;
    const chosen = models.find((model) => model.id === preselected) ?? models[0];
    const legend = el("legend", { class: "visually-hidden" }, "Model");
    const options = models.map((model) => this.#option(model, model === chosen));
    const broken = invalid.map(({ id, error }) => el("p", { class: "notice bad" }, `${id} is not offered: ${error}`));
    const embedding = all.filter(({ task }) => task === "embedding");
    const others = embedding.map(({ id, name }) =>
      el("p", { class: "notice", "data-testid": `embeds-${id}` }, `${name} is not offered for chat: it gives embeddings of texts.`),
    );
    const empty = el(
      "p",
      { class: "notice", "data-testid": "no-models" },
      "There is no model here yet. Compile one, for example with ",
      el("code", {}, "wisp compile configs/demo"),
      ", then reload.",
    );
    this.#fieldset.replaceChildren(legend, ...options, ...(models.length === 0 ? [empty] : []), ...others, ...broken);
    this.#fieldset.setAttribute("aria-busy", "false");
    this.refresh();
  }

  showError(error: unknown): void {
    const text = error instanceof Error ? error.message : String(error);
    this.#fieldset.replaceChildren(el("p", { class: "notice bad", role: "alert" }, `The catalogue cannot be read. ${text}`));
    this.#fieldset.setAttribute("aria-busy", "false");
  }

  set hidden(hidden: boolean) {
    this.#form.hidden = hidden;
  }

  /** Whether the catalogue has been read, or has failed to be. */
  get known(): boolean {
    return this.#fieldset.getAttribute("aria-busy") === "false";
  }

  get models(): readonly Model[] {
    return this.#models;
  }

  /** Chooses the first model that is `fit`, unless the one chosen is. */
  prefer(fit: (model: Model) => boolean): void {
    const model = this.selected;
    const better = this.#models.find(fit);
    if (better === undefined || (model !== undefined && fit(model))) return;
    for (const input of this.#fieldset.querySelectorAll<HTMLInputElement>("input[name=model]")) input.checked = input.value === better.id;
    this.refresh();
  }

  /** The button follows the choice and what the device can run. */
  refresh(): void {
    for (const model of this.#models) {
      const note = this.#fieldset.querySelector<HTMLElement>(`[data-needs="${CSS.escape(model.id)}"]`);
      if (note !== null) note.hidden = this.canRun(model);
    }
    const model = this.selected;
    this.#button.disabled = model === undefined || !this.canRun(model);
    this.#button.textContent = model === undefined ? "Load" : `Load (${bytes(model.weight_bytes)})`;
  }

  focus(): void {
    if (!this.#button.disabled) this.#button.focus();
  }

  #option(model: Model, checked: boolean): HTMLElement {
    const about = `${parameters(model.parameters)} parameters, ${model.quantization}, ${count(model.context)} tokens of context`;
    return el(
      "label",
      { class: "model", "data-testid": `model-${model.id}` },
      el("input", { type: "radio", name: "model", value: model.id, checked }),
      el(
        "span",
        { class: "model-text" },
        el("strong", {}, model.name),
        el("span", { class: "muted" }, about),
        ...(model.license === null ? [] : [el("span", { class: "muted", "data-testid": "license" }, origin(model))]),
        el("span", { class: "needs", "data-needs": model.id, hidden: true }, "Needs a GPU: it is not compiled for the CPU"),
      ),
      el("span", { class: "number" }, bytes(model.weight_bytes)),
    );
  }
}
