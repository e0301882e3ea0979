"""The inspector, as it shows the demo model: drawn from the same plan, kernels and device that answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.test_page_parts import AXE, violations


@pytest.fixture(scope="session")
def browser(quick_browser: Browser) -> Browser:
    return quick_browser


def inspect(page: Page, server_url: str, backend: str) -> None:
    page.goto(f"{server_url}?backend={backend}&model=demo")
    expect(page.get_by_test_id("prompt")).to_be_visible()
    page.get_by_test_id("open-device").click()
    page.get_by_test_id("open-inspector").click()
    expect(page.get_by_test_id("graph")).to_be_visible()


def plan_of(artifact: Path, variant: str) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((artifact / variant / "plan.json").read_bytes())
    return plan


def test_the_network_is_that_of_the_plan_and_a_kernel_shows_its_wgsl(
    page: Page, server_url: str, artifact_demo: Path
) -> None:
    inspect(page, server_url, "webgpu-f32-sg")
    plan = plan_of(artifact_demo, "webgpu-f32-sg")
    towers = page.locator(".ins-tower")
    expect(towers).to_have_count(8)  # what comes before the layers, 6 layers, what comes behind them
    expect(towers.nth(1)).to_have_attribute("aria-pressed", "true")
    down = page.locator(".ins-step", has_text="mlp.down_proj")
    expect(down).to_contain_text("256 × 640")
    expect(down).to_contain_text("q4f16_1")
    shown: list[str] = []
    for tower in towers.all():
        tower.click()
        shown += page.locator(".ins-step b").all_inner_texts()
    entries = [plan["kernels"][dispatch["kernel"]]["entry"] for dispatch in plan["programs"]["decode"]]
    assert shown == [entry.rpartition("_")[0] for entry in entries]
    towers.nth(3).click()
    page.locator(".ins-step", has_text="gate_up").click()
    details = page.get_by_test_id("step-details")
    expect(details).to_contain_text("model.layers.2.mlp.gate_up_proj")
    source = page.get_by_test_id("kernel-source")
    expect(source).to_contain_text("fn gate_up_")
    text = source.inner_text()
    assert text.count("@compute") == 1
    assert "array<vec4<u32>>" in text
    rows = page.get_by_test_id("bindings").locator("tbody tr")
    dispatch = plan["programs"]["decode"][next(i for i, e in enumerate(entries) if e in text)]
    expect(rows).to_have_count(len(dispatch["bind"]))
    page.get_by_test_id("tab-device").click()
    expect(page.get_by_test_id("limit")).to_have_count(6)
    largest = max(buffer["bytes"] for buffer in plan["buffers"])
    expect(page.get_by_test_id("limit").first).to_contain_text(f"{largest / 1024:g} KiB")
    expect(page.get_by_test_id("features").locator(".used")).to_have_text("subgroups")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_with_the_cpu_it_is_whole_and_accessible(page: Page, server_url: str, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    page.set_viewport_size({"width": 390, "height": 800})
    inspect(page, server_url, "wasm-simd")
    page.evaluate(AXE.read_text())
    page.locator(".ins-step", has_text="self_attn.qkv_proj").click()
    expect(page.get_by_test_id("kernel-source")).to_contain_text("v128.load")
    for tab in ("network", "device"):
        page.get_by_test_id(f"tab-{tab}").click()
        assert violations(page) == []
        assert page.evaluate("document.querySelector('.ins-part').scrollWidth") <= 390
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("inspector")).to_have_count(0)
