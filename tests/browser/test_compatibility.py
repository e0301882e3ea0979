"""WebGPU's compatibility mode: GPUs that offer OpenGL ES or Direct3D 11 only, here Mesa's llvmpipe through OpenGL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserType, Page

from tests.browser.test_without_webgpu import IDS, MEASURE
from tests.conftest import unavailable

FLAGS = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=opengles", "--use-angle=gl-egl")
ADAPTER = """async () => {
  const adapter = await navigator.gpu?.requestAdapter({ featureLevel: "compatibility" });
  return adapter && { features: [...adapter.features], software: adapter.info.isFallbackAdapter };
}"""


@pytest.fixture(scope="module")
def compatible_browser(browser_type: BrowserType, browser_type_launch_args: dict[str, Any]) -> Iterator[Browser]:
    flags = [flag for flag in browser_type_launch_args["args"] if "webgpu" not in flag]
    browser = browser_type.launch(**{**browser_type_launch_args, "args": [*flags, *FLAGS]})
    yield browser
    browser.close()


@pytest.fixture
def compatible_page(compatible_browser: Browser, server_url: str) -> Iterator[Page]:
    page = compatible_browser.new_context().new_page()
    page.goto(server_url + "healthz")
    adapter = page.evaluate(ADAPTER)
    if adapter is None:
        unavailable(f"Chromium {compatible_browser.version} offers no WebGPU on OpenGL ES")
    assert "core-features-and-limits" not in adapter["features"]
    assert not adapter["software"], "SwiftShader offers core WebGPU besides, and comes after it"
    yield page
    page.context.close()


@pytest.mark.parametrize("backend", ["auto", "webgpu-f32"])
def test_the_gpu_is_taken_and_computes_what_the_cpu_does(compatible_page: Page, backend: str) -> None:
    options = {"backend": backend, "autotune": False}
    gpu = compatible_page.evaluate(MEASURE, [IDS, 8, options])
    assert gpu["info"]["variant"] == "webgpu-f32"
    assert gpu["info"]["adapter"]["featureLevel"] == "compatibility"
    assert [entry["variant"] for entry in gpu["info"]["skipped"]] == ["webgpu-f32-sg"] * (backend == "auto")
    cpu = compatible_page.evaluate(MEASURE, [IDS, 8, {"backend": "wasm-simd"}])
    largest = np.abs(cpu["logits"]).max()
    assert np.abs(np.array(gpu["logits"]) - np.array(cpu["logits"])).max() < 2e-3 * largest
    assert gpu["tokens"] == cpu["tokens"]


def test_the_page_says_so(compatible_page: Page, server_url: str) -> None:
    compatible_page.goto(f"{server_url}?backend=webgpu-f32")
    compatible_page.get_by_test_id("prompt").wait_for(timeout=300_000)
    compatible_page.get_by_test_id("open-device").click()
    assert "compatibility mode" in compatible_page.get_by_test_id("device-facts").inner_text()
