// Follows the newest text while the reader is at the end, and leaves them alone once they scroll up.

const NEAR_END_PX = 60;

export class AutoScroll {
  readonly #scroller: HTMLElement;
  readonly #jump: HTMLButtonElement;
  #following = true;
  #lastTop = 0;

  constructor(scroller: HTMLElement, jump: HTMLButtonElement) {
    this.#scroller = scroller;
    this.#jump = jump;
    scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    jump.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.follow()).observe(scroller);
  }

  /** Call after content grew. */
  follow(): void {
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#showJump();
  }

  toEnd(): void {
    this.#following = true;
    this.follow();
  }

  #fromEnd(): number {
    return this.#scroller.scrollHeight - this.#scroller.scrollTop - this.#scroller.clientHeight;
  }

  #onScroll(): void {
    const top = this.#scroller.scrollTop;
    // Growing content never moves the view up: only the reader does.
    if (top < this.#lastTop - 1 && this.#fromEnd() > 2) this.#following = false;
    else if (this.#fromEnd() < NEAR_END_PX) this.#following = true;
    this.#lastTop = top;
    this.#showJump();
  }

  #showJump(): void {
    this.#jump.hidden = this.#following || this.#fromEnd() < NEAR_END_PX;
  }
}
