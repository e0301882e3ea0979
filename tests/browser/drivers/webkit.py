"""WebKitGTK's MiniBrowser through its own WebDriver program, on a display in memory (Xvfb). It has no WebGPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    JavascriptException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.client_config import ClientConfig
from selenium.webdriver.remote.remote_connection import RemoteConnection
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from selenium.webdriver.webkitgtk.options import Options
from selenium.webdriver.webkitgtk.service import Service

from tests.browser.drivers.tab import KEYS, JavaScriptError, Tab, Unavailable, as_text, read_text

BROWSER = "webkit2gtk-4.1/MiniBrowser"
SCREEN = "1280x900x24"
SCRIPT_SECONDS = 600
ENVIRONMENT = {
    "GDK_BACKEND": "x11",
    "JSC_useSharedArrayBuffer": "1",  # Safari switches it on for isolated pages, WebKitGTK for none
}

# As the body of a function, so that no page's policy forbids it as it would forbid eval().
CALL = """
const [text, done] = arguments;
(FUNCTION)(text).then((value) => done({ value }), (error) => done({ error: String(error?.stack ?? error) }));
"""

HOLD_CACHES = """async () => {
  globalThis.held = await Promise.all((await caches.keys()).map((name) => caches.open(name)));
}"""


class WebKitTab(Tab):
    """A browser of its own: each session has its own caches and storage, and starts within a second."""

    def __init__(self, executable: Path, program_url: str) -> None:
        options = Options()
        options.binary_location = str(executable)
        options.add_argument("--automation")
        # Not webdriver.WebKitGTK, which warns of its own way to connect (selenium 4.51).
        config = ClientConfig(remote_server_addr=program_url, timeout=SCRIPT_SECONDS)
        self._driver = webdriver.Remote(RemoteConnection(client_config=config), options=options)
        self._driver.set_script_timeout(SCRIPT_SECONDS)
        self._driver.set_window_size(1280, 900)

    def goto(self, url: str) -> None:
        self._driver.get(url)

    def reload(self) -> None:
        """An automated WebKitGTK is a private window, which forgets a cache that no page holds: another page does."""
        handle, url = self._driver.current_window_handle, self._driver.current_url
        self._driver.switch_to.new_window("tab")
        self._driver.get(urljoin(url, "/healthz"))
        self.evaluate(HOLD_CACHES)
        self._driver.switch_to.window(handle)
        self._driver.refresh()

    def evaluate(self, function: str, argument: Any = None) -> Any:
        script = CALL.replace("FUNCTION", as_text(function))
        try:
            made = self._driver.execute_async_script(script, json.dumps(argument))
        except JavascriptException as error:
            raise JavaScriptError(error.msg) from error
        if "error" in made:
            raise JavaScriptError(made["error"])
        return read_text(made["value"])

    def click(self, test_id: str) -> None:
        self._once_shown(lambda: self._element(test_id).click())

    def type(self, test_id: str, text: str) -> None:
        self._once_shown(lambda: self._element(test_id).send_keys(text))

    def press(self, key: str) -> None:
        webdriver.ActionChains(self._driver).send_keys(KEYS[key]).perform()

    def screenshot(self, path: Path) -> None:
        path.write_bytes(self._driver.get_screenshot_as_png())

    def close(self) -> None:
        self._driver.quit()

    def _once_shown(self, act: Callable[[], None]) -> None:
        """What is there may be on its way in yet, as a drawer is."""

        def acted(_: object) -> bool:
            act()
            return True

        ignored = (ElementNotInteractableException, ElementClickInterceptedException)
        WebDriverWait(self._driver, SCRIPT_SECONDS, ignored_exceptions=ignored).until(acted)

    def _element(self, test_id: str) -> WebElement:
        found = self._driver.find_elements(By.CSS_SELECTOR, f"[data-testid={test_id}]")
        assert found, f"no element has the test id {test_id}"
        return found[-1]


class WebKit:
    def __init__(self) -> None:
        program = shutil.which("WebKitWebDriver")
        executable = next((path for root in ("/usr/lib", "/usr/libexec") for path in _browsers(Path(root))), None)
        server = shutil.which("Xvfb")
        if program is None or executable is None:
            raise Unavailable("no WebKitGTK with its driver found: install webkit2gtk-driver")
        if server is None:
            raise Unavailable("no display for WebKitGTK: install xvfb")
        self._executable = executable
        self._display, number = _start_display(server)
        self._program = Service(program, env={**os.environ, "DISPLAY": number, **ENVIRONMENT})
        self._program.start()

    def new_tab(self) -> Tab:
        return WebKitTab(self._executable, self._program.service_url)

    def close(self) -> None:
        self._program.stop()
        self._display.terminate()
        self._display.wait()


def _browsers(root: Path) -> list[Path]:
    return [*root.glob(BROWSER), *root.glob(f"*/{BROWSER}")]


def _start_display(server: str) -> tuple[subprocess.Popen[bytes], str]:
    """Xvfb takes a free display and writes its number once it is ready."""
    reader, writer = os.pipe()
    command = [server, "-displayfd", str(writer), "-screen", "0", SCREEN, "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader) as lines:
        number = lines.readline().strip()
    if not number:
        raise RuntimeError(f"{server} did not start: it ended with code {process.wait()}")
    return process, f":{number}"
