// Wisp for a benchmark page that knows no engine: load(cfg) -> handle, generate(handle, ids, n, mark) -> ids or figures,
// reset(handle), info(handle). `cfg` has `shape` (a directory under /wisp-models/), `ctx` and what the harness itself reads;
// everything else of an engine's entry (`backend`, `threads`, ...) is an option of createEngine. The engine's files are
// served at /wisp/, from web/dist.

const OF_THE_HARNESS = new Set([
  ...["adapter", "package", "version", "shapes", "lib", "hide_features"],
  ...["shape", "ctx", "n_new", "verbose", "prompts", "texts", "model_lib"],
]);

export async function load(cfg) {
  const { createEngine } = await import("/wisp/wisp.js");
  const url = new URL(`/wisp-models/${cfg.shape}/`, location.href);
  const options = Object.fromEntries(Object.entries(cfg).filter(([name]) => !OF_THE_HARNESS.has(name)));
  return createEngine(url, { contextLength: cfg.ctx, ...options });
}

export async function reset(engine) {
  await engine.resetChat();
}

/** Tokens come in batches, as the engine reads them back, so the engine's own clock is used: seconds to the first one, and
 * between the others. */
export async function generate(engine, ids, n) {
  const before = engine.stats();
  const tokens = await engine.generateIds(ids, { maxTokens: n, temperature: 0, ignoreEos: true });
  const after = engine.stats();
  return {
    tokens,
    n_new: tokens.length,
    prefill_s: (after.prefillMs - before.prefillMs) / 1e3,
    decode_s: (after.decodeMs - before.decodeMs) / 1e3 / Math.max(1, tokens.length - 1),
  };
}

export async function info(engine) {
  return { variant: engine.info.variant, skipped: engine.info.skipped, stats: engine.stats() };
}
