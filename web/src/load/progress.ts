// Adds up the bytes of a load for whoever shows its progress. Knows numbers, not files.

import type { LoadProgress } from "../api";

/** Adds up what has arrived, of what this load needs. */
export class ProgressMeter {
  private state: LoadProgress = { phase: "manifest", loadedBytes: 0, totalBytes: 0, cachedBytes: 0 };
  private common = this.state;

  constructor(private readonly report: (progress: LoadProgress) => void) {}

  enter(phase: LoadProgress["phase"]): void {
    this.state.phase = phase;
    this.send();
  }

  add(bytes: number, fromCache: boolean): void {
    this.state.loadedBytes += bytes;
    if (fromCache) this.state.cachedBytes += bytes;
    this.send();
  }

  /** What has arrived so far serves every variant. */
  keep(): void {
    this.common = { ...this.state };
  }

  /** A variant is started: of what it needs for itself nothing is here yet. */
  restart(): void {
    this.state = { ...this.common };
  }

  expect(bytes: number): void {
    this.state.totalBytes = this.common.loadedBytes + bytes;
  }

  private send(): void {
    this.report({ ...this.state });
  }
}
