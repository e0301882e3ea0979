// Running recorded programs: the piece that every thread has, alone or in a team. Knows functions and numbers only.
//
// A program runs in slices: advance() returns when its time is over, in the middle of a dispatch if need be, and the next
// call goes on there. So the engine's event loop turns during a long program.

import type { KernelFunction } from "./module";
import { LEAVE, type Team, type Trap } from "./team";

/** A dispatch as plain data; addresses as they go to the kernel. */
export interface PlainStep {
  kernel: number;
  addresses: number[];
  items: number;
}

export interface Step {
  run: (begin: number, end: number) => void;
  items: number;
  /** Items taken at a time. */
  piece: number;
}

/** Pieces a thread gets of a dispatch: more even out threads of different speed, fewer cost fewer calls. */
const PIECES_A_THREAD = 4;

export function bind(steps: readonly PlainStep[], functions: readonly KernelFunction[], threads: number): Step[] {
  return steps.map(({ kernel, addresses, items }) => {
    const call = functions[kernel];
    if (call === undefined) throw new Error(`kernel ${kernel} is not compiled`);
    return { run: bound(call, addresses), items, piece: Math.max(1, Math.ceil(items / (threads * PIECES_A_THREAD))) };
  });
}

/** One array of arguments is used again and again: spreading one anew for each call costs more than a small kernel. */
function bound(call: KernelFunction, addresses: readonly number[]): Step["run"] {
  const begin = addresses.length;
  const args = [...addresses, 0, 0];
  return (first, end) => {
    args[begin] = first;
    args[begin + 1] = end;
    Reflect.apply(call, undefined, args);
  };
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Runs programs on the engine's thread, one at a time. */
export interface Runner {
  start(program: number, steps: readonly Step[], times: number): void;
  /** True once the program has ended. @param deadline a time of performance.now() */
  advance(deadline: number): boolean;
  /** After the end: the first kernel that failed. The rest of the program was skipped. */
  trap(): Trap | undefined;
}

export class SoloRunner implements Runner {
  private steps: readonly Step[] = [];
  private times = 0;
  private at = 0;
  private next = 0;
  private failed: Trap | undefined;

  start(_program: number, steps: readonly Step[], times: number): void {
    this.steps = steps;
    this.times = steps.length === 0 ? 0 : times;
    this.at = 0;
    this.next = 0;
  }

  advance(deadline: number): boolean {
    for (; this.times > 0; this.times--) {
      for (let step = this.steps[this.at]; step !== undefined; step = this.steps[++this.at]) {
        while (this.next < step.items) {
          const begin = this.next;
          this.next = Math.min(begin + step.piece, step.items);
          try {
            step.run(begin, this.next);
          } catch (error) {
            this.failed = { dispatch: this.at, thread: 0, message: messageOf(error) };
            this.times = 0;
            return true;
          }
          if (performance.now() > deadline) return false;
        }
        this.next = 0;
      }
      this.at = 0;
    }
    return true;
  }

  trap(): Trap | undefined {
    return this.failed;
  }
}

/** This thread's part of a program that a team runs. */
export class TeamRunner implements Runner {
  private steps: readonly Step[] = [];
  private times = 0;
  private at = 0;
  /** Of the barrier this thread waits at, since when it does. */
  private phase: number | undefined;
  private waitsSince = 0;
  /** What of the program this thread waited for others. */
  waitedMs = 0;

  /** @param thread 0 is the engine's, which gives the orders */
  constructor(
    private readonly team: Team,
    private readonly thread: number,
  ) {}

  /** @param active threads that take part, this one among them: those of lower numbers */
  start(program: number, steps: readonly Step[], times: number, active = this.team.threads): void {
    this.steps = steps;
    this.times = steps.length === 0 ? 0 : times;
    this.at = 0;
    this.waitedMs = 0;
    this.team.active = active;
    if (this.thread === 0 && this.times > 0) this.team.publish(program, times);
  }

  /** The engine's order to go back to the event loop, to all `threads`: a program of one barrier. */
  startLeave(threads: number): void {
    this.start(LEAVE, [{ run: () => undefined, items: 0, piece: 1 }], 1, threads);
  }

  advance(deadline: number): boolean {
    const { team, steps } = this;
    for (; this.times > 0; this.times--) {
      for (let step = steps[this.at]; step !== undefined; step = steps[++this.at]) {
        if (this.phase === undefined) {
          if (!this.work(step, deadline)) return false;
          this.phase = team.arrive();
          this.waitsSince = performance.now();
        }
        const passed = team.passed(this.phase, deadline - performance.now());
        const now = performance.now();
        this.waitedMs += now - this.waitsSince;
        this.waitsSince = now;
        if (!passed) return false;
        this.phase = undefined;
      }
      this.at = 0;
    }
    return true;
  }

  trap(): Trap | undefined {
    return this.team.trap();
  }

  /** Takes pieces until none is left; false when the time is over before. */
  private work({ run, items, piece }: Step, deadline: number): boolean {
    const { team } = this;
    for (let begin = team.take(piece); begin < items; begin = team.take(piece)) {
      // After a trap everyone still counts and arrives, so that nobody waits for ever.
      if (team.trapped) continue;
      try {
        run(begin, Math.min(begin + piece, items));
      } catch (error) {
        team.reportTrap({ dispatch: this.at, thread: this.thread, message: messageOf(error) });
      }
      if (performance.now() > deadline) return false;
    }
    return true;
  }
}
