// Runs programs to their end, on this thread and its helpers, in slices: the event loop of the worker that this runs in
// turns in between, so that an abort arrives. Knows recorded programs by number; nothing of buffers or queues.

import type { Kernel } from "../../artifact/schema";
import { DeviceError } from "../../api/errors";
import { turn } from "./event-loop";
import { instantiate, type KernelFunction } from "./module";
import { ThreadPool, type SpawnThread } from "./pool";
import { bind, type PlainStep, type Runner, SoloRunner, type Step, TeamRunner } from "./run";
import { Team, type Trap } from "./team";
import { TeamSize } from "./team-size";

/** For tests: helpers are given less time. */
export interface ThreadTimeouts {
  /** For tests: how many threads take part, run by run. */
  size?: Pick<TeamSize, "size" | "observe">;
  /** Milliseconds until helpers must have started. */
  startMs?: number;
  /** Helpers that have taken and finished nothing for so many milliseconds are gone. */
  stallMs?: number;
}

const STALL_MS = 5000;
/** The event loop turns this often while a program runs. */
const SLICE_MS = 30;

/** Several threads: the helpers and what this thread gives them orders with. */
interface Helpers {
  pool: ThreadPool;
  team: Team;
  runner: TeamRunner;
  size: Pick<TeamSize, "size" | "observe">;
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
    private helpers: Helpers | undefined,
    private readonly stallMs: number,
  ) {
    this.runner = helpers?.runner ?? new SoloRunner();
    if (helpers !== undefined) helpers.pool.onLost = (reason) => this.onLost?.(reason);
  }

  /** Helpers that cannot be started are done without. */
  static async create(threads: number, spawn: SpawnThread, { size, startMs, stallMs = STALL_MS }: ThreadTimeouts): Promise<Executor> {
    return new Executor(threads === 1 ? undefined : await startHelpers(threads, spawn, size ?? new TeamSize(threads), startMs), stallMs);
  }

  get threads(): number {
    return this.helpers?.team.threads ?? 1;
  }

  /** Ends the helpers: this thread goes on alone. Before instantiate(). */
  dismiss(): void {
    this.helpers?.pool.dispose();
    this.helpers = undefined;
    this.runner = new SoloRunner();
  }

  /** An instance of the module on every thread. @throws DeviceError("shader") */
  async instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory, kernels: readonly Kernel[]): Promise<void> {
    this.functions = instantiate(module, memory, kernels, 0);
    if (this.helpers === undefined) return;
    const { control, threads } = this.helpers.team;
    const plain = kernels.map(({ entry, bindings }) => ({ entry, bindings }));
    try {
      await this.helpers.pool.ask((index) => ({
        type: "instantiate",
        thread: index + 1,
        threads,
        control,
        module,
        memory,
        kernels: plain,
      }));
    } catch (error) {
      throw new DeviceError("shader", { what: `A helper thread could not load the kernels: ${messageOf(error)}` });
    }
  }

  /** The next program. After instantiate(), and while none runs. */
  async add(steps: PlainStep[]): Promise<void> {
    this.programs.push(bind(steps, this.functions, this.threads));
    if (this.helpers === undefined) return;
    await this.leave(this.helpers);
    this.helpers.pool.post(() => ({ type: "program", steps }));
  }

  /** The same programs with other addresses. While none runs. */
  async rebind(programs: PlainStep[][]): Promise<void> {
    this.programs.splice(0, Infinity, ...programs.map((steps) => bind(steps, this.functions, this.threads)));
    if (this.helpers === undefined) return;
    await this.leave(this.helpers);
    this.helpers.pool.post(() => ({ type: "programs", programs }));
  }

  /**
   * The trap that ended it, if one did. @throws once disposed of
   * @param steady every run of the program takes about as long: from how long, it is learnt how many threads are best
   */
  async run(program: number, times: number, steady: boolean): Promise<Trap | undefined> {
    const steps = this.programs[program];
    if (steps === undefined) throw new Error(`program ${program} was not added`);
    const { helpers } = this;
    if (helpers === undefined) {
      this.runner.start(program, steps, times);
      await this.finish();
      return this.runner.trap();
    }
    this.enter(helpers);
    const startedAt = performance.now();
    helpers.runner.start(program, steps, times, helpers.size.size);
    await this.finish();
    if (steady && times > 0) helpers.size.observe((performance.now() - startedAt) / times, helpers.runner.waitedMs / times);
    return helpers.runner.trap();
  }

  async turn(): Promise<void> {
    await turn();
    this.turnedAt = performance.now();
  }

  dispose(): void {
    this.disposed = true;
    this.helpers?.pool.dispose();
  }

  /** Runs what was started to its end. */
  private async finish(): Promise<void> {
    let stalledMs = 0;
    let progress = "";
    for (let startedAt = performance.now(); !this.runner.advance(this.turnedAt + SLICE_MS);) {
      const now = performance.now();
      const current = this.helpers?.team.progress() ?? String(now);
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
  private enter(helpers: Helpers): void {
    if (helpers.entered) return;
    const { generation } = helpers.team;
    helpers.pool.post(() => ({ type: "enter", generation }));
    helpers.entered = true;
  }

  /** The helpers begin to receive messages. */
  private async leave(helpers: Helpers): Promise<void> {
    if (!helpers.entered) return;
    helpers.runner.startLeave(helpers.team.threads);
    await this.finish();
    helpers.entered = false;
  }
}

/** Helpers that are ready, or undefined where they do not start. */
async function startHelpers(
  threads: number,
  spawn: SpawnThread,
  size: Helpers["size"],
  startMs: number | undefined,
): Promise<Helpers | undefined> {
  try {
    const pool = await ThreadPool.start(threads - 1, spawn, startMs);
    const team = Team.create(threads);
    return { pool, team, runner: new TeamRunner(team, 0), size, entered: false };
  } catch (error) {
    const remedy = "Check that thread.js lies beside wisp.js and that the page's CSP allows it.";
    console.warn(`Wisp runs on one thread: helper threads could not be started (${messageOf(error)}). ${remedy}`);
    return undefined;
  }
}
