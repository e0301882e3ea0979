// The worker's end of a fetch function of the page's, which cannot be sent here: requests go to the page (page/fetcher.ts),
// responses come back. Bodies come piece by piece, so that progress, a cancelled load and a broken connection are what they
// are for the worker's own requests.

import { abortError } from "../api/errors";
import type { FromWorker, PageAnswer } from "../protocol/messages";

interface Waiting {
  begin: (response: Response) => void;
  fail: (error: Error) => void;
  body: ReadableStreamDefaultController<Uint8Array> | undefined;
}

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
