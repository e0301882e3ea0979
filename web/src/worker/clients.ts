// Who a worker answers, and with which models: in a shared worker several pages, which share the model that they have in common.
// Knows neither calls nor what a model does.

import type { FromWorker } from "../protocol/messages";
import { abortError } from "../api/errors";
import type { LoadedModel } from "./load/load";

export interface Client {
  post: (message: FromWorker, transfer?: Transferable[]) => void;
}

/** Work that runs one after another. Clients take turns: who asks for much waits for who asks for little. */
export class TurnQueue {
  /** What runs, and whose it is. */
  running: { client: Client; id: number } | undefined;
  private last: Client | undefined;
  private readonly waiting = new Map<Client, { id: number; work: () => Promise<unknown> }[]>();

  run<T>(client: Client, id: number, work: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const own = this.waiting.get(client) ?? [];
      own.push({ id, work: () => work().then(resolve, reject) });
      this.waiting.set(client, own);
      void this.next();
    });
  }

  private async next(): Promise<void> {
    if (this.running !== undefined) return;
    const clients = [...this.waiting.keys()];
    const client = clients.find((other) => other !== this.last) ?? clients[0];
    const own = client === undefined ? undefined : this.waiting.get(client);
    const first = own?.shift();
    if (client === undefined || own === undefined || first === undefined) return;
    // For its next one it is behind the others.
    this.waiting.delete(client);
    if (own.length > 0) this.waiting.set(client, own);
    this.last = client;
    this.running = { client, id: first.id };
    await first.work();
    this.running = undefined;
    return this.next();
  }
}

/** A model, or the load of one, and who uses it. */
export class SharedModel {
  model: LoadedModel | undefined;
  readonly queue = new TurnQueue();
  readonly clients = new Set<Client>();
  /** Ends the load when nobody waits for it any more. */
  readonly ends = new AbortController();
  loading: Promise<LoadedModel> | undefined;

  /** To all who use it. */
  post(message: FromWorker): void {
    for (const client of this.clients) client.post(message);
  }
}

export class Models {
  private readonly shared = new Map<string, SharedModel>();

  /**
   * @param key what makes two loads the same; undefined: nothing does
   * @param start loads it; called unless somebody has
   */
  join(client: Client, key: string | undefined, start: (shared: SharedModel) => Promise<LoadedModel>): SharedModel {
    const known = key === undefined ? undefined : this.shared.get(key);
    const shared = known ?? new SharedModel();
    shared.clients.add(client);
    if (known !== undefined) return known;
    if (key !== undefined) this.shared.set(key, shared);
    shared.loading = start(shared).then(
      (model) => {
        if (!shared.ends.signal.aborted) return (shared.model = model);
        model.supervisor.dispose();
        throw abortError(shared.ends.signal);
      },
      (error: unknown) => {
        this.forget(shared); // Who asks again may have more luck.
        throw error;
      },
    );
    shared.loading.catch(() => undefined); // Who waits hears of it.
    return shared;
  }

  /** The last one frees the model. */
  leave(client: Client, shared: SharedModel): void {
    shared.clients.delete(client);
    if (shared.clients.size > 0) return;
    this.forget(shared);
    shared.ends.abort();
    shared.model?.supervisor.dispose();
  }

  /** Nobody joins it any more; who uses it may go on. */
  forget(shared: SharedModel): void {
    for (const [key, other] of this.shared) if (other === shared) this.shared.delete(key);
  }
}
