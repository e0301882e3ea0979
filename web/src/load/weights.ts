// The weights of a variant: which files it needs, and their way from the fetcher into the device's buffers.

import { fail } from "../artifact/checks";
import { type Fetcher, inOrder } from "../artifact/fetch";
import type { FileEntry, Manifest, Plan, TensorCache, Variant } from "../artifact/schema";
import type { Backend, BufferHandle } from "../backend/backend";
import { planUploads } from "../runtime/upload";

/** Shards under way or waiting for their upload. */
const SHARDS_AHEAD = 2;
const CONSTANTS = "constants.bin";

export function entryOf(manifest: Manifest, path: string): FileEntry {
  return manifest.files.get(path) ?? fail("model.json", `files has no ${path}`, undefined, "its size and SHA-256");
}

function needsConstants(plan: Plan): boolean {
  return plan.buffers.some((buffer) => buffer.kind === "constant");
}

/** What this variant needs beyond what every one needs. @param kernels the files of its kernels */
export function variantBytes(manifest: Manifest, variant: Variant, plan: Plan, weights: TensorCache, kernels: readonly string[]): number {
  const shards = [...planUploads(plan, weights).keys()].map((shard) => shard.path);
  const paths = [variant.plan, ...kernels, ...(needsConstants(plan) ? [CONSTANTS] : []), ...shards];
  return paths.reduce((sum, path) => sum + entryOf(manifest, path).bytes, 0);
}

/** Two shards under way, one being uploaded: JavaScript never holds the model. */
export async function uploadWeights(
  fetcher: Fetcher,
  backend: Backend,
  manifest: Manifest,
  plan: Plan,
  weights: TensorCache,
  buffers: readonly BufferHandle[],
  signal: AbortSignal,
): Promise<void> {
  const write = (index: number, offset: number, data: Uint8Array<ArrayBuffer>) => {
    const handle = buffers[index];
    if (handle === undefined) throw new Error(`buffer ${index} is not allocated`);
    backend.write(handle, offset, data);
  };
  if (needsConstants(plan)) {
    const constants = await fetcher.file(CONSTANTS, entryOf(manifest, CONSTANTS));
    plan.buffers.forEach((buffer, i) => {
      if (buffer.kind === "constant") write(i, 0, constants.subarray(buffer.offset, buffer.offset + buffer.bytes));
    });
  }
  const uploads = [...planUploads(plan, weights)];
  for await (const [[, pieces], bytes] of inOrder(uploads, SHARDS_AHEAD, ([shard]) => fetcher.file(shard.path, entryOf(manifest, shard.path)))) {
    signal.throwIfAborted();
    for (const { buffer, offset, from, to } of pieces) write(buffer, offset, bytes.subarray(from, to));
    await backend.idle();
  }
}
