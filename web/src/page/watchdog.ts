// Decides when a worker hangs: by pings that stay unanswered, counted rather than timed, so that a page that slept, or whose
// timers the browser slows down, is never in a hurry. Knows of text work what was announced; computing may take its time.

import type { TextWork } from "../protocol/messages";

export interface WatchdogOptions {
  ping: () => void;
  /** Whether anybody waits for an answer; work on text is watched anyway. */
  busy: () => boolean;
  /** Once, the last thing that the watchdog does. */
  onHang: (work: TextWork | undefined, seconds: number) => void;
  intervalMs?: number;
  /** A worker that others use has to say something soon: one that hangs already never does. */
  shared?: boolean;
}

const INTERVAL_MS = 1000;
/** Unanswered pings until a worker hangs, at its work on text: a prompt of 100,000 tokens takes a tenth of that. */
const TEXT_PINGS: Record<TextWork, number> = { template: 10, tokenizer: 10, "building the tokenizer": 60, grammar: 20 };
/** Somebody who pressed Stop does not wait so long. */
const HURRIED_PINGS = 2;
/** At anything else, such as a long kernel of a slow processor. */
const OTHER_PINGS = 300;
/** Until a shared worker says its first word; it may have to be downloaded before. */
const FIRST_PINGS = 20;

export class Watchdog {
  private readonly timer: ReturnType<typeof setInterval>;
  private work: TextWork | undefined;
  private unanswered = 0;
  private hurried = false;
  private greeted = false;

  constructor(private readonly options: WatchdogOptions) {
    this.timer = setInterval(() => this.tick(), options.intervalMs ?? INTERVAL_MS);
  }

  /** The worker said that it begins this, or with undefined that it has ended. */
  announce(work: TextWork | undefined): void {
    this.work = work;
    this.heard();
  }

  /** The worker said something. */
  heard(): void {
    this.greeted = true;
    this.unanswered = 0;
    this.hurried = false;
  }

  /** What runs is not wanted any more. */
  hurry(): void {
    this.hurried = true;
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private tick(): void {
    const { busy, ping, onHang, intervalMs = INTERVAL_MS, shared = false } = this.options;
    if (this.unanswered === 0) {
      if (!busy() && this.work === undefined) return;
      this.unanswered = 1;
      ping();
      return;
    }
    const { work } = this;
    const silent = shared && !this.greeted ? FIRST_PINGS : OTHER_PINGS;
    const most = work === undefined ? silent : Math.min(TEXT_PINGS[work], this.hurried ? HURRIED_PINGS : Infinity);
    if (this.unanswered++ < most) return;
    this.stop();
    onHang(work, (most * intervalMs) / 1000);
  }
}
