// Adds up what was done of files whose sum is known. Knows numbers.

import type { StorageProgress } from "../api/storage";

export class FileMeter {
  private readonly shown: StorageProgress;

  constructor(
    entries: Iterable<{ bytes: number }>,
    private readonly report: (progress: StorageProgress) => void = () => undefined,
  ) {
    const sizes = [...entries].map(({ bytes }) => bytes);
    const totalBytes = sizes.reduce((sum, bytes) => sum + bytes, 0);
    this.shown = { file: null, filesDone: 0, files: sizes.length, doneBytes: 0, totalBytes, waiting: null };
    this.send();
  }

  /** @param bytes negative: they have to come again */
  add(file: string, bytes: number): void {
    this.shown.file = file;
    this.shown.doneBytes += bytes;
    if (bytes > 0) this.shown.waiting = null;
    this.send();
  }

  finish(file: string): void {
    this.shown.file = file;
    this.shown.filesDone += 1;
    this.send();
  }

  wait(reason: string | undefined): void {
    this.shown.waiting = reason ?? null;
    this.send();
  }

  private send(): void {
    this.report({ ...this.shown });
  }
}
