// The system prompt and the sampling parameters: what the person set, kept in this browser, over what the model suggests.

import type { ChatRequest, EngineInfo } from "../api/types";
import { byId, el } from "./dom";

const STORAGE_KEY = "wisp.settings";

type Sampling = Pick<ChatRequest, "temperature" | "top_p" | "top_k" | "min_p" | "repetition_penalty" | "max_tokens" | "seed">;
type SamplingName = keyof Sampling;

interface Control {
  name: SamplingName;
  label: string;
  help: string;
  min: number;
  max: number;
  step: number;
  /** A slider has a default of the model's; a plain number may be left empty. */
  slider: boolean;
}

const CONTROLS: Control[] = [
  {
    name: "temperature",
    label: "Temperature",
    help: "0 always takes the likeliest token; higher is more varied.",
    min: 0,
    max: 2,
    step: 0.05,
    slider: true,
  },
  {
    name: "top_p",
    label: "Top p",
    help: "Keeps the likeliest tokens that together reach this probability. 1 is off.",
    min: 0.05,
    max: 1,
    step: 0.01,
    slider: true,
  },
  { name: "top_k", label: "Top k", help: "Keeps this many of the likeliest tokens. 0 is off.", min: 0, max: 200, step: 1, slider: true },
  {
    name: "min_p",
    label: "Min p",
    help: "Drops tokens below this fraction of the likeliest one's probability. 0 is off.",
    min: 0,
    max: 0.5,
    step: 0.01,
    slider: true,
  },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    help: "Above 1 discourages tokens that are in the conversation already. 1 is off.",
    min: 0.8,
    max: 2,
    step: 0.01,
    slider: true,
  },
  {
    name: "max_tokens",
    label: "Longest answer, in tokens",
    help: "Empty: as far as the context goes.",
    min: 1,
    max: 1_000_000,
    step: 1,
    slider: false,
  },
  {
    name: "seed",
    label: "Seed",
    help: "The same seed and conversation give the same answer. Empty: a new one each time.",
    min: 0,
    max: 4_294_967_295,
    step: 1,
    slider: false,
  },
];

interface Stored {
  systemPrompt: string;
  /** `undefined`: the model's own value. */
  sampling: Partial<Record<SamplingName, number | undefined>>;
}

function read(): Stored {
  const stored: Stored = { systemPrompt: "", sampling: {} };
  try {
    const found: unknown = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "{}");
    if (typeof found !== "object" || found === null) return stored;
    if ("systemPrompt" in found && typeof found.systemPrompt === "string") stored.systemPrompt = found.systemPrompt;
    if ("sampling" in found && typeof found.sampling === "object" && found.sampling !== null) {
      const values = new Map<string, unknown>(Object.entries(found.sampling));
      for (const { name, min, max } of CONTROLS) {
        const value = values.get(name);
        if (typeof value === "number" && value >= min && value <= max) stored.sampling[name] = value;
      }
    }
  } catch {
    // Unreadable or forbidden storage: start from the model's values.
  }
  return stored;
}

export class Settings {
  readonly #stored = read();
  readonly #inputs = new Map<SamplingName, { input: HTMLInputElement; output: HTMLOutputElement | null }>();
  readonly #systemPrompt = byId("system-prompt", HTMLTextAreaElement);
  #defaults: Partial<Record<SamplingName, number>> = { temperature: 1, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1 };

  constructor() {
    const sampling = byId("sampling", HTMLDivElement);
    for (const control of CONTROLS) sampling.append(this.#field(control));
    this.#systemPrompt.value = this.#stored.systemPrompt;
    this.#systemPrompt.addEventListener("input", () => {
      this.#stored.systemPrompt = this.#systemPrompt.value;
      this.#save();
    });
    byId("reset-settings", HTMLButtonElement).addEventListener("click", () => {
      this.#stored.sampling = {};
      this.#save();
      this.#show();
    });
    this.#show();
  }

  get systemPrompt(): string {
    return this.#stored.systemPrompt.trim();
  }

  /** What to put into a request: only what the person set, the engine knows the model's own values. */
  get sampling(): Sampling {
    const request: Sampling = {};
    for (const { name } of CONTROLS) {
      const value = this.#stored.sampling[name];
      if (value !== undefined) request[name] = value;
    }
    return request;
  }

  useModel(info: EngineInfo): void {
    const { temperature, topP, topK, minP, repetitionPenalty } = info.generation;
    this.#defaults = { temperature, top_p: topP, top_k: topK, min_p: minP, repetition_penalty: repetitionPenalty };
    this.#show();
  }

  #field(control: Control): HTMLElement {
    const { name, label, help, min, max, step, slider } = control;
    const id = `setting-${name}`;
    const input = el("input", {
      id,
      type: slider ? "range" : "number",
      min,
      max,
      step,
      "data-testid": id,
      "aria-describedby": `${id}-help`,
    });
    const output = slider ? el("output", { for: id, class: "number" }) : null;
    if (!slider) input.inputMode = "numeric";
    this.#inputs.set(name, { input, output });
    input.addEventListener("input", () => {
      this.#stored.sampling[name] = input.value !== "" && input.validity.valid ? input.valueAsNumber : undefined;
      if (output !== null) output.value = input.value;
      this.#save();
    });
    const head = el("span", { class: "field-head" }, el("label", { for: id }, label), ...(output === null ? [] : [output]));
    return el("div", { class: "field" }, head, input, el("small", { id: `${id}-help`, class: "muted" }, help));
  }

  #show(): void {
    for (const [name, { input, output }] of this.#inputs) {
      const value = this.#stored.sampling[name] ?? this.#defaults[name];
      input.value = value === undefined ? "" : String(value);
      if (output !== null) output.value = String(value ?? "");
    }
  }

  #save(): void {
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(this.#stored));
    } catch {
      // Storage may be forbidden or full; the settings then last as long as the page.
    }
  }
}
