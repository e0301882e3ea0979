// The personas of this browser, after those that are there from the start.

import { computed, signal } from "@preact/signals";
import type { Fault, History } from "./history";
import { type Persona, shipped } from "./persona";

export class Personas {
  readonly own = signal<readonly Persona[]>([]);
  readonly shipped = computed(shipped);
  readonly all = computed(() => [...this.shipped.value, ...this.own.value]);
  /** Why the last change could not be kept; null once one can be again. */
  readonly fault = signal<Fault | null>(null);

  constructor(private readonly history: History) {}

  /** Those that are kept now: another tab may have made some. */
  async refresh(): Promise<void> {
    await this.#try(async () => {
      const found = await this.history.repository.personas();
      this.own.value = found.sort((a, b) => a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1));
    });
  }

  async save(persona: Persona): Promise<void> {
    this.own.value = [...this.own.value.filter(({ id }) => id !== persona.id), persona];
    await this.#try(() => this.history.repository.putPersona(persona));
  }

  async remove(id: string): Promise<void> {
    this.own.value = this.own.value.filter((persona) => persona.id !== id);
    await this.#try(() => this.history.repository.removePersona(id));
  }

  async #try(change: () => Promise<unknown>): Promise<void> {
    try {
      await change();
      this.fault.value = null;
    } catch (error) {
      this.fault.value = { message: error instanceof Error ? error.message : String(error) };
    }
  }
}
