"""The models that a browser keeps: what models.* of the package does with them, in every browser and between tabs."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.drivers import VARIANTS, Tab
from tests.browser.site import Site

every_browser = pytest.mark.parametrize("tab", VARIANTS, indirect=True)
PROMPT = list(range(5, 60))
WITHOUT_CACHES = 'Object.defineProperty(globalThis, "caches", { value: undefined, configurable: true });'
# What a test's script finds in place: the package, and an answer of the model at an address.
AROUND = """async (argument) => {
  globalThis.held = "caches" in globalThis && caches && await caches.open("wisp-files-v2"); // of a private window's
  const { createEngine, models } = await import("/static/wisp.js");
  const answer = async (url, options) => {
    const engine = await createEngine(url, { backend: "wasm-simd", ...options });
    try {
      return await engine.generateIds(PROMPT, { maxTokens: 8, temperature: 0, ignoreEos: true });
    } finally {
      await engine.dispose();
    }
  };
  SCRIPT
}""".replace("PROMPT", str(PROMPT))
PREFETCH = """
  const seen = [];
  const model = await models.prefetch("/models/demo/", { backend: "wasm-simd", onProgress: (p) => seen.push(p) });
  const { url, bytes, state, variants } = model;
  const has = await models.has("/models/demo/", { backend: "wasm-simd" });
  return { has, url, bytes, state, variants, last: seen.at(-1) };
"""
SPOIL = """
  const cache = await caches.open("wisp-files-v2");
  for (const { url } of await cache.keys()) {
    const bytes = new Uint8Array(await (await cache.match(url)).arrayBuffer());
    if (!url.includes("/files/") || bytes.length < 1e6) continue;
    bytes[12345] ^= 1;
    await cache.put(url, new Response(bytes));
  }
  const { removed } = await models.verify("/models/demo/");
  const whole = await models.has("/models/demo/", { backend: "wasm-simd" });
  const tokens = await answer("/models/demo/");
  return { removed: removed.map(({ file }) => file), whole, tokens, again: await models.verify() };
"""
MOVE = """
  const file = await models.export("/models/demo/");
  const gone = await models.delete("/models/demo/");
  const listed = await models.list();
  const copied = await models.import(file, "/models/copy/");
  return { gone, listed, copied, size: file.size, tokens: await answer("/models/copy/") };
"""


def run(tab: Tab, script: str) -> Any:
    return tab.evaluate(AROUND.replace("SCRIPT", script))


@every_browser
def test_a_model_is_prefetched_verified_and_moved(tab: Tab, site: Site) -> None:
    tab.goto(site.url + "healthz")
    fetched = run(tab, PREFETCH)
    assert (fetched["has"], fetched["state"], fetched["variants"]) == (True, "complete", ["wasm-simd"])
    assert fetched["url"] == f"{site.url}models/demo/"
    assert fetched["last"]["doneBytes"] == fetched["last"]["totalBytes"] == fetched["bytes"]
    shards = [path for path in site.requested if "params_shard" in path]
    assert len(shards) == len(set(shards)) > 0

    site.refused.append("/models/")
    tokens = run(tab, 'return answer("/models/demo/");')
    site.refused.clear()
    assert len(tokens) == 8

    spoiled = run(tab, SPOIL)
    assert (spoiled["removed"], spoiled["whole"]) == (["params_shard_0.bin"], False)
    assert spoiled["tokens"] == tokens, "the load has brought it anew"
    assert spoiled["again"]["removed"] == []

    moved = run(tab, MOVE)
    assert moved["gone"]["deleted"]
    assert moved["gone"]["freedBytes"] == fetched["bytes"]
    assert moved["listed"] == []
    assert moved["copied"]["url"] == f"{site.url}models/copy/"
    assert moved["size"] > moved["copied"]["bytes"] == fetched["bytes"]
    assert moved["tokens"] == tokens, "a model that is at no address"


@pytest.mark.parametrize("tab", ["chromium", "firefox"], indirect=True)
def test_where_there_is_no_cache_api_files_of_the_sites_own_serve(tab: Tab, site: Site) -> None:
    """WebKitGTK has no such files."""
    site.before["/static/worker.js"] = WITHOUT_CACHES
    tab.goto(site.url + "healthz")
    tab.evaluate(f"() => {{ {WITHOUT_CACHES} }}")
    fetched = run(tab, PREFETCH)
    assert (fetched["has"], fetched["variants"]) == (True, ["wasm-simd"])
    site.refused.append("/models/")
    assert len(run(tab, 'return answer("/models/demo/");')) == 8
    assert run(tab, 'return models.verify("/models/demo/");')["removed"] == []
    assert run(tab, 'return models.delete("/models/demo/");')["freedBytes"] == fetched["bytes"]
    assert run(tab, "return models.list();") == []


FOLDER = """
  await models.prefetch("/models/demo/", { backend: "all" });
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle("demo", { create: true });
  await models.exportTo(folder, "/models/demo/");
  await models.delete("/models/demo/");
  return { tokens: await answer(folder, { cache: false }), copied: await models.import(folder, "/models/copy/") };
"""
NEVER = """
  const aborting = new AbortController();
  const never = new Promise(() => undefined);
  const fetch = (url, init) => (url.includes("params_shard") ? never : globalThis.fetch(url, init));
  globalThis.stop = () => aborting.abort();
  const loading = createEngine("/models/demo/", { backend: "wasm-simd", fetch, signal: aborting.signal });
  globalThis.loaded = loading.catch((error) => error.name);
  await new Promise((begun) => { const end = models.onChange(() => { end(); begun(); }); });
"""


def test_a_folder_holds_what_a_load_needs(tabs: list[Page]) -> None:
    got = tabs[0].evaluate(AROUND.replace("SCRIPT", FOLDER))
    assert len(got["tokens"]) == 8
    assert {"webgpu-f32", "wasm-simd"} <= set(got["copied"]["variants"])


def test_two_tabs_agree(tabs: list[Page], site: Site) -> None:
    one, two = tabs
    listen = "globalThis.heard = []; models.onChange((url) => heard.push(url));"
    two.evaluate(AROUND.replace("SCRIPT", listen))
    one.evaluate(AROUND.replace("SCRIPT", NEVER))
    delete = 'return models.delete("/models/demo/").catch(({ kind, message }) => ({ kind, message }));'
    refused = two.evaluate(AROUND.replace("SCRIPT", delete))
    assert refused["kind"] == "request"
    assert "is being loaded or downloaded" in refused["message"]
    one.evaluate("() => stop()")
    assert one.evaluate("() => loaded") == "AbortError"
    # An aborted load ends its worker, whose lock goes with it a moment later.
    two.wait_for_function(
        """async () => {
          const { held } = await navigator.locks.query();
          return !held.some(({ name }) => name.startsWith("wisp model"));
        }"""
    )
    site.requested.clear()
    for page in tabs:
        prefetch = 'globalThis.fetched = models.prefetch("/models/demo/", { backend: "wasm-simd" });'
        page.evaluate(AROUND.replace("SCRIPT", prefetch))
    states = [page.evaluate("async () => (await fetched).state") for page in tabs]
    assert states == ["complete", "complete"]
    assert sum("params_shard_0" in path for path in site.requested) == 1, "whoever comes second waits for the first"
    assert one.evaluate(AROUND.replace("SCRIPT", delete))["deleted"]
    two.wait_for_function("() => heard.length >= 3")
    assert set(two.evaluate("() => heard")) == {f"{site.url}models/demo/"}
    assert two.evaluate(AROUND.replace("SCRIPT", "return models.list();")) == []
