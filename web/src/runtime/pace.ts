// How many decode steps to keep in flight: enough to hide the readback, few enough that stopping feels instant. Pure.

const QUEUE_MS = 100;
const SLOW_STEP_MS = 50;
/** About one frame: more steps a submit would make the text stutter. */
const SUBMIT_MS = 16;
const MOST_IN_FLIGHT = 64;
const MOST_A_SUBMIT = 8;

export class Pace {
  /** Smoothed milliseconds of a decode step; undefined until one was timed. */
  private stepMs: number | undefined;

  /** `steps` finished `ms` after those before them. */
  observe(ms: number, steps: number): void {
    const step = ms / steps;
    this.stepMs = this.stepMs === undefined ? step : 0.7 * this.stepMs + 0.3 * step;
  }

  /** Most steps that may be under way. */
  get inFlight(): number {
    if (this.stepMs === undefined || this.stepMs > SLOW_STEP_MS) return 1;
    return Math.min(MOST_IN_FLIGHT, Math.max(2, Math.floor(QUEUE_MS / Math.max(this.stepMs, 0.1))));
  }

  /** Steps to put in one submit; at least two submits fit into inFlight. */
  get perSubmit(): number {
    if (this.stepMs === undefined) return 1;
    const steps = Math.min(MOST_A_SUBMIT, Math.floor(SUBMIT_MS / Math.max(this.stepMs, 0.1)), Math.floor(this.inFlight / 2));
    return Math.max(1, steps);
  }
}
