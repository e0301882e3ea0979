// The service worker of an exported page: it keeps the page, so that it opens without a network, and isolates it where the host
// sends no headers. Built into offline.js, a classic script, by vite.offline.config.ts; `wisp export` writes it beside the page with
// files.json, the addresses of everything that a visit without a network needs. Models are kept by the engine itself.
//
// A version of the page is served whole or not at all: all of its files come from the cache that was filled when the worker was
// installed, and the next version's worker waits until no page of this one is open.

import { concernsIsolation, isolated, type WorkerLike } from "./isolated";

/** `wisp export` puts the hash of files.json here. */
const VERSION = "wisp-version";
const CATALOGUE = "models.json";
const MODELS = "models/";

const worker = globalThis as unknown as WorkerLike;
const { scope } = worker.registration;
const ours = `wisp-page ${scope} `;
const kept = ours + VERSION;

worker.addEventListener("install", (event) => event.waitUntil(keep()));
worker.addEventListener("activate", (event) => event.waitUntil(forgetOthers().then(() => worker.clients.claim())));
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || !request.url.startsWith(scope) || request.headers.has("Range")) return;
  const path = request.url.slice(scope.length);
  if (path.startsWith(MODELS)) return;
  const response = path === CATALOGUE ? latest(request) : stored(request, path);
  event.respondWith(concernsIsolation(request) ? response.then(isolated) : response);
});

/** All of files.json, or the worker is not installed. */
async function keep(): Promise<void> {
  const list = await fetch(new URL("files.json", scope), { cache: "no-cache" });
  if (!list.ok) throw new Error(`files.json: ${list.status}`);
  const files = (await list.json()) as string[];
  const cache = await caches.open(kept);
  await cache.addAll(files.map((file) => new Request(new URL(file, scope), { cache: "no-cache" })));
}

/** Of other versions of this page; pages elsewhere on this origin have their own. */
async function forgetOthers(): Promise<void> {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith(ours) && name !== kept).map((name) => caches.delete(name)));
}

/** The page itself whatever its query (`?model=`), its files by their exact addresses. */
async function stored(request: Request, path: string): Promise<Response> {
  const page = request.mode === "navigate" && ["", "index.html"].includes(path.replace(/[?#].*$/, ""));
  // Not opened, which would bring back what the next version's worker has deleted.
  return (await caches.match(page ? scope : request, { cacheName: kept })) ?? fetch(request);
}

/** Opening what the next version's worker has deleted makes it anew, empty: then there is nothing to keep it beside. */
async function keepLatest(request: Request, response: Response): Promise<void> {
  const cache = await caches.open(kept);
  if ((await cache.match(scope)) === undefined) await caches.delete(kept);
  else await cache.put(request, response);
}

/** What the host says, else what it said last. Asked each time: without headers a browser takes an old file to be fresh for days. */
async function latest(request: Request): Promise<Response> {
  try {
    const response = await fetch(request, { cache: "no-cache" });
    if (response.ok) await keepLatest(request, response.clone());
    return response;
  } catch (error) {
    const before = await caches.match(request, { cacheName: kept });
    if (before === undefined) throw error;
    return before;
  }
}
