// A helper thread of the CPU backend; built as thread.js, which pool.ts starts. Between messages it sits in a loop
// that takes orders from shared memory, where an order costs a microsecond; a LEAVE brings it back to its event loop.

import type { Kernel } from "../../artifact/schema";
import { instantiate, type KernelFunction } from "./module";
import { bind, type PlainStep, type Step, TeamRunner } from "./run";
import { LEAVE, Team } from "./team";

/** What an instance of the module is made from. */
export interface InstanceData {
  type: "instantiate";
  thread: number;
  threads: number;
  control: SharedArrayBuffer;
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  kernels: readonly Pick<Kernel, "entry" | "bindings">[];
}

export type ToThread =
  | InstanceData
  | { type: "program"; steps: PlainStep[] }
  /** In place of all so far. */
  | { type: "programs"; programs: PlainStep[][] }
  /** Take orders after this generation. */
  | { type: "enter"; generation: number };

export type FromThread = { type: "ready" } | { type: "instantiated" } | { type: "failed"; message: string };

interface Instance {
  thread: number;
  team: Team;
  runner: TeamRunner;
  functions: KernelFunction[];
}

let instance: Instance | undefined;
const programs: Step[][] = [];

function receive(message: ToThread, reply: (message: FromThread) => void): void {
  switch (message.type) {
    case "instantiate": {
      try {
        instance = makeInstance(message);
        reply({ type: "instantiated" });
      } catch (error) {
        reply({ type: "failed", message: error instanceof Error ? error.message : String(error) });
      }
      return;
    }
    case "program":
      programs.push(bind(message.steps, made().functions, made().team.threads));
      return;
    case "programs":
      programs.splice(0, Infinity, ...message.programs.map((steps) => bind(steps, made().functions, made().team.threads)));
      return;
    case "enter":
      takeOrders(made(), message.generation);
      return;
    default:
      message satisfies never;
  }
}

function makeInstance({ thread, threads, control, module, memory, kernels }: InstanceData): Instance {
  const team = new Team(control, threads);
  return { thread, team, runner: new TeamRunner(team, thread), functions: instantiate(module, memory, kernels, thread) };
}

function made(): Instance {
  if (instance === undefined) throw new Error("a helper thread was used before it was instantiated");
  return instance;
}

function takeOrders({ team, runner, thread }: Instance, from: number): void {
  let idle = false;
  for (let seen = from; ;) {
    const { generation, program, times, active } = team.nextOrder(seen, idle);
    seen = generation;
    idle = thread >= active;
    if (idle) continue;
    if (program === LEAVE) {
      team.active = active;
      team.arrive();
      return;
    }
    const steps = programs[program];
    if (steps === undefined) throw new Error(`a helper thread has no program ${program}`);
    runner.start(program, steps, times, active);
    runner.advance(Infinity);
  }
}

/** Of a browser's worker, which Node's lacks; TypeScript's DOM and worker libraries exclude each other. */
const scope = globalThis as unknown as {
  postMessage?: (message: FromThread) => void;
  onmessage: ((event: MessageEvent<ToThread>) => void) | null;
};

// Without an await outside of functions, which bundlers refuse in workers.
async function serveInNode(): Promise<void> {
  const name = "node:worker_threads"; // By a name that bundlers do not follow.
  const { parentPort } = (await import(/* @vite-ignore */ name)) as typeof import("node:worker_threads");
  if (parentPort === null) throw new Error("thread.js is for a worker thread");
  const reply = (message: FromThread) => parentPort.postMessage(message);
  parentPort.on("message", (message: ToThread) => receive(message, reply));
  reply({ type: "ready" });
}

if (scope.postMessage !== undefined) {
  const reply = scope.postMessage.bind(scope);
  scope.onmessage = ({ data }) => receive(data, reply);
  reply({ type: "ready" });
} else void serveInNode();
