// Workers where the engine's files lie at another origin than the page, as on a CDN: browsers start a worker's script from
// the page's own origin alone, so that the script is a line that imports the other one.

/** Whether a file beside the module at `module` (its import.meta.url) is of another origin than this page or worker. */
export function isForeign(module: string): boolean {
  const own = new URL(globalThis.location.href.replace(/^blob:/, ""));
  const { protocol, host } = new URL(module); // `origin` is "null" for the schemes of apps and extensions
  // Turbopack gives modules the place of their source; what it makes of `new URL("./worker.js", import.meta.url)` is right.
  if (protocol === "file:") return false;
  return protocol !== own.protocol || host !== own.host;
}

/**
 * A worker of the script `file` beside the module. The other origin has to allow it (CORS), and this page's
 * Content-Security-Policy `worker-src blob:`.
 */
export function foreignWorker(module: string, file: string, name: string): Worker {
  const source = `import ${JSON.stringify(module.replace(/[^/]*$/, file))};`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module", name });
  const revoke = () => URL.revokeObjectURL(url);
  worker.addEventListener("message", revoke, { once: true });
  worker.addEventListener("error", revoke, { once: true });
  return worker;
}
