// Runs programs to their end, on this thread and its helpers, in slices: the event loop of the worker that this runs in
// turns in between, so that an abort arrives. Knows recorded programs by number; nothing of buffers or queues.

import type { Kernel } from "../../artifact/schema";
import { DeviceError } from "../../api/errors";
import { turn } from "./event-loop";
import { instantiate, type KernelFunction } from "./module";
import { Pool, type SpawnThread } from "./pool";
import { bind, type PlainStep, type Runner, SoloRunner, type Step, TeamRunner } from "./run";
import { Team, type Trap } from "./team";

/** For tests: less patience with helpers. */
export interface Patience {
  /** Milliseconds until helpers must have started. */
  startMs?: number;
  /** Helpers that have taken and finished nothing for so many milliseconds are gone. */
  stallMs?: number;
}

const STALL_MS = 5000;
/** The event loop turns this often while a program runs. */
const SLICE_MS = 30;

/** Several threads: the helpers and what this thread gives them orders with. */
interface Crew {
  pool: Pool;
  team: Team;
  runner: TeamRunner;
  /** The helpers are in their loop: they take orders and receive no messages. */
  entered: boolean;
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export class Executor {
  /** Called when helpers are gone; nothing ends before dispose() then. */
  onLost: ((reason: string) => void) | undefined;
  private runner: Runner;
  private functions: readonly KernelFunction[] = [];
  private readonly programs: Step[][] = [];
  private turnedAt = 0;
  private disposed = false;

  private constructor(
    private crew: Crew | undefined,
    private readonly stallMs: number,
  ) {
    this.runner = crew?.runner ?? new SoloRunner();
    if (crew !== undefined) crew.pool.onLost = (reason) => this.onLost?.(reason);
  }

  /** Helpers that cannot be started are done without. */
  static async create(threads: number, spawn: SpawnThread, { startMs, stallMs = STALL_MS }: Patience): Promise<Executor> {
    return new Executor(threads === 1 ? undefined : await gather(threads, spawn, startMs), stallMs);
  }

  get threads(): number {
    return this.crew?.team.threads ?? 1;
  }

  /** Ends the helpers: this thread goes on alone. Before instantiate(). */
  dismiss(): void {
    this.crew?.pool.dispose();
    this.crew = undefined;
    this.runner = new SoloRunner();
  }

  /** An instance of the module on every thread. @throws DeviceError("shader") */
  async instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory, kernels: readonly Kernel[]): Promise<void> {
    this.functions = instantiate(module, memory, kernels, 0);
    if (this.crew === undefined) return;
    const { control, threads } = this.crew.team;
    const plain = kernels.map(({ entry, bindings }) => ({ entry, bindings }));
    try {
      await this.crew.pool.ask((index) => ({ type: "instantiate", thread: index + 1, threads, control, module, memory, kernels: plain }));
    } catch (error) {
      throw new DeviceError("shader", { what: `A helper thread could not load the kernels: ${messageOf(error)}` });
    }
  }

  /** The next program. After instantiate(), and while none runs. */
  async add(steps: PlainStep[]): Promise<void> {
    this.programs.push(bind(steps, this.functions, this.threads));
    if (this.crew === undefined) return;
    await this.leave(this.crew);
    this.crew.pool.post(() => ({ type: "program", steps }));
  }

  /** The trap that ended it, if one did. @throws once disposed of */
  async run(program: number, times: number): Promise<Trap | undefined> {
    const steps = this.programs[program];
    if (steps === undefined) throw new Error(`program ${program} was not added`);
    if (this.crew !== undefined) this.enter(this.crew);
    this.runner.start(program, steps, times);
    await this.finish();
    return this.runner.trap();
  }

  async turn(): Promise<void> {
    await turn();
    this.turnedAt = performance.now();
  }

  dispose(): void {
    this.disposed = true;
    this.crew?.pool.dispose();
  }

  /** Runs what was started to its end. */
  private async finish(): Promise<void> {
    let stalledMs = 0;
    let progress = "";
    for (let startedAt = performance.now(); !this.runner.advance(this.turnedAt + SLICE_MS);) {
      const now = performance.now();
      const current = this.crew?.team.progress() ?? String(now);
      // A computer that slept for an hour in between counts as one slice.
      stalledMs = current === progress ? stalledMs + Math.min(now - startedAt, 2 * SLICE_MS) : 0;
      progress = current;
      if (stalledMs > this.stallMs) this.onLost?.(`they have done nothing for ${Math.round(stalledMs)} ms`);
      startedAt = now;
      await this.turn();
      if (this.disposed) throw new Error("the threads were ended");
    }
  }

  /** The helpers begin to take orders. */
  private enter(crew: Crew): void {
    if (crew.entered) return;
    const { generation } = crew.team;
    crew.pool.post(() => ({ type: "enter", generation }));
    crew.entered = true;
  }

  /** The helpers begin to receive messages. */
  private async leave(crew: Crew): Promise<void> {
    if (!crew.entered) return;
    crew.runner.startLeave();
    await this.finish();
    crew.entered = false;
  }
}

/** Helpers that are ready, or undefined where they do not start. */
async function gather(threads: number, spawn: SpawnThread, startMs: number | undefined): Promise<Crew | undefined> {
  try {
    const pool = await Pool.start(threads - 1, spawn, startMs);
    const team = Team.create(threads);
    return { pool, team, runner: new TeamRunner(team, 0), entered: false };
  } catch (error) {
    const remedy = "Check that thread.js lies beside wisp.js and that the page's CSP allows it.";
    console.warn(`Wisp runs on one thread: helper threads could not be started (${messageOf(error)}). ${remedy}`);
    return undefined;
  }
}
