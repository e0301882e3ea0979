// Rows of the KV cache that were set aside when another conversation took their place, so that going back to one does not
// process its prompt again. Bounded in bytes: the one that was used the longest time ago goes first. Knows ids, not devices.

import { commonPrefix } from "./prefill";
import type { SavedRows } from "./replay";

interface Kept {
  ids: readonly number[];
  rows: SavedRows;
}

export class Prefixes {
  /** The one used last is the last. */
  private kept: Kept[] = [];

  constructor(private readonly mostBytes: number) {}

  /** Whether rows of `ids` are worth setting aside: there is room for so many bytes, and they are not there already. */
  wants(ids: readonly number[], bytes: number): boolean {
    return bytes <= this.mostBytes && !this.kept.some((kept) => commonPrefix(kept.ids, ids) === ids.length);
  }

  /** What begins another's rows, or is beyond the bound, is dropped. */
  add(ids: readonly number[], rows: SavedRows): void {
    this.drop(({ ids: others }) => commonPrefix(others, ids) === others.length);
    this.kept.push({ ids, rows });
    let total = this.kept.reduce((sum, kept) => sum + kept.rows.bytes, 0);
    this.drop(({ rows: { bytes } }) => {
      const over = total > this.mostBytes;
      if (over) total -= bytes;
      return over;
    });
  }

  /** The rows that begin as `ids` do for longest, and for how many of them; used with that. */
  take(ids: readonly number[], atLeast: number): { rows: SavedRows; length: number } | undefined {
    const lengths = this.kept.map((kept) => commonPrefix(kept.ids, ids));
    const length = Math.max(0, ...lengths);
    const best = this.kept[lengths.indexOf(length)];
    if (best === undefined || length < atLeast) return undefined;
    this.kept = [...this.kept.filter((kept) => kept !== best), best];
    return { rows: best.rows, length };
  }

  clear(): void {
    this.drop(() => true);
  }

  private drop(which: (kept: Kept) => boolean): void {
    this.kept = this.kept.filter((kept) => {
      const dropped = which(kept);
      if (dropped) kept.rows.drop();
      return !dropped;
    });
  }
}
