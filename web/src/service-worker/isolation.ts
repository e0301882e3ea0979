// A service worker for hosts that cannot send headers: it adds the two that make a page cross-origin isolated, without which
// browsers share no memory between threads. Built into isolation.js, which must lie beside the page or above it, because a
// service worker serves only what is below itself. A classic script: it imports and exports nothing.

interface FetchEventLike extends Event {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
interface WorkerLike {
  addEventListener(type: "install" | "activate" | "fetch", listener: (event: FetchEventLike) => void): void;
  skipWaiting(): Promise<void>;
  readonly clients: { claim(): Promise<void> };
}

/** Isolation is a matter of documents and of the workers they start; everything else goes to the network untouched. */
const DESTINATIONS: readonly RequestDestination[] = ["document", "iframe", "worker", "sharedworker", "script"];

{
  const worker = globalThis as unknown as WorkerLike;
  worker.addEventListener("install", () => void worker.skipWaiting());
  worker.addEventListener("activate", () => void worker.clients.claim());
  worker.addEventListener("fetch", (event) => {
    const { request } = event;
    if (DESTINATIONS.includes(request.destination) && new URL(request.url).origin === location.origin) event.respondWith(isolated(request));
  });
}

async function isolated(request: Request): Promise<Response> {
  const response = await fetch(request);
  // What a page cannot read cannot be given headers either; redirects are followed by the browser itself.
  if (response.status === 0 || response.redirected) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const { status, statusText } = response;
  return new Response([204, 205, 304].includes(status) ? null : response.body, { status, statusText, headers });
}
