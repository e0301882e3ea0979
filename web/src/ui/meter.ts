// How much of the context the conversation takes.

import { byId } from "./dom";
import { count } from "./format";

const NEARLY_FULL = 0.85;

export class ContextMeter {
  readonly #meter = byId("meter", HTMLElement);
  readonly #fill = byId("meter-fill", HTMLElement);
  readonly #text = byId("meter-text", HTMLElement);
  #capacity = 1;
  used = 0;

  reset(capacity: number): void {
    this.#capacity = capacity;
    this.show(0);
  }

  show(used: number): void {
    this.used = used;
    const share = Math.min(1, used / this.#capacity);
    this.#fill.style.inlineSize = `${100 * share}%`;
    this.#text.textContent = `${count(used)} / ${count(this.#capacity)} tokens`;
    this.#meter.setAttribute("aria-valuemax", String(this.#capacity));
    this.#meter.setAttribute("aria-valuenow", String(used));
    this.#meter.setAttribute("aria-valuetext", `${used} of ${this.#capacity} tokens of context used`);
    this.#meter.classList.toggle("nearly-full", share >= NEARLY_FULL);
  }
}
