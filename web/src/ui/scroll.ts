// Follows the newest text while the reader is at the end, and leaves them alone once they scroll up.

import { signal } from "@preact/signals";

const NEAR_END_PX = 60;

export class AutoScroll {
  /** Whether the end is out of sight. */
  readonly away = signal(false);
  #scroller: HTMLElement | null = null;
  #following = true;
  #lastTop = 0;

  /** Watches this element. @returns what ends it */
  attach(scroller: HTMLElement): () => void {
    this.#scroller = scroller;
    const onScroll = () => this.#onScroll();
    scroller.addEventListener("scroll", onScroll, { passive: true });
    const sizes = new ResizeObserver(() => this.follow());
    sizes.observe(scroller);
    return () => {
      scroller.removeEventListener("scroll", onScroll);
      sizes.disconnect();
      this.#scroller = null;
    };
  }

  /** Call after content grew. */
  follow(): void {
    if (this.#scroller === null) return;
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#look();
  }

  toEnd(): void {
    this.#following = true;
    this.follow();
  }

  #fromEnd(): number {
    return this.#scroller === null ? 0 : this.#scroller.scrollHeight - this.#scroller.scrollTop - this.#scroller.clientHeight;
  }

  #onScroll(): void {
    const top = this.#scroller?.scrollTop ?? 0;
    // Growing content never moves the view up: only the reader does.
    if (top < this.#lastTop - 1 && this.#fromEnd() > 2) this.#following = false;
    else if (this.#fromEnd() < NEAR_END_PX) this.#following = true;
    this.#lastTop = top;
    this.#look();
  }

  #look(): void {
    this.away.value = !this.#following && this.#fromEnd() >= NEAR_END_PX;
  }
}
