// Ports of one worker: whose turn it is, and whose a model is.
import { expect, test, vi } from "vitest";
import { type Client, Models, TurnQueue } from "../../src/worker/clients";
import type { LoadedModel } from "../../src/worker/load/load";

const client = (): Client => ({ post: vi.fn() });

test("clients take turns, each in its own order, and a failure ends none but its own", async () => {
  const queue = new TurnQueue();
  const [one, two] = [client(), client()];
  const order: string[] = [];
  const work = (name: string) => async () => {
    order.push(name);
    await Promise.resolve();
    if (name === "a2") throw new Error(name);
    return name;
  };
  const names = ["a1", "a2", "a3", "a4"];
  const many = names.map((name, id) => queue.run(one, id, work(name)));
  const few = ["b1", "b2"].map((name, id) => queue.run(two, id, work(name)));
  const outcomes = await Promise.allSettled([...many, ...few]);
  expect(order).toEqual(["a1", "b1", "a2", "b2", "a3", "a4"]);
  expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled", "fulfilled", "fulfilled", "fulfilled"]);
  expect(queue.running).toBeUndefined();
});

function loads() {
  const dispose = vi.fn();
  const settle: { resolve: () => void; reject: (error: Error) => void }[] = [];
  const start = vi.fn(
    () =>
      new Promise<LoadedModel>((resolve, reject) =>
        settle.push({ resolve: () => resolve({ supervisor: { dispose } } as unknown as LoadedModel), reject }),
      ),
  );
  return { dispose, start, settle };
}

test("one load serves all who ask for the same, and the last one frees the model", async () => {
  const models = new Models();
  const [one, two] = [client(), client()];
  const { start, settle, dispose } = loads();
  const shared = models.join(one, "m", start);
  expect(models.join(two, "m", start)).toBe(shared);
  expect(models.join(two, undefined, start), "nobody else's").not.toBe(shared);
  expect(start).toHaveBeenCalledTimes(2);
  settle[0]?.resolve();
  await shared.loading;
  models.leave(one, shared);
  expect(dispose).not.toHaveBeenCalled();
  models.leave(two, shared);
  expect(dispose).toHaveBeenCalledTimes(1);
  expect(models.join(one, "m", start)).not.toBe(shared);
});

test("a load that nobody waits for any more is ended, and frees what it made meanwhile", async () => {
  const models = new Models();
  const [one, two] = [client(), client()];
  const { start, settle, dispose } = loads();
  const shared = models.join(one, "m", start);
  models.join(two, "m", start);
  models.leave(one, shared);
  expect(shared.ends.signal.aborted, "the other one waits").toBe(false);
  models.leave(two, shared);
  expect(shared.ends.signal.aborted).toBe(true);
  settle[0]?.resolve();
  await expect(shared.loading).rejects.toThrow(/abort/i);
  expect(dispose).toHaveBeenCalledTimes(1);
});

test("a load that fails is begun anew by who asks next", async () => {
  const models = new Models();
  const { start, settle } = loads();
  const shared = models.join(client(), "m", start);
  settle[0]?.reject(new Error("no network"));
  await expect(shared.loading).rejects.toThrow("no network");
  expect(models.join(client(), "m", start)).not.toBe(shared);
  expect(start).toHaveBeenCalledTimes(2);
});
