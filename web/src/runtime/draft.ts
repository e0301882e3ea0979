// A text that an answer is expected to repeat in large part, token by token: which of its tokens to guess next, and whether
// guessing pays. Pure: the caller says what was said and what it cost.

/** Behind a difference the draft's text is found again by so many of the answer's last tokens, at least. */
const LEAST_MATCH = 2;
/** Where it was left, one token will do within so many of the draft. */
const NEAR = 8;
/** Matches longer than this are as good. */
const LONGEST_MATCH = 8;
/** An answer that says so many tokens of its own is not asked for the draft any more. */
const MOST_OWN = 64;
/** What guessing may have lost, in steps, until it ends for good; and how much of what it won it may lose again. */
const MOST_LOST = 8;
const MOST_SAVED = 16;
/** Steps that a verification costs until both were timed. */
const USUAL_COST = 2.5;
/** The least time is the time: what comes on top is other work. It is believed for so long. */
const GROWTH = 1.05;

/** What verifying takes beside a step, on a device. */
export class DraftCost {
  private stepMs = Infinity;
  private verifyMs = Infinity;
  private warm = false;

  /** A step took so long, alone. */
  step(ms: number): void {
    this.stepMs = Math.min(GROWTH * this.stepMs, ms);
  }

  verified(ms: number): void {
    if (this.warm) this.verifyMs = Math.min(GROWTH * this.verifyMs, ms);
    this.warm = true; // The first one finds code that was never run.
  }

  /** In steps. */
  get steps(): number {
    const cost = this.verifyMs / this.stepMs;
    return this.stepMs > 0 && this.stepMs < Infinity && cost < Infinity ? Math.max(1, cost) : USUAL_COST;
  }
}

export class Draft {
  /** Guessed tokens that the model said, and those that it did not. */
  accepted = 0;
  rejected = 0;
  /** The place of the token that comes next; undefined: nobody knows. */
  private at: number | undefined = 0;
  /** Where it was when it was last known, and how many tokens came since. */
  private left = 0;
  private since = 0;
  /** The place is a guess itself: that one token took another's place. */
  private unsure = false;
  private readonly said: number[] = [];
  private balance = 0;

  constructor(private readonly ids: readonly number[]) {}

  /** Guessing may still save something. */
  get pays(): boolean {
    return this.balance > -MOST_LOST && this.since < MOST_OWN;
  }

  /** What may come next, at most `most` tokens; none while the answer is elsewhere. */
  guess(most: number): number[] {
    return this.at === undefined ? [] : this.ids.slice(this.at, this.at + most);
  }

  /** So many guesses were verified at once, for the cost of so many steps, and so many tokens came of it. */
  verified(guessed: number, tokens: number, cost: number): void {
    this.accepted += tokens - 1;
    this.rejected += guessed - (tokens - 1);
    this.balance = Math.min(MOST_SAVED, this.balance + tokens - cost);
  }

  /** The answer's next token. */
  take(token: number): void {
    this.said.push(token);
    const { at } = this;
    if (at !== undefined && this.ids[at] === token) {
      this.unsure = false;
      this.since = 0;
      this.at = at + 1;
      if (this.at === this.ids.length) [this.at, this.left] = [undefined, 0]; // It may begin anew.
      return;
    }
    if (at !== undefined && !this.unsure) {
      // Some tokens were left out, or one took another's place.
      [this.left, this.since] = [at, 0];
      this.at = this.near() ?? at + 1;
      this.unsure = true;
      return;
    }
    this.since += 1;
    this.unsure = false;
    this.at = this.found();
  }

  /** Behind the next place nearby that has the last token. */
  private near(): number | undefined {
    const token = this.said.at(-1);
    const end = Math.min(this.ids.length, this.left + this.since + NEAR);
    for (let i = this.left; i < end; i++) if (this.ids[i] === token) return i + 1;
    return undefined;
  }

  /** Behind the place that has most of the last tokens; among equals the next one behind where the draft was left. */
  private found(): number | undefined {
    let [best, bestLength] = [undefined as number | undefined, LEAST_MATCH - 1];
    const { ids, said, left } = this;
    for (let i = 0; i < ids.length; i++) {
      const end = (left + i) % ids.length;
      let length = 0;
      while (length < LONGEST_MATCH && length <= end && length < said.length && ids[end - length] === said[said.length - 1 - length])
        length++;
      if (length > bestLength) [best, bestLength] = [end + 1, length];
    }
    return best ?? this.near();
  }
}
