"""Chromium through Playwright, on SwiftShader or on lavapipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import playwright.sync_api as playwright

from tests import chromium
from tests.browser.drivers import lavapipe
from tests.browser.drivers.tab import JavaScriptError, Tab, Unavailable


class ChromiumTab(Tab):
    def __init__(self, browser: playwright.Browser) -> None:
        self._context = browser.new_context()
        self._page = self._context.new_page()

    def goto(self, url: str) -> None:
        self._page.goto(url)

    def reload(self) -> None:
        self._page.reload()

    def evaluate(self, function: str, argument: Any = None) -> Any:
        try:
            return self._page.evaluate(function, argument)
        except playwright.Error as error:
            raise JavaScriptError(error.message) from error

    def click(self, test_id: str) -> None:
        self._page.get_by_test_id(test_id).last.click()

    def type(self, test_id: str, text: str) -> None:
        self._page.get_by_test_id(test_id).press_sequentially(text)

    def press(self, key: str) -> None:
        self._page.keyboard.press(key)

    def screenshot(self, path: Path) -> None:
        self._page.screenshot(path=path)

    def close(self) -> None:
        self._context.close()


class Chromium:
    """As the other browser tests launch it: WebGPU on SwiftShader, without shader-f16, subgroups of 4."""

    def __init__(self, browser: playwright.Browser) -> None:
        self.browser = browser

    @classmethod
    def on_lavapipe(cls, browser_type: playwright.BrowserType, cache: Path) -> Chromium:
        """WebGPU on Mesa's lavapipe: shader-f16 and subgroups of 8, as on real GPUs. @raises Unavailable"""
        path = chromium.find()
        if path is None:
            raise Unavailable("no Chromium found: run `make setup` or set WISP_CHROMIUM to its path")
        place = lavapipe.prepare(path, cache)
        flags = [flag for flag in chromium.FLAGS if not flag.startswith("--use-webgpu-adapter")]
        environment = {**os.environ, **place.environment}
        launched = browser_type.launch(
            executable_path=place.executable, args=[*flags, *lavapipe.FLAGS], env=dict(environment)
        )
        return cls(launched)

    def new_tab(self) -> Tab:
        return ChromiumTab(self.browser)

    def close(self) -> None:
        self.browser.close()
