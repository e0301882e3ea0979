// One sequence on one plan runner: what the KV cache holds, prefill of what is new, the decode loop, stopping, and going on
// where it was on another runner when this one fails.
//
// Knows token ids and positions; sees neither text nor the GPU. One call at a time: the caller queues.
// Invariant between calls: rows 0..resident.length-1 of the KV cache are those of the ids `resident`.

import type { Constraint } from "../api/constraint";
import { RequestError } from "../api/errors";
import type { EngineStats } from "../api/types";
import { type Clock, systemClock } from "./clock";
import { decodeConstrained } from "./constraint";
import type { Draft } from "./draft";
import { type Paces, pacesOf } from "./paces";
import { type Chunk, chunkCost, commonPrefix, coverPrompt } from "./prefill";
import { Prefixes } from "./prefixes";
import { pump, type Work } from "./pump";
import { type PlanRunner, type Part, WHOLE } from "./replay";
import { answerCounts, GREEDY, leftWindow, penalizes, type Sampling } from "./sampling";

export interface GenerateRequest {
  ids: readonly number[];
  sampling: Sampling;
  /** undefined: up to the end of the context. */
  maxTokens: number | undefined;
  stopTokenIds: ReadonlySet<number>;
  /** So many of `ids`, the last, are the answer's beginning; default: none. */
  answered?: number;
  /** Penalties look at so many of the last tokens; default: at all. */
  repetitionWindow?: number;
  signal: AbortSignal;
  /** Called with every token but the stop token; true ends the generation (a stop string). */
  onToken?: (token: number) => boolean;
  /** Looks at the logits of each step, which are read back then, one step at a time. */
  watch?: Watch | undefined;
  /** What the tokens must be. */
  constraint?: Constraint | undefined;
  /** What they are expected to repeat; it changes no token, and nothing at all beside `watch`, `constraint` and a window. */
  draft?: Draft | undefined;
}

/**
 * @param logits f32 (vocabSize), of the step that sampled `token`
 * @param position of that token
 * @param generated what came before it in the answer
 * @returns the token to go on with: that one, or another in its place
 */
export type Watch = (logits: Float32Array, token: number, position: number, generated: readonly number[]) => number | Promise<number>;

export interface Generation {
  /** Without the stop token. */
  tokens: number[];
  finishReason: "stop" | "length" | "abort";
  promptTokens: number;
  reusedTokens: number;
  /** From the call to the first token. */
  prefillMs: number;
  /** From the first token to the last, and the number of tokens that came in it. */
  decodeMs: number;
  decodedTokens: number;
}

export type SessionCounters = Pick<
  EngineStats,
  "tokens" | "decodeSteps" | "promptTokens" | "reusedTokens" | "restoredTokens" | "requests" | "prefillMs" | "decodeMs"
>;

/** Programs that take longer are handed over in parts: between them an abort takes effect, and no watchdog bites. */
const PART_MS = 200;
const UNKNOWN_PARTS = 4;

/** Rows are set aside when so many would be lost, and not few beside those that stay; and taken when so many more are had. */
const LEAST_LOST = 32;
const MOST_SHARED = 4;
const LEAST_RESTORED = 16;
/** What is set aside takes no more than the cache itself, nor than this. */
const MOST_PREFIX_BYTES = 2 ** 29;

const prefixesOf = ({ capacity, rowBytes }: PlanRunner): Prefixes => new Prefixes(Math.min(MOST_PREFIX_BYTES, capacity * rowBytes));

/** What the decode loop has done so far. */
interface Progress {
  submitted: number;
  /** Every token read back, the stop token too. */
  sampled: number[];
  finishReason: Generation["finishReason"];
  firstAt: number;
  lastAt: number;
}

/**
 * The runner to go on with after `failed` threw `error`: one that holds no KV row yet.
 * Throws, best `error` itself, when there is none or when the error is not the runner's.
 */
export type Replace = (failed: PlanRunner, error: unknown) => Promise<PlanRunner>;

const noOther: Replace = (_failed, error) => {
  throw error;
};

export class Session {
  readonly counters: SessionCounters = {
    tokens: 0,
    decodeSteps: 0,
    promptTokens: 0,
    reusedTokens: 0,
    restoredTokens: 0,
    requests: 0,
    prefillMs: 0,
    decodeMs: 0,
  };
  private resident: number[] = [];
  private prefixes: Prefixes;
  private paces: Paces;

  constructor(
    private runner: PlanRunner,
    private readonly replace: Replace = noOther,
    private readonly clock: Clock = systemClock,
  ) {
    this.paces = pacesOf(runner);
    this.prefixes = prefixesOf(runner);
  }

  /** Tokens that prompt and answer may have together. */
  get capacity(): number {
    return this.runner.capacity;
  }

  /** Whether requests may have a constraint. */
  get constrains(): boolean {
    return this.runner.masks;
  }

  /** Ids whose KV rows are there. */
  get residentIds(): readonly number[] {
    return this.resident;
  }

  /** Nothing is there any more, nor set aside. */
  reset(): void {
    this.resident = [];
    this.prefixes.clear();
  }

  /** Learns how late the device answers, while nothing runs: the pace need not find out then. */
  async measureLatency(): Promise<void> {
    const { runner, clock, paces } = this;
    if (!runner.overlaps) return;
    try {
      await runner.roundTrip(); // The next one starts when an answer has just come, as those of a running answer do.
      const startedAt = clock.now();
      await runner.roundTrip();
      paces.decode.knowEmptyTrip(clock.now() - startedAt);
    } catch {
      // The first request meets the failure, and what replaces the runner.
    }
  }

  /**
   * What a step computes after the last id, from position 0: f32 logits (vocabSize), or the pooled hidden state of all ids.
   * Undefined: aborted.
   * @throws RequestError
   */
  async output(ids: readonly number[], signal: AbortSignal): Promise<Float32Array | undefined> {
    this.checkIds(ids);
    const output = await this.persist(signal, async () => {
      this.placeFor(ids); // The next runner may have memory for fewer rows.
      this.resident = [];
      if (!(await this.prefill(ids, signal))) return undefined;
      this.runner.writeSampling(GREEDY);
      this.runner.seek(ids.length - 1, ids.at(-1) ?? 0);
      await this.runner.decode(1, ids.length - 1);
      return this.runner.output();
    });
    if (output === undefined) return undefined;
    this.counters.requests += 1;
    this.counters.promptTokens += ids.length;
    this.counters.decodeSteps += 1;
    this.resident = [...ids];
    return output;
  }

  /** f32 logits (vocabSize) after the last id, from position 0. @throws RequestError */
  async logits(ids: readonly number[]): Promise<Float32Array> {
    const logits = await this.output(ids, new AbortController().signal);
    if (logits === undefined) throw new Error("aborted by nobody");
    return logits;
  }

  /** @throws RequestError for ids that are none, out of the vocabulary or more than the context holds */
  async generate(request: GenerateRequest): Promise<Generation> {
    const { ids, sampling, signal } = request;
    this.checkIds(ids);
    const constrained = request.constraint !== undefined;
    if (constrained && !this.runner.masks) throw noMask();
    const startedAt = this.clock.now();
    this.counters.requests += 1;
    if (!signal.aborted) this.counters.promptTokens += ids.length;
    let reusedTokens: number | undefined;
    const progress: Progress = { submitted: 0, sampled: [], finishReason: "length", firstAt: startedAt, lastAt: startedAt };
    const ended = await this.persist(signal, async () => {
      // A request that was given up while it waited leaves no trace in the KV cache.
      if (signal.aborted) return false;
      const kept = await this.rewind(ids, signal);
      if (kept === undefined) return false;
      reusedTokens ??= kept;
      // What a runner that failed had sampled is prompt to the next one: the sampler knows seed and position only.
      const rows = [...ids, ...progress.sampled];
      // The next runner may have memory for fewer rows.
      if (progress.sampled.length === 0) this.placeFor(ids);
      else {
        this.runner.makeRoom(rows.length);
        if (rows.length > this.runner.capacity) return true;
      }
      progress.submitted = progress.sampled.length;
      if (!(await this.prefill(rows, signal))) return false;
      this.runner.writeSampling(sampling);
      if (penalizes(sampling))
        this.runner.writeCounts(answerCounts(...answerOf(request, progress), this.runner.vocabSize, request.repetitionWindow));
      this.runner.seek(rows.length - 1, rows.at(-1) ?? 0);
      if (progress.sampled.length > 0) progress.lastAt = this.clock.now(); // The way to here is no measure of the pace.
      if (constrained) {
        await this.decodeConstrained(request, progress);
      } else {
        if (request.watch !== undefined) await this.decodeWatched(request, progress, request.watch);
        else if (request.draft !== undefined) await this.decodeDrafted(request, progress, request.draft);
        else await this.decode(request, progress);
        this.settle(ids, progress);
      }
      return true;
    });
    if (ended !== true) progress.finishReason = "abort";
    reusedTokens ??= 0;
    this.counters.reusedTokens += reusedTokens;
    const { sampled, finishReason, firstAt, lastAt } = progress;
    const last = sampled.at(-1);
    const stopped = finishReason === "stop" && last !== undefined && request.stopTokenIds.has(last);
    const generation: Generation = {
      tokens: stopped ? sampled.slice(0, -1) : sampled,
      finishReason,
      promptTokens: ids.length,
      reusedTokens,
      prefillMs: firstAt - startedAt,
      decodeMs: lastAt - firstAt,
      decodedTokens: Math.max(0, sampled.length - 1),
    };
    this.counters.prefillMs += generation.prefillMs;
    this.counters.decodeMs += generation.decodeMs;
    return generation;
  }

  /** Makes room for them. @throws RequestError when there is none */
  private placeFor(ids: readonly number[]): void {
    this.runner.makeRoom(ids.length);
    this.checkIds(ids);
  }

  /** Of a runner that may have failed: asks the device for nothing. @throws RequestError for ids that are none, or too many */
  private checkIds(ids: readonly number[]): void {
    const { vocabSize, capacity } = this.runner;
    if (ids.length === 0) throw new RequestError({ what: "the prompt", got: "no token", expected: "at least one" });
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (wrong !== undefined)
      throw new RequestError({ what: "a token id", got: String(wrong), expected: `an integer from 0 to ${vocabSize - 1}` });
    if (ids.length > capacity)
      throw new RequestError(
        {
          what: "the prompt is longer than the context",
          got: `${ids.length} tokens`,
          expected: `at most ${capacity}`,
          remedy: "Shorten the prompt or the conversation, or compile the model with a larger --context.",
        },
        "context-overflow",
      );
  }

  /**
   * Keeps the KV rows that `ids` shares with what is resident, or with what was set aside, and sets aside what would be lost;
   * the last id is always decoded anew. The number of rows that are there;
   * undefined, with all as it was, when `signal` came while rows were set aside.
   */
  private async rewind(ids: readonly number[], signal: AbortSignal): Promise<number | undefined> {
    const { runner, resident, prefixes } = this;
    const shared = Math.min(commonPrefix(resident, ids), ids.length - 1);
    const lost = resident.length - shared;
    const worth = lost >= LEAST_LOST && lost >= shared / MOST_SHARED && prefixes.wants(resident, resident.length * runner.rowBytes);
    const saved = worth ? await runner.save(resident.length, signal) : undefined;
    if (signal.aborted) {
      saved?.drop();
      return undefined;
    }
    const kept = prefixes.take(ids, shared + LEAST_RESTORED);
    const length = kept === undefined ? shared : Math.min(kept.length, ids.length - 1);
    kept?.rows.restore(length);
    this.counters.restoredTokens += length - shared;
    this.resident = ids.slice(0, length);
    if (saved !== undefined) prefixes.add(resident, saved); // Now, as it may take the place of what was restored.
    return length;
  }

  /** Makes all but the last of `ids` resident. False when the signal ended it before. */
  private prefill(ids: readonly number[], signal: AbortSignal): Promise<boolean> {
    return this.runner.padding ? this.prefillAhead(ids, signal) : this.prefillSoon(ids, signal);
  }

  /** In chunks that end soon, one after another. */
  private async prefillSoon(ids: readonly number[], signal: AbortSignal): Promise<boolean> {
    const { runner, clock } = this;
    const { chunks } = this.paces;
    for (let left = ids.length - 1 - this.resident.length; left > 0; left = ids.length - 1 - this.resident.length) {
      if (signal.aborted) return false;
      const chunk = chunks.next(left, runner.prefillChunks);
      const startedAt = clock.now();
      this.append(ids, chunk);
      await runner.idle();
      chunks.observe(clock.now() - startedAt, chunk.length);
    }
    return !signal.aborted;
  }

  /** Hands everything over at the device's pace; what follows queues behind it. */
  private async prefillAhead(ids: readonly number[], signal: AbortSignal): Promise<boolean> {
    const { runner, clock } = this;
    const { prefill: pace, decode } = this.paces;
    const chunks = coverPrompt(ids.length - 1 - this.resident.length, runner.prefillChunks);
    pace.knowEmptyTrip(decode.latencyMs);
    let part: Part | undefined;
    const next = (): Work<void> | undefined => {
      const chunk = chunks[0];
      if (chunk === undefined) return undefined;
      part ??= { index: 0, of: pace.unitMs === undefined ? UNKNOWN_PARTS : Math.ceil((pace.unitMs * chunkCost(chunk)) / PART_MS) };
      const { index, of } = part;
      const start = (): Promise<void> => {
        this.append(ids, chunk, { index, of });
        part = index + 1 < of ? { index: index + 1, of } : undefined;
        if (part === undefined) chunks.shift();
        return runner.idle();
      };
      return { units: chunkCost(chunk) / of, start };
    };
    return (await pump({ pace, clock, signal, next, onResult: () => false, handOver: true })) === "done";
  }

  /** Hands the next ids over, or a part of their program; they are resident with the last one. */
  private append(ids: readonly number[], { size, length }: Chunk, part: Part = WHOLE): void {
    const position = this.resident.length;
    const piece = ids.slice(position, position + length);
    this.runner.prefill(size, position, piece, part);
    if (part.index === part.of - 1) this.resident.push(...piece);
  }

  /**
   * As decode(), a draft's tokens verified some at a time: the rows of those that were wrong are dead. A draw depends on logits,
   * seed and position alone, so that the tokens are those of decode(), up to the rounding of sums.
   */
  private async decodeDrafted(request: GenerateRequest, progress: Progress, draft: Draft): Promise<void> {
    const { runner, clock } = this;
    const { ids, sampling, signal } = request;
    const cost = this.paces.verify;
    const gone = aborted(signal);
    const most = () => Math.min(request.maxTokens ?? Infinity, runner.capacity - ids.length + 1) - progress.submitted;
    while (draft.pays && windowOf(request) === Infinity && runner.verifyRows > 0 && most() > 0) {
      const position = ids.length - 1 + progress.submitted;
      const guessed = draft.guess(Math.min(runner.verifyRows, most()) - 1);
      runner.makeRoom(position + 1 + guessed.length);
      if (most() < 1 + guessed.length) continue; // There is no memory for so many.
      const rows = [progress.sampled.at(-1) ?? ids.at(-1) ?? 0, ...guessed];
      const startedAt = clock.now();
      const parts = Math.max(1, Math.ceil(((this.paces.decode.unitMs ?? 0) * (guessed.length > 0 ? cost.steps : 1)) / PART_MS));
      const drawn = await Promise.race([
        guessed.length > 0 ? runner.verify(position, rows, parts) : runner.decode(1, position, parts),
        gone,
      ]);
      if (drawn === false) {
        progress.finishReason = "abort";
        return;
      }
      this.counters.decodeSteps += 1;
      if (guessed.length > 0) cost.verified(clock.now() - startedAt);
      else cost.step(clock.now() - startedAt);
      const wrong = guessed.findIndex((id, i) => drawn[i] !== id);
      const right = wrong === -1 ? rows.length : wrong + 1;
      progress.submitted += right;
      if (guessed.length > 0) draft.verified(guessed.length, right, cost.steps);
      for (const token of drawn.slice(0, right)) {
        draft.take(token);
        if (!this.take(token, request, progress)) continue;
        progress.finishReason = "stop";
        return;
      }
      if (guessed.length === 0) continue;
      runner.seek(position + right, drawn[right - 1] ?? 0);
      if (penalizes(sampling) && right < runner.verifyRows)
        runner.writeCounts(answerCounts(...answerOf(request, progress), runner.vocabSize));
    }
    await this.decode(request, progress);
  }

  private async decode(request: GenerateRequest, progress: Progress): Promise<void> {
    const { runner, clock } = this;
    const { decode: pace } = this.paces;
    const { ids, signal } = request;
    const window = windowOf(request);
    const most = () => Math.min(request.maxTokens ?? Infinity, runner.capacity - ids.length + 1) - progress.submitted;
    const next = (): Work<Uint32Array> | undefined => {
      // Which token leaves a window is known when the one before has come.
      const ahead = window === Infinity ? runner.ringSize : 1 + progress.sampled.length - progress.submitted;
      const wanted = Math.min(pace.perSubmit, most(), ahead);
      if (wanted <= 0) return undefined;
      runner.makeRoom(ids.length - 1 + progress.submitted + wanted);
      const steps = Math.min(wanted, most()); // There may be no memory for so many.
      if (steps <= 0) return undefined;
      const start = (): Promise<Uint32Array> => {
        const parts = Math.ceil((pace.unitMs ?? 0) / PART_MS);
        const tokens = runner.decode(steps, ids.length - 1 + progress.submitted, Math.max(1, parts));
        progress.submitted += steps;
        this.counters.decodeSteps += steps;
        return tokens;
      };
      return { units: steps, start };
    };
    const onResult = (tokens: Uint32Array): boolean => {
      for (const token of tokens) {
        if (!this.take(token, request, progress)) continue;
        progress.finishReason = "stop";
        return true;
      }
      return false;
    };
    if ((await pump({ pace, clock, signal, next, onResult })) === "aborted") progress.finishReason = "abort";
  }

  /** A token has come. True when it ends the answer. */
  private take(token: number, request: GenerateRequest, progress: Progress): boolean {
    const { stopTokenIds, onToken } = request;
    const now = this.clock.now();
    if (progress.sampled.length === 0) progress.firstAt = now;
    progress.lastAt = now;
    progress.sampled.push(token);
    const window = windowOf(request);
    const left = window === Infinity ? undefined : leftWindow(...answerOf(request, progress), window);
    if (left !== undefined) this.runner.writeCount(left.token, left.count);
    this.counters.tokens += 1;
    return stopTokenIds.has(token) || onToken?.(token) === true;
  }

  /** As decode(), a step at a time: the next one begins when the last one's token is settled. */
  private async decodeWatched(request: GenerateRequest, progress: Progress, watch: Watch): Promise<void> {
    const { runner } = this;
    const { ids, signal } = request;
    const gone = aborted(signal);
    const isGone = () => signal.aborted;
    for (;;) {
      const position = ids.length - 1 + progress.submitted;
      const most = () => Math.min(request.maxTokens ?? Infinity, runner.capacity - ids.length + 1) - progress.submitted;
      if (most() > 0) runner.makeRoom(position + 1);
      if (most() <= 0) return; // There may be no memory for one more.
      const parts = Math.max(1, Math.ceil((this.paces.decode.unitMs ?? 0) / PART_MS));
      progress.submitted += 1;
      this.counters.decodeSteps += 1;
      const step = runner.decode(1, position, parts).then(async ([sampled = 0]) => {
        const logits = isGone() ? undefined : await runner.output();
        if (logits === undefined || isGone()) return sampled; // The device is the next request's.
        const token = await watch(logits, sampled, position + 1, progress.sampled);
        if (token !== sampled && !isGone()) runner.seek(position + 1, token);
        return token;
      });
      const token = await Promise.race([step, gone]);
      if (token === false) {
        step.catch(() => undefined); // Nobody waits for it any more.
        progress.finishReason = "abort";
        return;
      }
      if (!this.take(token, request, progress)) continue;
      progress.finishReason = "stop";
      return;
    }
  }

  /** As decode(), for answers that are constrained. Leaves no row behind that is not resident. */
  private async decodeConstrained(request: GenerateRequest, progress: Progress): Promise<void> {
    const { runner } = this;
    const { ids, signal, constraint } = request;
    const rows = [...ids, ...progress.sampled];
    const gone = aborted(signal);
    const parts = runner.overlaps ? Math.max(1, Math.ceil((this.paces.decode.unitMs ?? 0) / PART_MS)) : 1;
    runner.writeBias(new Float32Array(runner.vocabSize));
    /** Rows that are resident, or will be once their token is known. */
    let begun = rows.length - 1;
    const outcome = await decodeConstrained(
      {
        overlaps: runner.overlaps,
        left: (wanted = 1) => {
          const most = () => Math.min(request.maxTokens ?? Infinity, runner.capacity - ids.length + 1) - progress.sampled.length;
          if (most() > 0) runner.makeRoom(rows.length - 1 + Math.min(wanted, most()));
          return most(); // There may be no memory for so many.
        },
        prefill: async () => {
          if (!(await this.prefill(rows, signal))) return false;
          runner.seek(rows.length - 1, rows.at(-1) ?? 0);
          begun = rows.length - 1;
          if (penalizes(request.sampling))
            runner.writeCounts(answerCounts(ids, progress.sampled, runner.vocabSize, request.repetitionWindow));
          return true;
        },
        forward: () => {
          runner.forward(parts);
          const token = rows[begun++];
          if (token !== undefined) this.resident.push(token);
          this.counters.decodeSteps += 1;
        },
        writeMask: (words) => runner.writeMask(words),
        sample: async () => {
          const token = await Promise.race([runner.sample(rows.length - 1), gone]);
          return token === false ? undefined : token;
        },
        take: (token) => {
          rows.push(token);
          if (this.resident.length < begun) this.resident.push(token);
          return this.take(token, request, progress);
        },
      },
      constraint,
      new Uint32Array(Math.ceil(runner.vocabSize / 32)).fill(0xffffffff),
    );
    progress.finishReason = outcome;
  }

  /**
   * After an early stop the device may have run further than was read back. Rows of unread tokens are dead: the next
   * request writes its own position, after everything submitted so far.
   */
  private settle(ids: readonly number[], { submitted, sampled }: Progress): void {
    const rows = ids.length - 1 + submitted;
    this.resident = [...ids, ...sampled].slice(0, rows);
  }

  /**
   * Does `work`, and again on every runner that replaces one that failed; `work` takes up what it had reached.
   * A failure leaves the KV cache in an unknown state. Undefined: aborted while the replacement was being made.
   */
  private async persist<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T | undefined> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        this.reset();
        const replaced = this.replace(this.runner, error).then((runner) => {
          this.runner = runner;
          this.paces = pacesOf(runner);
          this.prefixes = prefixesOf(runner);
          return true;
        });
        if (await Promise.race([replaced, aborted(signal)])) continue;
        replaced.catch(() => undefined); // The next request meets the failed runner again, and its replacement.
        return undefined;
      }
    }
  }
}

/** How many tokens the sampler's counts are of. */
function windowOf({ sampling, repetitionWindow = Infinity }: GenerateRequest): number {
  return penalizes(sampling) ? repetitionWindow : Infinity;
}

/** What was asked, and what is answered so far. */
function answerOf({ ids, answered = 0 }: GenerateRequest, { sampled }: Progress): [asked: readonly number[], answer: readonly number[]] {
  return [ids.slice(0, ids.length - answered), [...ids.slice(ids.length - answered), ...sampled]];
}

function noMask(): RequestError {
  return new RequestError({
    what: "The artifact's plan cannot constrain an answer",
    got: "a plan without the program mask, of an earlier compiler",
    remedy: "Compile the model again; answers without a constraint work as they are.",
  });
}

/** False, once the signal aborts. */
function aborted(signal: AbortSignal): Promise<false> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(false);
    else signal.addEventListener("abort", () => resolve(false), { once: true });
  });
}
