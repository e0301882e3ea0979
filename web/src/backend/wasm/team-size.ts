// How many of the threads there are take part. Two that share what one processor has are slower than one: every dispatch ends
// when the last of them has done its part, and one that another process keeps from running holds up all. Whether it is so
// here can only be tried. Pure: the caller says how long runs took, and how much of that its own thread waited.

/** A team whose first thread waits for less of its time has threads that run. */
const WAITS = 0.3;
/** Runs that are judged together (something else takes a processor for a moment now and then), and those of a trial. */
const WINDOW_RUNS = 16;
const TRIAL_RUNS = 8;
/** Runs before a larger team is tried again: more and more, as it was in vain. */
const PATIENCE = 32;
const MOST_PATIENCE = 512;
/** A size has to be so much faster to be taken. */
const GAIN = 1.05;

export class TeamSize {
  /** All threads, half of them and so on to one. */
  private readonly sizes: readonly number[];
  private at = 0;
  /** The size on trial, and what a run of the one before took. */
  private trial: { back: number; before: number } | undefined;
  private runs = 0;
  private ms = 0;
  private waited = 0;
  /** Runs since the last trial, and until the next. */
  private since = 0;
  private patience = PATIENCE;

  constructor(threads: number) {
    const sizes: number[] = [];
    for (let size = threads; size > 1; size = Math.ceil(size / 2)) sizes.push(size);
    this.sizes = [...sizes, 1];
  }

  get size(): number {
    return this.sizes[this.at] ?? 1;
  }

  /** Work that always takes as long ran with `size` threads, in `ms`; the first thread waited for `waited` of them. */
  observe(ms: number, waited: number): void {
    this.runs += 1;
    this.since += 1;
    this.ms += ms;
    this.waited += waited;
    const { trial } = this;
    if (this.runs < (trial === undefined ? WINDOW_RUNS : TRIAL_RUNS)) return;
    const mean = this.ms / this.runs;
    const idle = this.waited / this.ms;
    this.runs = this.ms = this.waited = 0;
    if (trial !== undefined) {
      this.trial = undefined;
      this.since = 0;
      const won = mean * GAIN < trial.before;
      this.patience = won ? PATIENCE : Math.min(MOST_PATIENCE, 2 * this.patience);
      if (!won) this.at = trial.back;
      return;
    }
    const fewer = idle > WAITS && this.at + 1 < this.sizes.length && (this.since >= this.patience || this.patience === PATIENCE);
    if (fewer) this.try(this.at + 1, mean);
    else if (this.at > 0 && this.since >= this.patience) this.try(this.at - 1, mean);
  }

  private try(at: number, before: number): void {
    this.trial = { back: this.at, before };
    this.at = at;
  }
}
