// Puts weights where a plan wants them: rows of a tensor, from one or several shards, into one or several buffers.
// Pure planning; worker/load/weights.ts does the writing. Knows records and buffers, not their use.

import { type Plan, rowBytes, type Shard, type TensorCache } from "../artifact/schema";

/** Bytes `[from, to)` of a shard go to `offset` of the plan's buffer `buffer`. */
export interface Piece {
  buffer: number;
  offset: number;
  from: number;
  to: number;
}

/** For every shard that the plan needs anything of, what goes where. */
export function planUploads(plan: Plan, weights: TensorCache): Map<Shard, Piece[]> {
  const wanted = new Map<string, number[]>();
  plan.buffers.forEach((buffer, i) => {
    if (buffer.kind !== "weight") return;
    const others = wanted.get(buffer.name);
    if (others === undefined) wanted.set(buffer.name, [i]);
    else others.push(i);
  });
  const uploads = new Map<Shard, Piece[]>();
  for (const shard of weights.shards) {
    const pieces: Piece[] = [];
    for (const record of shard.records) {
      const size = rowBytes(record.shape, record.dtype);
      const recordStop = record.rowOffset + (record.shape[0] ?? 0);
      for (const index of wanted.get(record.name) ?? []) {
        const buffer = plan.buffers[index];
        if (buffer?.kind !== "weight") continue;
        const start = Math.max(record.rowOffset, buffer.rows[0]);
        const stop = Math.min(recordStop, buffer.rows[1]);
        if (start >= stop) continue;
        const at = record.byteOffset - record.rowOffset * size;
        pieces.push({ buffer: index, offset: (start - buffer.rows[0]) * size, from: at + start * size, to: at + stop * size });
      }
    }
    if (pieces.length > 0) uploads.set(shard, pieces);
  }
  return uploads;
}
