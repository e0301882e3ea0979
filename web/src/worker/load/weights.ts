// The way of a variant's weights from the fetcher into the device's buffers.

import type { Fetcher } from "../../artifact/fetch";
import type { FileEntry, Manifest, Plan, TensorCache } from "../../artifact/schema";
import type { Backend, BufferHandle } from "../../backend/backend";
import { type Piece, planUploads } from "../../runtime/upload";
import { CONSTANTS, entryOf, needsConstants } from "./needs";

/** The most of the weights that is in JavaScript's memory, from the first byte of a file until it is uploaded and stored. */
const MOST_HELD_BYTES = 64 * 2 ** 20;
const MOST_HELD_FILES = 6;
/** The most that the device has been handed and has not yet taken. Enough for queues that say so ten times a second. */
const MOST_QUEUED_BYTES = 128 * 2 ** 20;

/** A file, and where its bytes go. */
interface Upload {
  path: string;
  entry: FileEntry;
  pieces: readonly Piece[];
}

/**
 * Files are downloaded, checked, stored and uploaded side by side, as many as memory allows; JavaScript never holds the model.
 * An upload waits for neither the store nor the device, unless that is far behind.
 */
export async function uploadWeights(
  fetcher: Fetcher,
  backend: Backend,
  manifest: Manifest,
  plan: Plan,
  weights: TensorCache,
  buffers: readonly BufferHandle[],
  signal: AbortSignal,
): Promise<void> {
  const queue = new DeviceQueue(backend);
  const uploads = [...planUploads(plan, weights)].map(([{ path }, pieces]): Upload => ({ path, entry: entryOf(manifest, path), pieces }));
  if (needsConstants(plan)) uploads.unshift(constants(plan, entryOf(manifest, CONSTANTS)));
  await sideBySide(uploads, MOST_HELD_BYTES, MOST_HELD_FILES, async ({ path, entry, pieces }) => {
    const { bytes, written } = await fetcher.fetch(path, entry);
    await queue.hand(bytes.byteLength, () => {
      signal.throwIfAborted();
      for (const { buffer, offset, from, to } of pieces) {
        const handle = buffers[buffer];
        if (handle === undefined) throw new Error(`buffer ${buffer} is not allocated`);
        backend.write(handle, offset, bytes.subarray(from, to));
      }
    });
    await written;
  });
}

function constants(plan: Plan, entry: FileEntry): Upload {
  const pieces = plan.buffers.flatMap((buffer, index) =>
    buffer.kind === "constant" ? [{ buffer: index, offset: 0, from: buffer.offset, to: buffer.offset + buffer.bytes }] : [],
  );
  return { path: CONSTANTS, entry, pieces };
}

/** What the device was handed and has not said to have taken. */
class DeviceQueue {
  private queued = 0;
  private readonly waiting = new Set<Promise<void>>();

  constructor(private readonly backend: Backend) {}

  /** Does `write`, which hands `bytes` over, when there is room for them. @throws what the device has to say of earlier ones */
  async hand(bytes: number, write: () => void): Promise<void> {
    while (this.waiting.size > 0 && this.queued + bytes > MOST_QUEUED_BYTES) await Promise.race(this.waiting);
    write();
    this.queued += bytes;
    const taken: Promise<void> = this.backend.idle().then(() => {
      this.queued -= bytes;
      this.waiting.delete(taken);
    });
    taken.catch(() => undefined); // Who waits for room hears of it.
    this.waiting.add(taken);
  }
}

/**
 * Runs `work` for every item, in their order, as many at a time as take at most `bytes` together (one at least) and are no
 * more than `most`.
 */
export async function sideBySide<T extends { entry: { bytes: number } }>(
  items: readonly T[],
  bytes: number,
  most: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let held = 0;
  const running = new Set<Promise<void>>();
  for (const item of items) {
    const size = item.entry.bytes;
    while (running.size > 0 && (held + size > bytes || running.size >= most)) await Promise.race(running);
    held += size;
    const done: Promise<void> = work(item).finally(() => {
      held -= size;
      running.delete(done);
    });
    done.catch(() => undefined); // Promise.race or Promise.all has it, the first one at least.
    running.add(done);
  }
  await Promise.all(running);
}
