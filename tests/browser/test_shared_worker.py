"""Two tabs, one model: engines in a shared worker."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.drivers import Tab
from tests.browser.site import Site

PROMPT = list(range(5, 60))
CREATE = """async ([url, options]) => {
  const { createEngine } = await import("/static/wisp.js");
  globalThis.engine = await createEngine(url, { worker: "shared", ...options });
  const { variant, skipped, notices, threads } = engine.info;
  return { variant, skipped, notices, threads };
}"""
GENERATE = "(options) => engine.generateIds(PROMPT, {temperature: 0, ignoreEos: true, ...options})".replace(
    "PROMPT", str(PROMPT)
)
WORKERS = """async () => {
  const { held } = await navigator.locks.query();
  const count = (prefix) => held.filter(({ name }) => name.startsWith(prefix)).length;
  return { pages: count("wisp-page-"), workers: count("wisp-worker-") };
}"""
# An answer that runs until somebody ends it: its processor of logits never answers.
HOLD = """async () => {
  const abort = new AbortController();
  globalThis.abort = () => abort.abort();
  await new Promise((begun) => {
    const request = {
      messages: [{ role: "user", content: "Hello!" }],
      logits_processor: () => {
        begun();
        return new Promise(() => undefined);
      },
    };
    const answer = engine.chat.completions.create(request, { signal: abort.signal });
    globalThis.answered = answer.then(() => "an answer", ({ name }) => name);
  });
}"""


def create(page: Page, url: str = "/models/demo/", **options: Any) -> dict[str, Any]:
    info: dict[str, Any] = page.evaluate(CREATE, [url, options])
    return info


@pytest.mark.parametrize("backend", ["webgpu-f32", "wasm-simd"])
def test_two_tabs_have_one_model(tabs: list[Page], site: Site, backend: str) -> None:
    one, two = tabs
    assert create(one, backend=backend, cache=False)["variant"] == backend
    loaded = [path for path in site.requested if "params_shard" in path]
    memory = one.evaluate("() => engine.stats().gpuBytes")
    assert create(two, backend=backend, cache=False)["notices"] == []
    assert [path for path in site.requested if "params_shard" in path] == loaded, "the weights are there already"
    assert two.evaluate("() => engine.stats().gpuBytes") == memory > 0
    expected = one.evaluate(GENERATE, {"maxTokens": 8})
    assert two.evaluate(GENERATE, {"maxTokens": 8}) == expected
    assert two.evaluate("() => engine.stats().requests") == 2, "both tabs'"
    one.evaluate("() => engine.dispose()")
    assert two.evaluate(GENERATE, {"maxTokens": 8}) == expected, "the other one has it yet"


def test_an_abort_reaches_only_its_own_tab(tabs: list[Page]) -> None:
    one, two = tabs
    for page in tabs:
        create(page, backend="wasm-simd")
    one.evaluate(HOLD)
    two.evaluate(f"() => {{ globalThis.tokens = ({GENERATE})({{maxTokens: 8}}); }}")
    two.evaluate("() => engine.interrupt()")  # what runs is another tab's
    one.evaluate("() => abort()")
    assert one.evaluate("() => answered") == "AbortError"
    assert len(two.evaluate("() => tokens")) == 8


def test_a_closed_tab_leaves_its_turn(tabs: list[Page]) -> None:
    one, two = tabs
    for page in tabs:
        create(page, backend="wasm-simd")
    assert two.evaluate(WORKERS) == {"pages": 2, "workers": 2}
    one.evaluate(HOLD)
    one.close()
    assert len(two.evaluate(GENERATE, {"maxTokens": 8})) == 8
    two.wait_for_function(f"async () => (await ({WORKERS})()).pages === 1")
    assert two.evaluate(WORKERS) == {"pages": 1, "workers": 1}


def test_other_options_are_a_model_of_their_own(tabs: list[Page]) -> None:
    one, two = tabs
    create(one, backend="wasm-simd")
    create(two, backend="wasm-simd", contextLength=128)
    lengths = [page.evaluate("() => engine.info.contextLength") for page in tabs]
    assert lengths[1] == 128 < lengths[0]
    one.evaluate("() => engine.dispose()")
    assert len(two.evaluate(GENERATE, {"maxTokens": 8})) == 8


def test_a_shared_worker_of_the_pages_own(tabs: list[Page]) -> None:
    script = """async () => {
      const { createEngine } = await import("/static/wisp.js");
      const worker = new SharedWorker("/static/worker.js", { type: "module", name: "mine" });
      globalThis.engine = await createEngine("/models/demo/", { worker, backend: "wasm-simd" });
      return createEngine("/models/demo/", { worker: 7 }).catch(({ message }) => message);
    }"""
    for page in tabs:
        assert "a ServiceWorker, or a function" in page.evaluate(script)
        assert len(page.evaluate(GENERATE, {"maxTokens": 8})) == 8
    assert tabs[1].evaluate("() => engine.stats().requests") == 2


def test_where_tabs_cannot_share_each_has_its_own_and_says_so(tabs: list[Page]) -> None:
    one = tabs[0]
    one.evaluate("() => { delete globalThis.SharedWorker; }")
    assert "this browser has no shared workers" in create(one, backend="wasm-simd")["notices"][-1]
    assert len(one.evaluate(GENERATE, {"maxTokens": 8})) == 8


@pytest.mark.parametrize("tab", ["firefox", "webkit"], indirect=True)
def test_in_other_browsers(tab: Tab, site: Site) -> None:
    """Whatever of it a shared worker has there: the variant that runs, and why a better one does not."""
    tab.goto(site.url + "healthz")
    info = tab.evaluate(CREATE, ["/models/demo/", {}])
    assert info["variant"]
    assert all(skipped["reason"] for skipped in info["skipped"])
    assert len(tab.evaluate(GENERATE, {"maxTokens": 8})) == 8
