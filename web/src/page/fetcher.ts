// The page's end of a fetch function of the page's: does what the worker asks for (worker/page-fetch.ts) and sends the answer
// back piece by piece.

import type { PageAnswer, PageRequest } from "../protocol/messages";

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
