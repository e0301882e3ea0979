// Device time of whole programs: a pass between two timestamps, as a session runs them, by the plan and by each alternative.
// The twin of compiler/bench/steps.py.

import { lacking, replaced } from "../artifact/choice";
import type { Dispatch, Plan } from "../artifact/schema";
import { encodePass, type Step, usage } from "../backend/webgpu/backend";
import { median } from "../runtime/median";
import { recorded } from "../runtime/replay";
import { samplingWords, STATE, type Sampling } from "../runtime/sampling";
import { RUNS } from "./device";
import { dispatchesOf, found, openArtifact, type Opened, seek, type TimedProgram } from "./programs";

const OWN = "own";
/** Dispatches that end a decode step: scan, limit, draw. */
const SAMPLERS = 3;

export interface PassFigures {
  /** Seconds; null: one run takes longer than the limit. */
  steps: { program: string; alternative: string; position: number; seconds: number | null }[];
  sampling: Record<string, number | null>;
}

/**
 * Null where the adapter has no timestamps.
 * @param samplings parameters of the three last dispatches of a step, by name; the first is that of the other programs
 * @param limit seconds that one figure may take
 */
export async function measurePasses(
  url: string,
  name: string,
  programs: readonly TimedProgram[],
  samplings: Readonly<Record<string, Sampling>>,
  limit: number,
): Promise<PassFigures | null> {
  const opened = await openArtifact(url, name, ["timestamp-query"]);
  if (opened === null) return null;
  const { backend, plan, device } = opened;
  try {
    const plans = await withAlternatives(opened);
    const timer = new PassTimer(device, limit);
    const write = (sampling: Sampling) => {
      const state = plan.buffers.findIndex((buffer) => buffer.kind === "state");
      backend.write(found(opened.buffers[state], "state"), 4 * STATE.seed, samplingWords(sampling));
    };
    const stepsOf = (dispatches: readonly Dispatch[]) => backend.steps(backend.record("a pass", recorded(dispatches, opened.buffers)));
    const [plain] = Object.values(samplings);
    write(found(plain, "sampling"));
    const steps: PassFigures["steps"] = [];
    for (const [program, position, length] of programs) {
      for (const [alternative, its] of plans) {
        if (alternative !== OWN && !has(plan, alternative, program)) continue;
        const seconds = await timer.median(stepsOf(dispatchesOf(its, program)), () => seek(opened, position, length));
        steps.push({ program, alternative, position, seconds });
      }
    }
    const sampling: PassFigures["sampling"] = {};
    for (const [key, parameters] of Object.entries(samplings)) {
      write(parameters);
      sampling[key] = await timer.median(stepsOf(plan.decode.slice(-SAMPLERS)), () => seek(opened, 9, 0));
    }
    return { steps, sampling };
  } finally {
    backend.dispose();
  }
}

function has(plan: Plan, alternative: string, program: string): boolean {
  return plan.alternatives.find(({ name }) => name === alternative)?.programs.has(program) === true;
}

/** The plan, and what it is with each alternative that this browser can compile. */
async function withAlternatives({ backend, plan, read }: Opened): Promise<Map<string, Plan>> {
  const plans = new Map([[OWN, plan]]);
  let first = plan.kernels.length;
  for (const alternative of plan.alternatives) {
    if (lacking(alternative).length > 0) continue;
    await backend.compile(await read(alternative.kernelsFile), alternative.kernels);
    plans.set(alternative.name, replaced(plan, alternative, first));
    first += alternative.kernels.length;
  }
  return plans;
}

class PassTimer {
  private readonly querySet: GPUQuerySet;
  private readonly resolved: GPUBuffer;

  /** @param limit seconds */
  constructor(
    private readonly device: GPUDevice,
    private readonly limit: number,
  ) {
    this.querySet = device.createQuerySet({ type: "timestamp", count: 2 });
    this.resolved = device.createBuffer({ size: 16, usage: usage("QUERY_RESOLVE", "COPY_SRC") });
  }

  /** Of some runs after a warm-up; null where that alone takes longer than the limit. */
  async median(steps: readonly Step[], before: () => void): Promise<number | null> {
    const end = performance.now() + 1e3 * this.limit;
    await this.seconds(steps, before);
    if (performance.now() > end) return null;
    const samples: number[] = [];
    while (samples.length < RUNS && (samples.length === 0 || performance.now() < end)) samples.push(await this.seconds(steps, before));
    return median(samples);
  }

  private async seconds(steps: readonly Step[], before: () => void): Promise<number> {
    before();
    const encoder = this.device.createCommandEncoder();
    const timestampWrites = { querySet: this.querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 };
    encodePass(encoder, steps, { timestampWrites });
    encoder.resolveQuerySet(this.querySet, 0, 2, this.resolved, 0);
    const staging = this.device.createBuffer({ size: 16, usage: usage("MAP_READ", "COPY_DST") });
    encoder.copyBufferToBuffer(this.resolved, 0, staging, 0, 16);
    this.device.queue.submit([encoder.finish()]);
    await staging.mapAsync(1 /* GPUMapMode.READ */);
    const [start = 0n, stop = 0n] = new BigUint64Array(staging.getMappedRange().slice(0));
    staging.destroy();
    return Math.max(0, Number(stop - start)) / 1e9;
  }
}
