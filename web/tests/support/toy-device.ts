// A device that is a few lines of JavaScript, and a plan for it: everything above the Backend interface is the real thing.
// Every next token depends on every row of the KV cache and, when sampling, on seed and position, so a row that was not
// written again after a loss shows.
import type { Plan } from "../../src/artifact/schema";
import type { Backend, BackendCounters, BufferHandle, ProgramHandle, Recorded, Slice } from "../../src/backend/backend";
import { DeviceError } from "../../src/api/errors";

export const VOCAB = 101;
export const CONTEXT = 64;
const RING = 16;

/** The token that follows `ids`; `seed` 0 stands for greedy. */
function next(ids: readonly number[], seed: number): number {
  const hash = ids.reduce((h, id) => (h * 31 + id + 1) % 100_003, 7);
  return (hash + seed * ids.length) % VOCAB;
}

export function reference(ids: readonly number[], count: number, seed = 0): number[] {
  const out: number[] = [];
  while (out.length < count) out.push(next([...ids, ...out], seed));
  return out;
}

/** The greedy token has the largest, 0; the others fall from it on. */
export function referenceLogits(ids: readonly number[]): Float32Array {
  const best = next(ids, 0);
  return Float32Array.from({ length: VOCAB }, (_, id) => -((id + VOCAB - best) % VOCAB));
}

const io = { kind: "io", bytes: 4 * VOCAB } as const;
export const PLAN: Plan = {
  variant: "toy",
  context: CONTEXT,
  vocabSize: VOCAB,
  ringSize: RING,
  output: { name: "logits", size: VOCAB },
  prefillChunks: [16, 4],
  buffers: [
    { kind: "state", name: "state", bytes: 256 },
    { kind: "kv", name: "kv.0", bytesPerPosition: 4, bytes: 4 * CONTEXT },
    { ...io, name: "input_ids" },
    { ...io, name: "token_ring" },
    { ...io, name: "token_counts" },
    { ...io, name: "logits" },
  ],
  kernels: [
    { entry: "append", bindings: ["read", "read_write", "read"] },
    { entry: "decode", bindings: ["read_write", "read_write", "read_write", "read_write"] },
  ],
  decode: [{ kernel: 1, bind: [0, 1, 3, 5], grid: [1, 1, 1] }],
  prefill: new Map([16, 4].map((chunk) => [chunk, [{ kernel: 0, bind: [0, 1, 2], grid: [chunk, 1, 1] }]])),
  mask: undefined,
  verify: undefined,
  alternatives: [],
};

type Words = Uint32Array;
const floats = (words: Words) => new Float32Array(words.buffer, words.byteOffset, words.length);
const KERNELS: ((state: Words, kv: Words, third: Words, logits: Words) => void)[] = [
  (state, kv, ids) => kv.set(ids.subarray(0, state[2]), state[0]),
  (state, kv, ring, logits) => {
    const [position = 0, token = 0, , seed = 0] = state;
    kv[position] = token;
    const rows = [...kv.subarray(0, position + 1)];
    floats(logits).set(referenceLogits(rows));
    const sampled = next(rows, state[4] === 0 ? 0 : seed);
    state.set([position + 1, sampled]);
    ring[(position + 1) % RING] = sampled;
  },
];

export class ToyDevice implements Backend {
  readonly padding = true;
  readonly overlaps = true;
  readonly counters: BackendCounters = {
    dispatches: 0,
    submits: 0,
    readbacks: 0,
    bindGroupsCreated: 0,
    bytesUploaded: 0,
    bytesReadBack: 0,
    gpuBytes: 0,
  };
  readonly lost: Promise<Error>;
  disposed = false;
  /** Decode steps until the device is lost. */
  lasts = Infinity;
  /** What it makes of the logits of each step. */
  lie: ((logits: Float32Array) => void) | undefined;
  private failure: DeviceError | undefined;
  private buffers: Uint32Array<ArrayBuffer>[] = [];
  private readonly programs: (readonly Recorded[])[] = [];
  private tell: (error: Error) => void = () => undefined;

  constructor() {
    this.lost = new Promise((resolve) => (this.tell = resolve));
  }

  lose(message = "the driver was reset"): void {
    this.failure = new DeviceError("device-lost", { what: `The GPU device was lost (unknown): ${message}` });
    this.tell(this.failure);
  }

  createBuffers(sizes: readonly { bytes: number }[]): Promise<BufferHandle[]> {
    this.buffers = sizes.map(({ bytes }) => new Uint32Array(bytes / 4));
    this.counters.gpuBytes = 1000;
    return Promise.resolve(sizes.map((_, i) => i));
  }
  save(): Promise<undefined> {
    return Promise.resolve(undefined); // It has no memory for a copy.
  }
  makeRoom(positions: number): number {
    return positions;
  }
  write(buffer: BufferHandle, offset: number, data: Uint8Array<ArrayBuffer>): void {
    this.check();
    new Uint8Array(this.words(buffer).buffer).set(data, offset);
  }
  compile(): Promise<void> {
    return Promise.resolve();
  }
  record(_label: string, dispatches: readonly Recorded[]): ProgramHandle {
    return this.programs.push(dispatches) - 1;
  }
  submit(program: ProgramHandle, times: number): void {
    this.check();
    this.counters.submits += 1;
    for (let run = 0; run < times; run++)
      for (const { kernel, buffers } of this.programs[program] ?? []) {
        const [a = 0, b = 0, c = 0, d = c] = buffers;
        if (kernel === 1 && this.lasts-- <= 0) this.lose();
        KERNELS[kernel]?.(this.words(a), this.words(b), this.words(c), this.words(d));
        if (kernel === 1) this.lie?.(floats(this.words(d)));
      }
  }
  async submitAndRead(program: ProgramHandle, times: number, slices: readonly Slice[]): Promise<ArrayBuffer> {
    this.submit(program, times);
    const parts = slices.map(({ buffer, offset, bytes }) => this.words(buffer).slice(offset / 4, (offset + bytes) / 4));
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.check();
    return Uint32Array.from(parts.flatMap((part) => [...part])).buffer;
  }
  async read({ buffer, offset, bytes }: Slice): Promise<ArrayBuffer> {
    await this.idle();
    return this.words(buffer).slice(offset / 4, (offset + bytes) / 4).buffer;
  }
  async idle(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.check();
  }
  dispose(): void {
    this.disposed = true;
  }

  private words(handle: BufferHandle): Uint32Array<ArrayBuffer> {
    const words = this.buffers[handle];
    if (words === undefined) throw new Error(`no buffer ${handle}`);
    return words;
  }
  private check(): void {
    if (this.disposed) throw new DeviceError("disposed", { what: "used after it was disposed of" });
    if (this.failure !== undefined) throw this.failure;
  }
}
