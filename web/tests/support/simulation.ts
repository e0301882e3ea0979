// Simulated time and a simulated device, so that tests of pace measure nothing real.
import type { Clock } from "../../src/runtime/clock";
import { type PlanRunner, type Part, WHOLE } from "../../src/runtime/replay";

/** Time passes only from one event to the next, when nothing else is left to do. */
export class SimulatedClock implements Clock {
  private time = 0;
  private readonly events: { at: number; run: () => void }[] = [];

  now(): number {
    return this.time;
  }

  sleep(milliseconds: number): Promise<void> {
    return new Promise((resolve) => this.at(this.time + Math.max(0, milliseconds), resolve));
  }

  at(time: number, run: () => void): void {
    const after = this.events.findIndex((event) => event.at > time);
    this.events.splice(after < 0 ? this.events.length : after, 0, { at: time, run });
  }

  /** Until `work` is done. @throws when nothing is left that could end it */
  async drive<T>(work: Promise<T>): Promise<T> {
    const state = { done: false };
    const settled = () => void (state.done = true);
    work.then(settled, settled);
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (state.done) return work;
      const event = this.events.shift();
      if (event === undefined) throw new Error("nothing is left to happen");
      this.time = event.at;
      event.run();
    }
  }
}

export interface Speed {
  /** Milliseconds until a submit arrives at the device, and until its end is seen. */
  there: number;
  back: number;
  /** Ends are seen at multiples of this only. */
  timer: number;
}

/** Runs work in its order, each piece for its time. */
export class SimulatedDevice {
  /** When all that was submitted will have run. */
  busyUntil = 0;
  /** Device time that ran. */
  worked = 0;

  constructor(
    private readonly clock: SimulatedClock,
    public speed: Speed,
  ) {}

  /** Device time still to come of what was submitted, the way there included. */
  get backlog(): number {
    return Math.max(0, this.busyUntil - this.clock.now());
  }

  /** Resolves when the end is seen. */
  run(milliseconds: number): Promise<void> {
    const { there, back, timer } = this.speed;
    this.busyUntil = Math.max(this.busyUntil, this.clock.now() + there) + milliseconds;
    this.worked += milliseconds;
    return this.seen(this.busyUntil + back, timer);
  }

  private seen(at: number, timer: number): Promise<void> {
    const time = timer === 0 ? at : Math.ceil(at / timer - 1e-9) * timer;
    return new Promise((resolve) => this.clock.at(time, resolve));
  }
}

/** What a session runs on, with the times of a simulated device. The next token is the position. */
export class SimulatedRunner implements PlanRunner {
  readonly vocabSize = 1 << 20;
  readonly capacity = 1 << 19;
  readonly ringSize = 256;
  readonly prefillChunks = [256, 64, 16];
  stepMs = 1;
  /** Of a token of a chunk's program, padding or not. */
  tokenMs = 0;
  /** Decode steps under way, the most that there were, and all of them. */
  inFlight = 0;
  mostInFlight = 0;
  steps = 0;
  readbacks = 0;
  /** Tokens whose rows were handed over whole. */
  prefilled = 0;
  readonly submits: number[] = [];
  /** Called when a submit has just been made. */
  onSubmit: () => void = () => undefined;

  constructor(
    readonly device: SimulatedDevice,
    readonly overlaps = true,
    readonly padding = overlaps,
  ) {}

  readonly rowBytes = 4;
  save(): Promise<undefined> {
    return Promise.resolve(undefined); // It has no memory for a copy.
  }
  makeRoom(): void {
    // It has its memory from the start.
  }
  writeSampling(): void {
    // Nothing is drawn.
  }
  writeCounts(): void {
    // Nothing is penalized.
  }
  writeCount(): void {
    // Nothing is penalized.
  }
  seek(): void {
    // decode() is told the position.
  }
  prefill(size: number, _position: number, ids: readonly number[], { index, of }: Part = WHOLE): void {
    void this.submit((this.tokenMs * (this.padding ? size : ids.length)) / of);
    if (index === of - 1) this.prefilled += ids.length;
  }
  async decode(steps: number, position: number, parts = 1): Promise<Uint32Array> {
    this.steps += steps;
    this.inFlight += steps;
    this.mostInFlight = Math.max(this.mostInFlight, this.inFlight);
    this.readbacks += 1;
    const pieces = parts === 1 ? 1 : steps * parts;
    let end: Promise<void> = Promise.resolve();
    for (let piece = 0; piece < pieces; piece++) end = this.submit((steps * this.stepMs) / pieces);
    await end;
    this.inFlight -= steps;
    return Uint32Array.from({ length: steps }, (_, i) => position + i + 1);
  }
  readonly masks = false;
  forward(): void {
    throw new Error("no mask");
  }
  writeMask(): void {
    throw new Error("no mask");
  }
  writeBias(): void {
    throw new Error("no mask");
  }
  sample(): Promise<number> {
    throw new Error("no mask");
  }
  readonly embeds = false;
  readonly verifyRows = 0;
  verify(): never {
    throw new Error("no drafts");
  }
  output(): Promise<Float32Array> {
    return Promise.resolve(new Float32Array(1));
  }
  idle(): Promise<void> {
    return this.device.run(0);
  }
  roundTrip(): Promise<void> {
    return this.device.run(0);
  }

  private submit(milliseconds: number): Promise<void> {
    this.submits.push(milliseconds);
    const end = this.device.run(milliseconds);
    this.onSubmit();
    return end;
  }
}
