// Adds up the bytes of a load for whoever shows its progress. Knows numbers, not files.
//
// What is reported only grows, though bytes may have to come again and a variant may turn out not to start: then the numbers
// stand until the truth has caught up with them.

import type { LoadProgress } from "../../api/types";

/** Some of a load's files, whose sum is known before they come. */
export interface ProgressPart {
  expect: (bytes: number) => void;
  add: (bytes: number, fromCache: boolean) => void;
  /** They are not needed after all. */
  drop: () => void;
}

interface Sums {
  loaded: number;
  cached: number;
  /** Undefined: not known yet. */
  total: number | undefined;
}

export class ProgressMeter {
  private readonly parts = new Set<Sums>();
  private shown: LoadProgress = { phase: "manifest", loadedBytes: 0, totalBytes: 0, cachedBytes: 0, waiting: null };

  constructor(private readonly report: (progress: LoadProgress) => void) {}

  enter(phase: LoadProgress["phase"]): void {
    this.shown.phase = phase;
    this.send();
  }

  part(): ProgressPart {
    const sums: Sums = { loaded: 0, cached: 0, total: undefined };
    this.parts.add(sums);
    return {
      expect: (bytes) => {
        sums.total = bytes;
      },
      add: (bytes, fromCache) => {
        sums.loaded += bytes;
        if (fromCache) sums.cached += bytes;
        if (bytes > 0) this.shown.waiting = null;
        this.send();
      },
      drop: () => this.parts.delete(sums),
    };
  }

  /** Why nothing comes at the moment. */
  wait(reason: string | undefined): void {
    this.shown.waiting = reason ?? null;
    this.send();
  }

  /** Another load begins, of a model that had been loaded: from nothing. */
  restart(): void {
    this.parts.clear();
    this.shown = { ...this.shown, loadedBytes: 0, totalBytes: 0, cachedBytes: 0, waiting: null };
  }

  private send(): void {
    const parts = [...this.parts];
    const { shown } = this;
    shown.loadedBytes = Math.max(shown.loadedBytes, sum(parts.map(({ loaded }) => loaded)));
    shown.cachedBytes = Math.min(shown.loadedBytes, sum(parts.map(({ cached }) => cached)));
    const known = parts.length > 0 && parts.every(({ total }) => total !== undefined);
    if (known) shown.totalBytes = Math.max(shown.loadedBytes, sum(parts.map(({ total = 0 }) => total)));
    else if (shown.totalBytes > 0) shown.totalBytes = Math.max(shown.totalBytes, shown.loadedBytes);
    this.report({ ...shown });
  }
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
