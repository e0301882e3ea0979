// What the service workers have in common: the part of their world that they use, and the headers that they add.

export interface FetchEventLike extends ExtendableEventLike {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
export interface ExtendableEventLike extends Event {
  waitUntil(work: Promise<unknown>): void;
}
export interface WorkerLike {
  addEventListener(type: "install" | "activate" | "fetch", listener: (event: FetchEventLike) => void): void;
  skipWaiting(): Promise<void>;
  readonly clients: { claim(): Promise<void> };
  readonly registration: { readonly scope: string };
}

/** Isolation is a matter of documents and of the workers they start. */
const DESTINATIONS: readonly RequestDestination[] = ["document", "iframe", "worker", "sharedworker", "script"];

export function concernsIsolation(request: Request): boolean {
  return DESTINATIONS.includes(request.destination);
}

/** The response with the headers that make a page cross-origin isolated, without which browsers share no memory between threads. */
export function isolated(response: Response): Response {
  // What a page cannot read cannot be given headers either; redirects are followed by the browser itself.
  if (response.status === 0 || response.redirected) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const { status, statusText } = response;
  return new Response([204, 205, 304].includes(status) ? null : response.body, { status, statusText, headers });
}
