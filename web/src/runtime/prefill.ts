// Covers a prompt with the chunk sizes a plan was compiled for; where padding costs nothing, with chunks that end soon. Pure.

export interface Chunk {
  /** The compiled size: which program runs. */
  size: number;
  /** Tokens of it that are valid; the rest is padding. */
  length: number;
}

/** What running a program costs besides its tokens, in tokens: every program reads all the weights once. */
const PROGRAM_COST = 8;

/** What a chunk's program costs, in tokens. */
export function chunkCost({ size }: Chunk): number {
  return size + PROGRAM_COST;
}

/**
 * The cheapest cover of `count` tokens, largest chunks first, so that only the last one has padding.
 * @param sizes compiled chunk sizes
 */
export function coverPrompt(count: number, sizes: readonly number[]): Chunk[] {
  const descending = sizes.toSorted((a, b) => b - a);
  const largest = descending[0];
  if (count === 0) return [];
  if (largest === undefined) throw new Error("a plan without prefill programs");
  const chosen: number[] = [];
  // Beyond two of the largest chunk another one is never worse than any mixture.
  let rest = count;
  while (rest > 2 * largest) {
    chosen.push(largest);
    rest -= largest;
  }
  chosen.push(...cheapest(rest, descending));
  let left = count;
  return chosen.map((size) => {
    const length = Math.min(size, left);
    left -= length;
    return { size, length };
  });
}

/** Dynamic programming over the number of tokens still to cover. */
function cheapest(count: number, descending: readonly number[]): number[] {
  const cost = new Float64Array(count + 1);
  const first = new Int32Array(count + 1);
  for (let n = 1; n <= count; n++) {
    cost[n] = Infinity;
    for (const size of descending) {
      const total = size + PROGRAM_COST + (cost[Math.max(0, n - size)] ?? 0);
      if (total < (cost[n] ?? Infinity)) {
        cost[n] = total;
        first[n] = size;
      }
    }
  }
  const sizes: number[] = [];
  for (let n = count; n > 0; n -= first[n] ?? n) sizes.push(first[n] ?? n);
  return sizes.sort((a, b) => b - a);
}

/** About as long as a pressed Stop may take to show. */
const CHUNK_MS = 80;
const FIRST_TOKENS = 16;
/** Kernels take tokens by tiles of this many. */
const TILE = 8;

/** Lengths of chunks that end soon, for runners to which a part of a chunk costs just that part. */
export class ChunkPace {
  /** Smoothed; undefined until a chunk was timed. */
  private tokenMs: number | undefined;

  /** A chunk of `tokens` took `ms`. */
  observe(ms: number, tokens: number): void {
    const sample = ms / tokens;
    this.tokenMs = this.tokenMs === undefined ? sample : 0.5 * this.tokenMs + 0.5 * sample;
  }

  /** The next chunk when `left` tokens are to come. @param sizes compiled chunk sizes */
  next(left: number, sizes: readonly number[]): Chunk {
    const soon = this.tokenMs === undefined ? FIRST_TOKENS : Math.floor(CHUNK_MS / Math.max(this.tokenMs, 0.01) / TILE) * TILE;
    const length = Math.min(left, Math.max(TILE, soon), Math.max(...sizes));
    return { size: Math.min(...sizes.filter((size) => size >= length)), length };
  }
}

/** How many ids two sequences share from their start. */
export function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length);
  let length = 0;
  while (length < most && a[length] === b[length]) length++;
  return length;
}
