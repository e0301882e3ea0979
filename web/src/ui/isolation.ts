// Threads on hosts that do not send the headers of cross-origin isolation: a service worker adds them from the next reload on.

/**
 * Registers isolation.js, which lies beside the page.
 * @returns whether a reload gives the page threads
 */
export async function prepareIsolation(): Promise<boolean> {
  // Typed as always there; insecure pages and some private windows have none.
  const workers = navigator.serviceWorker as ServiceWorkerContainer | undefined;
  if (window.crossOriginIsolated || !window.isSecureContext || workers === undefined) return false;
  if (workers.controller !== null) return false; // It is at work and did not help.
  try {
    await workers.register(new URL("isolation.js", document.baseURI));
    await workers.ready;
    return true;
  } catch {
    return false;
  }
}
