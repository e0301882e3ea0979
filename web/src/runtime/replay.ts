// A plan on a device: its buffers, its recorded programs and the few words that the CPU writes between them.
//
// Knows the plan and the state buffer's layout; not what a sequence, an answer or a text is (that is session.ts).

import type { Dispatch, IoName, Plan, PlanBuffer } from "../artifact/schema";
import {
  type Backend,
  type BufferHandle,
  type BufferSize,
  type Part,
  type ProgramHandle,
  type Recorded,
  type Slice,
  WHOLE,
} from "../backend/backend";
import { samplingWords, STATE, type Sampling } from "./sampling";

export { type Part, WHOLE };

/** The first rows of the KV cache, set aside on the device. */
export interface SavedRows {
  readonly bytes: number;
  /** Puts the first `rows` of them back. */
  restore(rows: number): void;
  /** Frees their memory. */
  drop(): void;
}

/** What a session needs of a loaded model; a fake one tests the session without a GPU. */
export interface PlanRunner {
  readonly vocabSize: number;
  /** Rows of the KV cache; fewer than at first once there was no memory for more. */
  readonly capacity: number;
  /** Most tokens that one decode() may make. */
  readonly ringSize: number;
  readonly prefillChunks: readonly number[];
  /** A chunk takes its full time however few of its tokens are valid. */
  readonly padding: boolean;
  /** It runs while the engine waits for earlier results: running ahead hides the way to it and back. */
  readonly overlaps: boolean;
  /** Before rows up to `rows` are used: memory grows with them, where it can; where it cannot, `capacity` is what there is. */
  makeRoom(rows: number): void;
  /** What a row of the KV cache takes, of all layers. */
  readonly rowBytes: number;
  /** The first `rows` as they are after everything so far; undefined where there is no memory for a copy, or `signal` came first. */
  save(rows: number, signal: AbortSignal): Promise<SavedRows | undefined>;
  writeSampling(sampling: Sampling): void;
  writeCounts(counts: Uint32Array<ArrayBuffer>): void;
  writeCount(token: number, count: number): void;
  /** `token` is processed at `position` by the next decode step. */
  seek(position: number, token: number): void;
  /** Appends the KV rows of 1..size ids at `position`, with the last of the program's parts. */
  prefill(size: number, position: number, ids: readonly number[], part?: Part): void;
  /** `steps` decode steps in one submit, or each in several `parts`, the first at `position`: the tokens they sampled. */
  decode(steps: number, position: number, parts?: number): Promise<Uint32Array>;
  /** The plan can leave tokens out of a draw, and add to logits: the four methods below work. */
  readonly masks: boolean;
  /** A decode step up to its logits, in several `parts`; sample() goes on from there. */
  forward(parts?: number): void;
  /** Tokens that sample() may draw: bit v % 32 of word v / 32. */
  writeMask(words: Uint32Array<ArrayBuffer>): void;
  /** What sample() adds to the logits, f32 (vocabSize); zeros at first. */
  writeBias(bias: Float32Array<ArrayBuffer>): void;
  /** The rest of the decode step at `position` that forward() began, masked: its token. */
  sample(position: number): Promise<number>;
  /** Most rows that verify() may have; 0: the plan has no such program. */
  readonly verifyRows: number;
  /** What is drawn after each of `ids`, whose rows are appended at `position`; seek() and counts are the caller's to set anew. */
  verify(position: number, ids: readonly number[], parts?: number): Promise<Uint32Array>;
  /** What the last decode step computed: logits (vocabSize), or the embedding so far, of any length. */
  output(): Promise<Float32Array>;
  /** It gives embeddings: nothing is drawn, and decode() resolves with zeros. */
  readonly embeds: boolean;
  idle(): Promise<void>;
  /** A submit without work, and the way back. */
  roundTrip(): Promise<void>;
}

/** What a plan's buffers take with a KV cache of `capacity` positions. */
export function bufferSizes(plan: Plan, capacity: number): BufferSize[] {
  const size = (buffer: PlanBuffer) =>
    buffer.kind === "kv" ? { bytes: buffer.bytesPerPosition * capacity, rowBytes: buffer.bytesPerPosition } : { bytes: buffer.bytes };
  return plan.buffers.map((buffer) => ({ ...size(buffer), label: buffer.name }));
}

/** Allocates a plan's buffers for `capacity` positions: one handle for each of `plan.buffers`. */
export async function allocate(backend: Backend, plan: Plan, capacity: number): Promise<BufferHandle[]> {
  return backend.createBuffers(bufferSizes(plan, capacity));
}

function handleOf(buffers: readonly BufferHandle[], index: number): BufferHandle {
  const handle = buffers[index];
  if (handle === undefined) throw new Error(`buffer ${index} is not allocated`);
  return handle;
}

/** A plan's dispatches as the backend takes them. @param buffers from allocate() */
export function recorded(program: readonly Dispatch[], buffers: readonly BufferHandle[]): Recorded[] {
  return program.map(({ kernel, bind, grid }) => ({ kernel, buffers: bind.map((i) => handleOf(buffers, i)), grid }));
}

const bytesOf = (words: Uint32Array<ArrayBuffer> | Float32Array<ArrayBuffer>) =>
  new Uint8Array(words.buffer, words.byteOffset, words.byteLength);

export class Replay implements PlanRunner {
  readonly vocabSize: number;
  readonly ringSize: number;
  readonly prefillChunks: readonly number[];
  readonly padding: boolean;
  readonly overlaps: boolean;
  readonly masks: boolean;
  readonly embeds: boolean;
  readonly verifyRows: number;
  private readonly decodeProgram: ProgramHandle;
  /** A decode step in two: made when first wanted. */
  private halves: { forward: ProgramHandle; sample: ProgramHandle } | undefined;
  /** Made when first wanted, too. */
  private verifyProgram: ProgramHandle | undefined;
  private readonly prefillPrograms = new Map<number, ProgramHandle>();
  readonly rowBytes: number;
  private readonly cache: { buffer: BufferHandle; rowBytes: number }[];
  private readonly state: BufferHandle;
  private readonly io: Partial<Record<IoName, BufferHandle>> = {};

  /** @param buffers from allocate(); kernels are compiled */
  constructor(
    private readonly backend: Backend,
    private readonly plan: Plan,
    private readonly buffers: readonly BufferHandle[],
    private rows: number,
  ) {
    this.vocabSize = plan.vocabSize;
    this.ringSize = plan.ringSize;
    this.prefillChunks = plan.prefillChunks;
    this.padding = backend.padding;
    this.overlaps = backend.overlaps;
    this.cache = plan.buffers.flatMap((buffer, i) =>
      buffer.kind === "kv" ? [{ buffer: handleOf(buffers, i), rowBytes: buffer.bytesPerPosition }] : [],
    );
    this.rowBytes = this.cache.reduce((sum, { rowBytes }) => sum + rowBytes, 0);
    this.masks = plan.mask !== undefined;
    this.verifyRows = plan.verify?.rows ?? 0;
    this.embeds = plan.output.name === "embedding";
    let state: BufferHandle | undefined;
    plan.buffers.forEach((buffer, i) => {
      if (buffer.kind === "state") state = handleOf(buffers, i);
      if (buffer.kind === "io") this.io[buffer.name] = handleOf(buffers, i);
    });
    if (state === undefined) throw new Error("a plan without a state buffer");
    this.state = state;
    this.decodeProgram = this.record("decode", plan.decode, true);
    for (const [size, program] of plan.prefill) this.prefillPrograms.set(size, this.record(`prefill_${size}`, program));
  }

  get capacity(): number {
    return this.rows;
  }

  makeRoom(rows: number): void {
    const wanted = Math.min(rows, this.rows);
    const room = this.backend.makeRoom(wanted);
    if (room < wanted) this.rows = room;
  }

  async save(rows: number, signal: AbortSignal): Promise<SavedRows | undefined> {
    const slices = this.cache.map(({ buffer, rowBytes }) => ({ buffer, offset: 0, bytes: rows * rowBytes }));
    const saved = await this.backend.save(slices, signal);
    if (saved === undefined) return undefined;
    return {
      bytes: rows * this.rowBytes,
      restore: (count) => {
        this.makeRoom(count);
        saved.restore(this.cache.map(({ rowBytes }) => count * rowBytes));
      },
      drop: () => saved.drop(),
    };
  }

  writeSampling(sampling: Sampling): void {
    this.backend.write(this.state, 4 * STATE.seed, samplingWords(sampling));
  }

  writeCounts(counts: Uint32Array<ArrayBuffer>): void {
    this.backend.write(this.ioHandle("token_counts"), 0, bytesOf(counts));
  }

  writeCount(token: number, count: number): void {
    this.backend.write(this.ioHandle("token_counts"), 4 * token, bytesOf(Uint32Array.of(count)));
  }

  seek(position: number, token: number): void {
    this.backend.write(this.state, 4 * STATE.position, bytesOf(Uint32Array.of(position, token)));
  }

  prefill(size: number, position: number, ids: readonly number[], part = WHOLE): void {
    const program = this.prefillPrograms.get(size);
    if (program === undefined || ids.length === 0 || ids.length > size) throw new Error(`prefill_${size} of ${ids.length} tokens`);
    if (part.index === 0) {
      this.makeRoom(position + ids.length);
      // Padding gets an id too, so that no stale one is embedded.
      const padded = new Uint32Array(size);
      padded.set(ids);
      this.backend.write(this.ioHandle("input_ids"), 0, bytesOf(padded));
      this.backend.write(this.state, 4 * STATE.position, bytesOf(Uint32Array.of(position, 0, ids.length)));
    }
    this.backend.submit(program, 1, part);
  }

  async decode(steps: number, position: number, parts = 1): Promise<Uint32Array> {
    this.makeRoom(position + steps);
    if (this.embeds) {
      await this.backend.submitAndRead(this.decodeProgram, steps, [{ buffer: this.state, offset: 0, bytes: 4 }], parts);
      return new Uint32Array(steps);
    }
    return new Uint32Array(await this.backend.submitAndRead(this.decodeProgram, steps, this.drawn(steps, position), parts));
  }

  async verify(position: number, ids: readonly number[], parts = 1): Promise<Uint32Array> {
    const { verify } = this.plan;
    if (verify === undefined || ids.length === 0 || ids.length > verify.rows) throw new Error(`a draft of ${ids.length} rows`);
    this.makeRoom(position + ids.length);
    const padded = new Uint32Array(verify.rows);
    padded.set(ids);
    this.backend.write(this.ioHandle("input_ids"), 0, bytesOf(padded));
    this.backend.write(this.state, 4 * STATE.position, bytesOf(Uint32Array.of(position, 0, ids.length)));
    this.backend.write(this.state, 4 * STATE.verifiedFrom, bytesOf(Uint32Array.of(position)));
    this.verifyProgram ??= this.record(`verify_${verify.rows}`, verify.program, true);
    return new Uint32Array(await this.backend.submitAndRead(this.verifyProgram, 1, this.drawn(ids.length, position), parts));
  }

  /** Step i writes its token to ring[(position + i + 1) % ringSize]; a range that wraps is two slices. */
  private drawn(steps: number, position: number): Slice[] {
    const buffer = this.ioHandle("token_ring");
    const start = (position + 1) % this.ringSize;
    const before = Math.min(steps, this.ringSize - start);
    const slices = [{ buffer, offset: 4 * start, bytes: 4 * before }];
    if (before < steps) slices.push({ buffer, offset: 0, bytes: 4 * (steps - before) });
    return slices;
  }

  forward(parts = 1): void {
    for (let index = 0; index < parts; index++) this.backend.submit(this.inHalves().forward, 1, { index, of: parts });
  }

  writeMask(words: Uint32Array<ArrayBuffer>): void {
    this.backend.write(this.ioHandle("logit_mask"), 0, bytesOf(words));
  }

  writeBias(bias: Float32Array<ArrayBuffer>): void {
    this.backend.write(this.ioHandle("logit_bias"), 0, bytesOf(bias));
  }

  async sample(position: number): Promise<number> {
    const slice = { buffer: this.ioHandle("token_ring"), offset: 4 * ((position + 1) % this.ringSize), bytes: 4 };
    const [token] = new Uint32Array(await this.backend.submitAndRead(this.inHalves().sample, 1, [slice]));
    if (token === undefined) throw new Error("a step without its token");
    return token;
  }

  async output(): Promise<Float32Array> {
    const { name, size } = this.plan.output;
    return new Float32Array(await this.backend.read({ buffer: this.ioHandle(name), offset: 0, bytes: 4 * size }));
  }

  idle(): Promise<void> {
    return this.backend.idle();
  }

  async roundTrip(): Promise<void> {
    await this.backend.read({ buffer: this.state, offset: 0, bytes: 4 });
  }

  private inHalves(): { forward: ProgramHandle; sample: ProgramHandle } {
    if (this.halves !== undefined) return this.halves;
    const { decode, mask } = this.plan;
    const end = decode.findIndex(({ endsLogits }) => endsLogits === true) + 1;
    if (mask === undefined || end === 0) throw new Error("the plan has no mask");
    this.halves = {
      forward: this.record("decode up to the logits", decode.slice(0, end), true),
      sample: this.record("masked sampling", [mask, ...decode.slice(end)], true),
    };
    return this.halves;
  }

  private record(label: string, program: readonly Dispatch[], steady = false): ProgramHandle {
    return this.backend.record(label, recorded(program, this.buffers), steady);
  }

  private ioHandle(name: IoName): BufferHandle {
    const handle = this.io[name];
    if (handle === undefined) throw new Error(`the plan has no buffer ${name}`);
    return handle;
  }
}
