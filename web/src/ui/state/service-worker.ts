// The service worker beside the page: threads on hosts that do not send the headers of cross-origin isolation, from the next
// reload on; and of an exported page one that keeps the page for when there is no network.

/** Named by the page that wants one from the start. */
const offline = document.documentElement.dataset["serviceWorker"];
/** Typed as always there; insecure pages and some private windows have none. */
const workers = window.isSecureContext ? (navigator.serviceWorker as ServiceWorkerContainer | undefined) : undefined;
/** A worker that takes over later has not served this document. */
const servedByWorker = (workers?.controller ?? null) !== null;

/** Has the exported page kept, without waiting for it: a browser that will not has the page as before. */
export function keepPage(): void {
  if (offline !== undefined) workers?.register(new URL(offline, document.baseURI)).catch(() => undefined);
}

/** @returns whether a reload gives the page threads */
export async function prepareIsolation(): Promise<boolean> {
  if (window.crossOriginIsolated || workers === undefined) return false;
  if (servedByWorker) return false; // It is at work and did not help.
  try {
    await workers.register(new URL(offline ?? "isolation.js", document.baseURI));
    await workers.ready;
    return true;
  } catch {
    return false;
  }
}
