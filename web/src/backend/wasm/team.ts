// How threads run one program together: words in shared memory and the rules for touching them. Knows no kernels.
//
// Every thread runs every dispatch of a program. It takes pieces of the dispatch's items until none is left, then arrives
// at a barrier; the last to arrive resets the counters and begins the next phase. So one counter of items is enough.

/** Words far apart, so that threads that spin on one do not slow down those that write another. */
const GENERATION = 0;
const PROGRAM = 1;
const TIMES = 2;
const NEXT = 32;
const ARRIVED = 64;
const PHASE = 96;
const SLEEPERS = 128;
/** Threads that take part in the order: those of lower numbers. */
const ACTIVE = 3;
/** Dispatch + 1 of the first trap, then its thread, the length of its message and its characters. */
const TRAP = 160;
const MOST_CHARACTERS = 200;
const WORDS = TRAP + 3 + MOST_CHARACTERS;

/**
 * How long a waiting thread looks again and again before it sleeps. To sleep and to be woken costs tens of microseconds,
 * more than most dispatches take; but where others want the processor too, spinning keeps the very thread from running
 * that is waited for. So a thread that has spun in vain some times in a row spins briefly, and tries again now and then.
 */
const LONG_SPIN_MS = 0.05;
const SHORT_SPIN_MS = 0.005;
const FAILURES = 2;
const TRY_AGAIN = 64;
/** Looks between two looks at the clock. */
const LOOKS = 100;

/** The processor's hint that a loop only waits; not in every engine yet. */
const pause = (Atomics as { pause?: () => void }).pause;

/** An order that is no program: go back to the event loop, where messages arrive. */
export const LEAVE = -1;

export interface Order {
  generation: number;
  program: number;
  times: number;
  active: number;
}

export interface Trap {
  dispatch: number;
  thread: number;
  message: string;
}

export class Team {
  private readonly words: Int32Array;
  /** Threads that take part in what runs. */
  active: number;
  /** This thread's spins in vain, one after another, and the barriers since the last long one. */
  private failures = 0;
  private sinceLong = 0;

  constructor(
    readonly control: SharedArrayBuffer,
    readonly threads: number,
  ) {
    this.words = new Int32Array(control);
    this.active = threads;
  }

  static create(threads: number): Team {
    return new Team(new SharedArrayBuffer(4 * WORDS), threads);
  }

  get generation(): number {
    return Atomics.load(this.words, GENERATION);
  }

  /**
   * Every helper that waits in nextOrder() begins, if it is one of those `active`. Only while none is at work, and an order
   * has a barrier: those that take part have seen it. The others may read while the next one is written; its generation is
   * odd until it is whole.
   */
  publish(program: number, times: number): void {
    const { words } = this;
    Atomics.add(words, GENERATION, 1);
    Atomics.store(words, PROGRAM, program);
    Atomics.store(words, TIMES, times);
    Atomics.store(words, ACTIVE, this.active);
    Atomics.add(words, GENERATION, 1);
    this.wake(GENERATION);
  }

  /** Waits for an order after `seen`, `idle` without looking for it. */
  nextOrder(seen: number, idle: boolean): Order {
    const { words } = this;
    for (;;) {
      if (idle || !this.spin(GENERATION, seen, LONG_SPIN_MS)) this.sleep(GENERATION, seen, Infinity);
      const { generation } = this;
      const [program, times, active] = [Atomics.load(words, PROGRAM), Atomics.load(words, TIMES), Atomics.load(words, ACTIVE)];
      if (generation % 2 === 0 && generation === this.generation) return { generation, program, times, active };
    }
  }

  /** The first of `count` items of the current dispatch that are now this thread's; beyond the last item there are none left. */
  take(count: number): number {
    return Atomics.add(this.words, NEXT, count) >>> 0;
  }

  /** This thread has done its part of the dispatch: the phase to hand to passed(). */
  arrive(): number {
    const phase = Atomics.load(this.words, PHASE);
    if (Atomics.add(this.words, ARRIVED, 1) + 1 === this.active) {
      Atomics.store(this.words, ARRIVED, 0);
      Atomics.store(this.words, NEXT, 0);
      Atomics.add(this.words, PHASE, 1);
      this.wake(PHASE);
    }
    return phase;
  }

  /** Waits until every thread has arrived; false when that took longer than `milliseconds`. */
  passed(phase: number, milliseconds: number): boolean {
    const long = this.failures < FAILURES || ++this.sinceLong >= TRY_AGAIN;
    const passed = this.spin(PHASE, phase, long ? LONG_SPIN_MS : SHORT_SPIN_MS);
    if (long) {
      this.failures = passed ? 0 : this.failures + 1;
      this.sinceLong = 0;
    }
    return passed || this.sleep(PHASE, phase, milliseconds);
  }

  /** Changes whenever any thread takes items or arrives. */
  progress(): string {
    return [NEXT, ARRIVED, PHASE].map((word) => Atomics.load(this.words, word)).join();
  }

  get trapped(): boolean {
    return Atomics.load(this.words, TRAP) !== 0;
  }

  /** Only the first is kept. Before arrive(), so that everyone sees it whole after the barrier. */
  reportTrap({ dispatch, thread, message }: Trap): void {
    if (Atomics.compareExchange(this.words, TRAP, 0, dispatch + 1) !== 0) return;
    const text = message.slice(0, MOST_CHARACTERS);
    this.words.set([thread, text.length, ...Array.from({ length: text.length }, (_, i) => text.charCodeAt(i))], TRAP + 1);
  }

  /** Between programs. */
  trap(): Trap | undefined {
    if (!this.trapped) return undefined;
    const [dispatch = 0, thread = 0, length = 0] = this.words.subarray(TRAP, TRAP + 3);
    const message = String.fromCharCode(...this.words.subarray(TRAP + 3, TRAP + 3 + length));
    return { dispatch: dispatch - 1, thread, message };
  }

  /** Until the word is no longer `old`; false when that took too long. */
  private sleep(word: number, old: number, milliseconds: number): boolean {
    const { words } = this;
    const until = performance.now() + milliseconds;
    // Counted before the value is compared again, by Atomics.wait: whoever changes the word sees the sleeper or is seen.
    Atomics.add(words, SLEEPERS, 1);
    // A notification may come late, from the phase before, when its thread was interrupted on the way: it says nothing.
    while (Atomics.load(words, word) === old) {
      const left = until - performance.now();
      if (left <= 0) break;
      Atomics.wait(words, word, old, left);
    }
    Atomics.sub(words, SLEEPERS, 1);
    return Atomics.load(words, word) !== old;
  }

  private spin(word: number, old: number, milliseconds: number): boolean {
    const { words } = this;
    for (let until = 0; ;) {
      for (let i = 0; i < LOOKS; i++) {
        if (Atomics.load(words, word) !== old) return true;
        pause?.();
      }
      const now = performance.now();
      if (until === 0) until = now + milliseconds;
      else if (now > until) return false;
    }
  }

  private wake(word: number): void {
    if (Atomics.load(this.words, SLEEPERS) > 0) Atomics.notify(this.words, word);
  }
}
