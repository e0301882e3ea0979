// What tabs of a site tell each other about its models: who works on one, and that something has changed. Where a browser has no
// locks, each is alone.

/** Of messages to everybody who listens, this tab and its workers too. */
const CHANNEL = "wisp-models";
/** The store itself, for as long as it is put in order. */
const STORE = "wisp store";

function lockManager(): LockManager | undefined {
  return (globalThis as { navigator?: { locks?: LockManager } }).navigator?.locks;
}

/** Runs `work` while nobody else puts the store in order. */
export async function alone<T>(work: () => Promise<T>): Promise<T> {
  const locks = lockManager();
  return locks === undefined ? work() : await locks.request(STORE, work);
}

/** Runs `work`, which needs the files of the artifact at `base`: nobody deletes them meanwhile. */
export async function inUse<T>(base: string, work: () => Promise<T>): Promise<T> {
  const locks = lockManager();
  return locks === undefined ? work() : await locks.request(`wisp model ${base}`, { mode: "shared" }, work);
}

/** Runs `work` unless somebody is at the files of the artifact at `base`. @returns whether it ran */
export async function unlessInUse(base: string, work: () => Promise<void>): Promise<boolean> {
  const run = async (lock: unknown) => {
    if (lock !== null) await work();
    return lock !== null;
  };
  const locks = lockManager();
  return locks === undefined ? run(undefined) : await locks.request(`wisp model ${base}`, { ifAvailable: true }, run);
}

/** What is kept of the artifact at `base` has changed. */
export function announceChange(base: string): void {
  if (typeof BroadcastChannel === "undefined") return;
  const channel = new BroadcastChannel(CHANNEL);
  channel.postMessage(base);
  channel.close();
}

/** @returns what ends it */
export function onChange(listener: (base: string) => void): () => void {
  if (typeof BroadcastChannel === "undefined") return () => undefined;
  const channel = new BroadcastChannel(CHANNEL);
  channel.onmessage = ({ data }) => listener(String(data));
  return () => channel.close();
}
