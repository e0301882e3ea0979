// The choices for new conversations, kept in this browser; those of the open conversation are its own.

import { computed, signal } from "@preact/signals";
import type { EngineInfo } from "../../api/types";
import { type Choices, NOTHING_CHOSEN, readChoices, type SamplingName, withValue } from "./choices";
import type { History } from "./history";

const STORAGE_KEY = "wisp.settings";

function stored(): Choices {
  try {
    return readChoices(JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "{}"));
  } catch {
    return NOTHING_CHOSEN; // Unreadable or forbidden storage: start from the model's values.
  }
}

export class Settings {
  readonly forNew = signal<Choices>(stored());
  /** Those that the next answer follows. */
  readonly current = computed(() => this.history.open.value?.choices ?? this.forNew.value);
  /** The model's own values. */
  readonly defaults = signal<Partial<Record<SamplingName, number>>>({
    ...{ temperature: 1, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1 },
  });

  constructor(private readonly history: History) {}

  useModel({ generation: { temperature, topP, topK, minP, repetitionPenalty } }: EngineInfo): void {
    this.defaults.value = { temperature, top_p: topP, top_k: topK, min_p: minP, repetition_penalty: repetitionPenalty };
  }

  /** Of the open conversation, or of those to come. */
  change(change: Partial<Choices>): void {
    const { value: open } = this.history.open;
    if (open === null) this.#keep({ ...this.forNew.value, ...change });
    else this.history.update(open.id, { choices: { ...open.choices, ...change } });
  }

  setSampling(name: SamplingName, value: number | undefined): void {
    this.change({ sampling: withValue(this.current.value.sampling, name, value) });
  }

  /** What the open conversation has, for those to come too. */
  useForNew(): void {
    this.#keep(this.current.value);
  }

  #keep(choices: Choices): void {
    this.forNew.value = choices;
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(choices));
    } catch {
      // Storage may be forbidden or full; the settings then last as long as the page.
    }
  }
}
