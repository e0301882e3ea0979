"""What every browser has to do, each with its own engine: the page, answers, Stop, the cache, the fallback, threads.

Logits and tokens against transformers are in test_parity.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.drivers import VARIANTS, Tab
from tests.browser.site import WITHOUT_ISOLATION, Site, serving_site

every_browser = pytest.mark.parametrize("tab", VARIANTS, indirect=True)

# Before the worker's own code, where the browser has WebGPU: an adapter that gives no device.
REFUSED = """
if (globalThis.GPUAdapter !== undefined)
  GPUAdapter.prototype.requestDevice = () => Promise.reject(new DOMException("not today", "OperationError"));
"""
# Presses Stop as soon as the answer has begun.
STOP_AT_ONCE = """() => new MutationObserver((_, observer) => {
  const last = [...document.querySelectorAll("[data-testid=answer-text]")].at(-1);
  if ((last?.textContent ?? "") === "") return;
  observer.disconnect();
  document.querySelector("[data-testid=stop]").click();
}).observe(document.querySelector("[data-testid=log]"), {subtree: true, childList: true, characterData: true})"""
GENERATE = """async ([options, ids]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/demo/", options);
  try {
    const tokens = await engine.generateIds(ids, { maxTokens: 24, temperature: 0, ignoreEos: true });
    return { info: engine.info, tokens, logits: [...await engine.logits(ids)] };
  } finally {
    await engine.dispose();
  }
}"""
# Before the worker's own code: tells the page how many readbacks are under way at once, each behind a submit.
COUNT_PENDING = """
if (globalThis.GPUBuffer !== undefined) {
  const channel = new BroadcastChannel("pending");
  const mapAsync = GPUBuffer.prototype.mapAsync;
  let pending = 0;
  GPUBuffer.prototype.mapAsync = function (...options) {
    channel.postMessage(++pending);
    const mapped = mapAsync.apply(this, options);
    const done = () => pending--;
    mapped.then(done, done);
    return mapped;
  };
}
"""
MOST_PENDING = """async ([options, ids]) => {
  const channel = new BroadcastChannel("pending");
  let most = 0;
  channel.onmessage = ({ data }) => (most = Math.max(most, data));
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/demo/", options);
  const tokens = await engine.generateIds(ids, { maxTokens: 40, temperature: 0, ignoreEos: true });
  await engine.dispose();
  await new Promise((resolve) => setTimeout(resolve, 100)); // Messages of a channel come on their own way.
  return [most, tokens.length];
}"""
PROMPT = list(range(5, 60))
# Chromium on SwiftShader takes ten times as long for the embedded model as on lavapipe.
QUICK = [name for name in VARIANTS if name != "chromium"]


def load(tab: Tab, url: str) -> dict[str, Any]:
    """The page with its model; what the engine says of itself."""
    tab.goto(url)
    tab.wait_visible("prompt")
    info: dict[str, Any] = tab.evaluate("() => window.wisp.info")
    return info


def ask(tab: Tab, text: str, count: int = 1) -> str:
    """The whole answer, the `count`-th of the conversation."""
    tab.type("prompt", text)
    tab.press("Enter")
    tab.wait_count("answer-stats", count)
    return tab.text("answer-text")


def backends(name: str) -> list[str]:
    """A variant of the GPU, the best, and the CPU, of those that run in a browser; in Chromium on one adapter."""
    gpu = [variant for variant in VARIANTS[name] if variant.startswith("webgpu") and name in QUICK]
    return [*gpu[:1], "wasm-simd"]


@pytest.mark.parametrize(
    ("tab", "backend"), [(name, backend) for name in VARIANTS for backend in backends(name)], indirect=["tab"]
)
def test_the_page_chats_and_remembers(tab: Tab, backend: str, site: Site) -> None:
    info = load(tab, f"{site.url}?model=demo&backend={backend}")
    assert info["variant"] == backend
    assert tab.evaluate("() => crossOriginIsolated")
    tab.click("open-settings")
    tab.evaluate("() => { document.querySelector('[data-testid=setting-temperature]').value = '0'; }")
    tab.click("close-settings")
    tab.wait("() => document.querySelector('dialog[open]') === null")  # What is typed before goes to it.
    ask(tab, "My name is Ada.")
    assert "Ada" in ask(tab, "What is my name?", 2)
    tab.click("open-device")
    tab.wait_text("variant", backend)


@every_browser
def test_stop_ends_an_answer_at_once_and_the_next_one_works(tab: Tab, endless: Site) -> None:
    load(tab, f"{endless.url}?model=demo")
    for count in (1, 2):
        tab.evaluate(STOP_AT_ONCE)
        tab.type("prompt", "Tell me a story.")
        tab.press("Enter")
        tab.wait_count("answer-stats", count)
        tab.wait_text("answer-note", "Stopped.")
    assert len(tab.evaluate("(ids) => wisp.generateIds(ids, {maxTokens: 5, ignoreEos: true})", PROMPT)) == 5


@pytest.fixture
def endless(artifact_demo: Path, tmp_path: Path) -> Iterator[Site]:
    """The embedded model without its stop ids, so that every answer runs to the end of the context."""
    shutil.copytree(artifact_demo, tmp_path / "demo")
    file = tmp_path / "demo" / "model.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "stop_token_ids": [manifest["architecture"]["vocab_size"] - 1]}))
    with serving_site(tmp_path) as it:
        yield it


@every_browser
def test_a_reload_takes_the_weights_from_the_cache(tab: Tab, site: Site) -> None:
    load(tab, site.url)
    assert any("params_shard" in path for path in site.requested)
    site.refused.append("params_shard")
    site.requested.clear()
    tab.reload()
    tab.wait_visible("prompt")
    assert not any("params_shard" in path for path in site.requested)
    assert tab.evaluate("() => wisp.stats().cacheHits") > 0
    assert len(ask(tab, "Hello!")) > 1


@every_browser
def test_where_no_gpu_gives_a_device_the_cpu_takes_over_and_says_why(tab: Tab, site: Site) -> None:
    site.before["/static/worker.js"] = REFUSED
    info = load(tab, site.url)
    assert info["variant"] == "wasm-simd"
    assert info["skipped"]
    assert all(skipped["reason"] for skipped in info["skipped"])
    tab.wait_text("place", "CPU")
    tab.wait_text("notice", info["skipped"][-1]["reason"])
    assert len(ask(tab, "Hello!")) > 1


@pytest.mark.parametrize("tab", [name for name in QUICK if name != "webkit"], indirect=True)
def test_steps_run_ahead_of_what_is_read_back(tab: Tab, site: Site) -> None:
    """Firefox, which completes mapAsync() on a timer, would give ten tokens a second with one step at a time."""
    site.before["/static/worker.js"] = COUNT_PENDING
    tab.goto(site.url + "healthz")
    most, tokens = tab.evaluate(MOST_PENDING, [{"backend": "webgpu-f32", "autotune": False}, PROMPT])
    assert tokens == 40
    assert most > 1


@every_browser
def test_threads_share_memory_and_change_no_bit(tab: Tab, site: Site) -> None:
    """Isolated by the server's headers: several threads, as the processor has; without the headers one, and why."""
    tab.goto(site.url + "healthz")
    by_default = tab.evaluate(GENERATE, [{"backend": "wasm-simd"}, PROMPT])
    several, one = (tab.evaluate(GENERATE, [{"backend": "wasm-simd", "threads": n}, PROMPT]) for n in (2, 1))
    assert (several["info"]["threads"], one["info"]["threads"]) == (2, 1)
    assert by_default["info"]["threads"] > 1 or tab.evaluate("() => navigator.hardwareConcurrency") == 1
    assert by_default["info"]["hints"] == []
    assert by_default["tokens"] == several["tokens"] == one["tokens"]
    assert by_default["logits"] == several["logits"] == one["logits"]
    site.without_headers = WITHOUT_ISOLATION
    tab.goto(site.url + "healthz?plain")
    plain = tab.evaluate(GENERATE, [{"backend": "wasm-simd", "threads": 2}, PROMPT])
    assert plain["info"]["threads"] == 1
    assert "Cross-Origin-Opener-Policy" in plain["info"]["hints"][0]
    assert plain["tokens"] == one["tokens"]
