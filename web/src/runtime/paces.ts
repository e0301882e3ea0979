// What a session learns of its runner's speed, and how far ahead it runs on one that it knows nothing of yet.

import { DraftCost } from "./draft";
import { Pace } from "./pace";
import { ChunkPace, chunkCost } from "./prefill";
import type { PlanRunner } from "./replay";

/** Prefill chunks in flight before anything was measured. */
const FIRST_CHUNKS = 2;

/** What is known of a runner's speed. */
export interface Paces {
  decode: Pace;
  /** In units of chunkCost(). */
  prefill: Pace;
  /** Of a runner to which a part of a chunk costs just that part. */
  chunks: ChunkPace;
  verify: DraftCost;
}

/** Where steps do not run while the engine waits there is nothing to hide, and one at a time is best. */
export function pacesOf({ overlaps, prefillChunks }: PlanRunner): Paces {
  const largest = Math.max(0, ...prefillChunks);
  const start = FIRST_CHUNKS * chunkCost({ size: largest, length: largest });
  return {
    decode: new Pace({ most: overlaps ? Infinity : 1 }),
    prefill: new Pace({ start, resample: false }),
    chunks: new ChunkPace(),
    verify: new DraftCost(),
  };
}
