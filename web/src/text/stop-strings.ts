// Finds stop strings in streamed text, also across its pieces. No part of a stop string is ever let through.

export class StopStrings {
  stopped = false;
  private held = "";

  constructor(private readonly stops: readonly string[]) {}

  /** The text that can no longer belong to a stop string. After a match `stopped` is true and nothing more comes. */
  push(text: string): string {
    if (this.stopped) return "";
    this.held += text;
    const found = this.stops.map((stop) => this.held.indexOf(stop)).filter((at) => at >= 0);
    if (found.length > 0) {
      this.stopped = true;
      return this.release(Math.min(...found), true);
    }
    return this.release(this.held.length - this.longestPartialMatch(), false);
  }

  /** What was held back, when the answer ends otherwise. */
  flush(): string {
    return this.stopped ? "" : this.release(this.held.length, true);
  }

  private release(length: number, last: boolean): string {
    const out = this.held.slice(0, length);
    this.held = last ? "" : this.held.slice(length);
    return out;
  }

  /** Length of the longest end of the held text that begins a stop string. */
  private longestPartialMatch(): number {
    let longest = 0;
    for (const stop of this.stops)
      for (let length = Math.min(stop.length - 1, this.held.length); length > longest; length--)
        if (this.held.endsWith(stop.slice(0, length))) longest = length;
    return longest;
  }
}
