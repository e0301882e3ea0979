"""The browsers of the tests, behind one small interface: a name gives a running browser, which gives tabs (tab.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, BrowserType

from tests.browser.drivers.chromium import Chromium
from tests.browser.drivers.firefox import Firefox
from tests.browser.drivers.tab import Driver, JavaScriptError, Tab, Unavailable
from tests.browser.drivers.webkit import WebKit

__all__ = ["VARIANTS", "Driver", "JavaScriptError", "Tab", "Unavailable", "launch"]

# What runs in each; the first one needs most.
VARIANTS: dict[str, tuple[str, ...]] = {
    "chromium": ("webgpu-f32-sg", "webgpu-f32", "wasm-simd"),
    "chromium-lavapipe": ("webgpu-f32-sg", "webgpu-f32", "wasm-simd"),
    "firefox": ("webgpu-f32", "wasm-simd"),
    "webkit": ("wasm-simd",),
}


def launch(name: str, chromium: Callable[[], Browser], browser_type: BrowserType, cache: Path) -> Driver:
    """The browser of that name; `chromium` launches the one on SwiftShader. @raises Unavailable"""
    match name:
        case "chromium":
            return Chromium(chromium())
        case "chromium-lavapipe":
            return Chromium.on_lavapipe(browser_type, cache)
        case "firefox":
            return Firefox()
        case "webkit":
            return WebKit()
    raise ValueError(f"no browser is called {name}; there are {', '.join(VARIANTS)}")
