// A service worker for hosts that cannot send headers: it adds the two that make a page cross-origin isolated. Built into
// isolation.js, which must lie beside the page or above it, because a service worker serves only what is below itself. A classic
// script: it exports nothing, and what it imports is built into it.

import { concernsIsolation, isolated, type WorkerLike } from "./isolated";

const worker = globalThis as unknown as WorkerLike;
worker.addEventListener("install", () => void worker.skipWaiting());
worker.addEventListener("activate", () => void worker.clients.claim());
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  // Everything else goes to the network untouched.
  if (concernsIsolation(request) && new URL(request.url).origin === location.origin) event.respondWith(fetch(request).then(isolated));
});
