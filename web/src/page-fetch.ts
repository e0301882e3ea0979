// A fetch function of the page's for the worker, which cannot be sent there: requests go one way, responses the other.
//
// The worker's end is PageFetch, the page's PageFetcher. Bodies go piece by piece, so that progress, a cancelled load and a
// broken connection are what they are for the worker's own requests.

import { abortError } from "./errors";
import type { FromWorker, PageAnswer, PageRequest } from "./protocol";

interface Waiting {
  begin: (response: Response) => void;
  fail: (error: Error) => void;
  body: ReadableStreamDefaultController<Uint8Array> | undefined;
}

/** In the worker. */
export class PageFetch {
  private readonly waiting = new Map<number, Waiting>();
  private nextId = 0;

  constructor(private readonly post: (message: FromWorker) => void) {}

  /** As the global fetch(). */
  fetch(url: string, { headers, cache = "default", signal }: RequestInit): Promise<Response> {
    const id = this.nextId++;
    return new Promise<Response>((resolve, reject) => {
      if (signal?.aborted === true) throw abortError(signal);
      const onAbort = () => {
        this.post({ type: "fetch-abort", id });
        this.end(id, abortError(signal ?? undefined));
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.waiting.set(id, { begin: resolve, fail: reject, body: undefined });
      this.post({ type: "fetch", id, request: { url, headers: Object.fromEntries(new Headers(headers)), cache } });
    });
  }

  receive(answer: PageAnswer): void {
    const waiting = this.waiting.get(answer.id);
    if (waiting === undefined) return; // Aborted.
    switch (answer.type) {
      case "response": {
        const { id, status, headers } = answer;
        const body = new ReadableStream<Uint8Array>({
          start: (controller) => {
            waiting.body = controller;
          },
          cancel: () => {
            this.waiting.delete(id);
            this.post({ type: "fetch-abort", id });
          },
        });
        waiting.begin(new Response(hasNoBody(status) ? null : body, { status, headers }));
        return;
      }
      case "piece":
        waiting.body?.enqueue(answer.bytes);
        return;
      case "done":
        this.end(answer.id, answer.error === undefined ? undefined : new TypeError(answer.error));
        return;
    }
  }

  private end(id: number, error: Error | undefined): void {
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    if (waiting === undefined) return;
    if (error === undefined) {
      waiting.body?.close();
    } else {
      waiting.fail(error);
      waiting.body?.error(error);
    }
  }
}

const hasNoBody = (status: number): boolean => status === 204 || status === 205 || status === 304;

/** On the page. */
export class PageFetcher {
  private readonly aborts = new Map<number, AbortController>();

  constructor(
    private readonly fetch: (url: string, init: RequestInit) => Promise<Response>,
    private readonly post: (message: PageAnswer) => void,
  ) {}

  start(id: number, request: PageRequest): void {
    const controller = new AbortController();
    this.aborts.set(id, controller);
    this.run(id, request, controller.signal)
      .then(
        () => this.post({ type: "done", id, error: undefined }),
        (error: unknown) => {
          if (!controller.signal.aborted) this.post({ type: "done", id, error: error instanceof Error ? error.message : String(error) });
        },
      )
      .finally(() => this.aborts.delete(id));
  }

  abort(id: number): void {
    this.aborts.get(id)?.abort();
  }

  /** The worker is gone. */
  abortAll(): void {
    for (const controller of this.aborts.values()) controller.abort();
  }

  private async run(id: number, { url, headers, cache }: PageRequest, signal: AbortSignal): Promise<void> {
    const response = await this.fetch(url, { headers, cache, credentials: "same-origin", signal });
    this.post({ type: "response", id, status: response.status, headers: [...response.headers] });
    const reader = response.body?.getReader();
    if (reader === undefined) return;
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) {
        await reader.cancel();
        return;
      }
      if (done) return;
      this.post({ type: "piece", id, bytes: value });
    }
  }
}
