"""A Chromium that has no WebGPU: the embedded model on the CPU, with one thread, with two, and without isolation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserType, Page, Route, expect

from compiler.artifact.state import SamplingParameters
from compiler.artifact.writer import load_artifact
from compiler.runtime.wasmtime import open_wasm_variant
from tests.browser.test_page import answered, ask

IDS = [int(i) for i in np.random.default_rng(3).integers(3, 1000, 100)]
STEPS = 40
MEASURE = """async ([ids, steps, options]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/demo/", options);
  try {
    const logits = [...await engine.logits(ids)];
    const before = engine.stats();
    const tokens = await engine.generateIds(ids, { maxTokens: steps, temperature: 0, ignoreEos: true });
    const after = engine.stats();
    return { info: engine.info, logits, tokens, before, after, isolated: crossOriginIsolated };
  } finally {
    await engine.dispose();
  }
}"""


@pytest.fixture(scope="module")
def plain_browser(browser_type: BrowserType, browser_type_launch_args: dict[str, Any]) -> Iterator[Browser]:
    """A browser that does not use the GPU: `navigator.gpu` has no adapter, or is not there."""
    flags = [flag for flag in browser_type_launch_args["args"] if "webgpu" not in flag]
    browser = browser_type.launch(**{**browser_type_launch_args, "args": [*flags, "--disable-features=WebGPU"]})
    yield browser
    browser.close()


@pytest.fixture
def plain_page(plain_browser: Browser, server_url: str) -> Iterator[Page]:
    page = plain_browser.new_context().new_page()
    page.goto(server_url + "healthz")
    assert not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())")
    yield page
    page.context.close()


def measure(page: Page, **options: Any) -> dict[str, Any]:
    got: dict[str, Any] = page.evaluate(MEASURE, [IDS, STEPS, options])
    assert (got["info"]["variant"], got["info"]["backend"]) == ("wasm-simd", "wasm")
    return got


def test_the_page_chats(plain_page: Page, server_url: str) -> None:
    """As a visitor finds it: the model loads, answers and remembers, and the page says where it runs and why."""
    plain_page.goto(server_url)
    expect(plain_page.get_by_test_id("prompt")).to_be_visible()
    expect(plain_page.get_by_test_id("place")).to_contain_text("CPU")
    expect(plain_page.get_by_test_id("notice")).to_contain_text("This model runs on the CPU")
    expect(plain_page.get_by_test_id("notice")).to_contain_text("WebGPU")
    ask(plain_page, "My name is Ada.")
    answered(plain_page)
    ask(plain_page, "What is my name?")
    answered(plain_page, 2)
    assert "Ada" in plain_page.get_by_test_id("answer-text").last.inner_text()
    info = plain_page.evaluate("wisp.info")
    assert info["variant"] == "wasm-simd"
    assert [skipped["variant"] for skipped in info["skipped"]] == ["webgpu-f32-sg", "webgpu-f32"]
    assert all("WebGPU" in skipped["reason"] for skipped in info["skipped"])


def test_threads_change_nothing_but_the_time(plain_page: Page, artifact_demo: Path) -> None:
    """One thread and two give the same bits, and what wasmtime makes of the same module."""
    one, two = (measure(plain_page, threads=threads) for threads in (1, 2))
    assert [got["info"]["threads"] for got in (one, two)] == [1, 2]
    assert one["isolated"]
    assert one["logits"] == two["logits"]
    assert one["tokens"] == two["tokens"]
    runtime = open_wasm_variant(load_artifact(artifact_demo), "wasm-simd", relaxed=True)
    want = runtime.logits(IDS)
    np.testing.assert_allclose(one["logits"], want, atol=1e-4 * np.abs(want).max())
    assert one["tokens"] == runtime.generate(IDS, STEPS, SamplingParameters())


def test_without_isolation_one_thread_computes_and_says_why(plain_page: Page, server_url: str) -> None:
    """A host that sends no headers: the same tokens from one thread."""
    isolated = measure(plain_page)

    def without_headers(route: Route) -> None:
        response = route.fetch()
        kept = {k: v for k, v in response.headers.items() if not k.startswith("cross-origin-")}
        route.fulfill(response=response, headers=kept)

    plain_page.route("**/*", without_headers)
    plain_page.goto(server_url + "healthz")
    got = measure(plain_page, threads=2)
    assert not got["isolated"]
    assert got["info"]["threads"] == 1
    assert "Cross-Origin-Opener-Policy" in got["info"]["hints"][0]
    assert got["tokens"] == isolated["tokens"]
    assert got["logits"] == isolated["logits"]


def test_what_a_token_costs(plain_page: Page, artifact_demo: Path) -> None:
    """Counters of the CPU mean what a GPU's mean."""
    got = measure(plain_page, threads=1)
    spent = {key: got["after"][key] - got["before"][key] for key in got["after"]}
    plan = load_artifact(artifact_demo).plans["wasm-simd"]
    steps = spent["decodeSteps"]
    assert spent["tokens"] == STEPS
    assert STEPS <= steps <= STEPS + 8
    # The prompt is that of the logits before: it is there but for its last token.
    assert spent["reusedTokens"] == len(IDS) - 1
    assert spent["dispatches"] == steps * len(plan["programs"]["decode"])
    assert spent["submits"] <= steps
    assert spent["bindGroupsCreated"] == 0
    assert spent["bytesReadBack"] <= 8 * steps
    assert spent["bytesUploaded"] <= 16 * steps + 256
    # The cache has the rows that were needed.
    assert got["after"]["gpuBytes"] >= sum(buffer["bytes"] for buffer in plan["buffers"] if buffer["kind"] != "kv")
