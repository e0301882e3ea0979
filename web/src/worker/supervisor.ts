// Keeps a model running: starts it on the best variant that works here, and starts it anew when its device goes away.
//
// Owns what runs and decides what comes next; how a variant is started is given to it, and what a session does with the
// runner is not its business. The policy: a device that is lost is taken again; lost twice within a minute, or not to be
// had again, the CPU takes over. A variant that was named by hand is never exchanged for another.

import type { AdapterInfo, SkippedVariant, Tuning } from "../api/types";
import type { Variant } from "../artifact/schema";
import type { Backend, BackendCounters } from "../backend/backend";
import { type Candidate, reasons } from "../backend/negotiate";
import { abortError, DeviceError, WispError } from "../api/errors";
import type { PlanRunner } from "../runtime/replay";

/** A variant that runs: replaced as a whole when its device goes away. */
export interface Running {
  variant: Variant;
  adapter: AdapterInfo;
  /** Of the CPU, that compute; 0 on a GPU. */
  threads: number;
  /** What would make it faster here, in plain words. */
  hints: string[];
  /** What is otherwise than was asked for, in plain words. */
  notices: readonly string[];
  backend: Backend;
  runner: PlanRunner;
  compileMs: number;
  tuning: Tuning;
  tuneMs: number;
}

export interface SupervisorOptions {
  /** Best first. */
  candidates: readonly Candidate[];
  /** One variant was named: it or none. */
  fixed: boolean;
  /** Whatever it made is disposed of when it throws. `gently`: in small submits, on a device that was lost before. */
  start: (variant: Variant, signal: AbortSignal, gently: boolean) => Promise<Running>;
  /** The device is gone; another one is being made ready. */
  onRecovering?: (error: WispError) => void;
  /** `supervisor.running` is a new one. */
  onMoved?: () => void;
  /** Nothing runs any more, for good. */
  onLost?: (error: WispError) => void;
  now?: () => number;
  /** Milliseconds before each attempt to get a lost GPU again: drivers need a moment. */
  pauses?: readonly number[];
}

const TWICE_WITHIN_MS = 60_000;
const PAUSES = [0, 500, 2000];

export class Supervisor {
  /** How often a device was lost and the model went on. */
  recoveries = 0;
  /** False while a lost device is being replaced, and for good when it cannot be. */
  private alive = true;
  private recovery: Promise<PlanRunner> | undefined;
  /** Why nothing runs any more. */
  private final: DeviceError | undefined;
  /** When the current variant's devices were lost. */
  private losses: number[] = [];
  /** What the counters of earlier backends had reached. */
  private readonly spent: Partial<BackendCounters> = {};
  private readonly ends = new AbortController();

  private constructor(
    private readonly options: SupervisorOptions,
    /** Better variants that do not run here, and those that failed. */
    readonly skipped: SkippedVariant[],
    /** The latest; it may be lost. */
    private current: Running,
  ) {
    this.watch(current);
  }

  /**
   * On the first candidate that starts; why others did not is in `skipped`.
   * @throws what start() throws when it is not the device's fault or no other variant may be tried; DeviceError
   */
  static async start(options: SupervisorOptions, signal: AbortSignal): Promise<Supervisor> {
    const skipped: SkippedVariant[] = [];
    const failed: SkippedVariant[] = [];
    let last: unknown;
    let failedOn: Variant | undefined;
    const waiting = options.candidates.filter(({ lastResort }) => lastResort !== undefined);
    const without = ({ name }: Variant) => skipped.filter((other) => other.variant !== name);
    for (const { variant, lastResort } of waiting) skipped.push({ variant: variant.name, reason: lastResort ?? "" });
    for (const candidate of [...options.candidates.filter((one) => !waiting.includes(one)), ...waiting]) {
      const { variant } = candidate;
      // Another variant of the GPU needs as much of the same memory, but for keys and values in fewer bits.
      const full =
        last instanceof DeviceError && last.kind === "out-of-memory" && failedOn !== undefined && needsAsMuch(variant, failedOn)
          ? because(last)
          : undefined;
      const obstacle = candidate.obstacle ?? full;
      if (obstacle === undefined) {
        try {
          const running = await options.start(variant, signal, false);
          return new Supervisor(options, without(variant), running);
        } catch (error) {
          if (options.fixed || !isDevices(error)) throw error;
          last = error;
          failedOn = variant;
          failed.push({ variant: variant.name, reason: because(error) });
        }
      }
      skipped.splice(0, Infinity, ...without(variant), { variant: variant.name, reason: obstacle ?? because(last) });
    }
    if (failed.length < 2 || !(last instanceof DeviceError)) throw last;
    throw new DeviceError(last.kind, {
      what: "No variant of the artifact could be started",
      got: reasons(failed),
      expected: "one that starts",
      remedy: last.remedy,
    });
  }

  /** What runs, or ran until its device was lost. */
  get running(): Running {
    return this.current;
  }

  /** Of all backends since the start; memory is that of the current one. */
  get counters(): Partial<BackendCounters> {
    return this.alive ? sum(this.spent, this.current.backend.counters) : this.spent;
  }

  /**
   * The runner to use in place of `failed`, which threw `error`.
   * @throws `error` when it is not the device's; DeviceError("device-lost") when nothing runs any more
   */
  async replace(failed: PlanRunner, error: unknown): Promise<PlanRunner> {
    if (!isDevices(error) || this.ends.signal.aborted) throw error;
    if (this.recovery === undefined) {
      if (!this.alive) throw this.final ?? error;
      if (this.current.runner !== failed) return this.current.runner;
      this.recovery = this.recover(this.current, error).finally(() => (this.recovery = undefined));
    }
    return this.recovery;
  }

  dispose(): void {
    this.ends.abort();
    this.current.backend.dispose();
  }

  private watch(running: Running): void {
    void running.backend.lost.then((error) => {
      // Nobody may be waiting for an answer now: have it ready for the next request.
      this.replace(running.runner, error).catch(() => undefined);
    });
  }

  private async recover(lost: Running, error: DeviceError): Promise<PlanRunner> {
    const { onRecovering, onMoved, onLost, now = () => performance.now() } = this.options;
    const at = now();
    this.losses = [...this.losses.filter((before) => at - before < TWICE_WITHIN_MS), at];
    this.alive = false;
    Object.assign(this.spent, sum(this.spent, lost.backend.counters), { gpuBytes: 0 });
    lost.backend.dispose(); // Its memory is needed.
    onRecovering?.(error);
    const { variant } = lost;
    try {
      const running = await this.again(variant, error).catch((failure: unknown) => this.onTheCpu(variant, error, failure));
      this.recoveries += 1;
      this.current = running;
      this.alive = true;
      this.watch(running);
      onMoved?.();
      return running.runner;
    } catch (failure) {
      if (this.ends.signal.aborted) throw failure;
      this.final = asLost(failure, error);
      onLost?.(this.final);
      throw this.final;
    }
  }

  /** The same variant on a new device, unless that went wrong a moment ago. */
  private async again(variant: Variant, error: DeviceError): Promise<Running> {
    if (this.losses.length > 1) throw error;
    let failure: unknown = error;
    for (const pause of variant.backend === "webgpu" ? (this.options.pauses ?? PAUSES) : [0]) {
      await new Promise((resolve) => setTimeout(resolve, pause));
      try {
        return await this.start(variant);
      } catch (reason) {
        failure = reason;
        if (!(reason instanceof DeviceError) || (reason.kind !== "no-adapter" && reason.kind !== "device-lost")) break;
      }
    }
    throw failure;
  }

  /** A variant of the CPU, the first that starts, in place of one of the GPU. @throws `failure` when there is none */
  private async onTheCpu(variant: Variant, error: DeviceError, failure: unknown): Promise<Running> {
    const candidates = this.options.candidates.map((candidate) => candidate.variant);
    const [cpu, twin] = candidates.filter(
      ({ name, backend }) => backend === "wasm" && !this.skipped.some((skipped) => skipped.variant === name),
    );
    if (this.options.fixed || variant.backend === "wasm" || cpu === undefined || this.ends.signal.aborted) throw failure;
    const reason =
      failure === error
        ? `lost twice within a minute: ${because(error)}`
        : `${because(error)}; it could not be started again: ${because(failure)}`;
    for (const { name, backend } of candidates)
      if (backend === "webgpu" && !this.skipped.some((skipped) => skipped.variant === name)) this.skipped.push({ variant: name, reason });
    this.losses = [];
    return this.start(cpu).catch((reason: unknown) => {
      if (twin === undefined || !(reason instanceof DeviceError) || reason.kind !== "out-of-memory") throw reason;
      this.skipped.push({ variant: cpu.name, reason: because(reason) });
      return this.start(twin);
    });
  }

  private async start(variant: Variant): Promise<Running> {
    const { signal } = this.ends;
    signal.throwIfAborted();
    const running = await this.options.start(variant, signal, true);
    if (!signal.aborted) return running;
    running.backend.dispose();
    throw abortError(signal);
  }
}

function isDevices(error: unknown): error is DeviceError {
  return error instanceof DeviceError;
}

/** What went wrong, without what was expected and advised, nor the source of a kernel. */
function needsAsMuch(variant: Variant, full: Variant): boolean {
  return full.backend === "webgpu" && variant.backend === "webgpu" && variant.kvBytesPerToken >= full.kvBytesPerToken;
}

function because(error: unknown): string {
  if (error instanceof WispError) {
    const what = error.what.trim().split("\n", 2).join(" ");
    return error.got === undefined ? what : `${what} (${error.got})`;
  }
  return error instanceof Error ? error.message : String(error);
}

function asLost(failure: unknown, error: DeviceError): DeviceError {
  if (failure === error && error.kind === "device-lost") return error;
  return new DeviceError("device-lost", {
    what: error.what,
    got: failure === error ? error.got : `no way to go on: ${because(failure)}`,
    remedy: "Create the engine again.",
  });
}

function sum(a: Partial<BackendCounters>, b: Partial<BackendCounters> = {}): Partial<BackendCounters> {
  const total: Partial<BackendCounters> = { ...a };
  for (const [name, value] of Object.entries(b) as [keyof BackendCounters, number][]) total[name] = (total[name] ?? 0) + value;
  return total;
}
