"""Firefox, headless, through WebDriver BiDi: the browser speaks it itself, so that no driver program is needed.

WebGPU runs on Mesa's lavapipe. It completes mapAsync() and onSubmittedWorkDone() on a timer of 100 ms.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import websocket

from tests.browser.drivers import lavapipe
from tests.browser.drivers.native import build_library
from tests.browser.drivers.tab import KEYS, JavaScriptError, Tab, Unavailable, as_text, read_text

COMMANDS = ("firefox-esr", "firefox")
START_SECONDS = 60
PATIENT_WAITS = Path(__file__).with_name("condition_wait.c")
PREFERENCES: dict[str, bool | int] = {
    "dom.webgpu.enabled": True,  # not by default on Linux
    "gfx.webgpu.ignore-blocklist": True,  # software adapters are on it
    "devtools.jsonview.enabled": False,  # JSON is shown as it is, by a page that runs scripts like any other
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
}


class Connection:
    """Commands of WebDriver BiDi, one at a time. Events are passed over."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, suppress_origin=True, timeout=600)
        self._last = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") != self._last:
                continue
            if message["type"] == "error":
                raise RuntimeError(f"{method}: {message['error']}: {message['message']}")
            result: dict[str, Any] = message["result"]
            return result

    def close(self) -> None:
        self._socket.close()


class FirefoxTab(Tab):
    """In a user context of its own, which has no caches and no storage yet."""

    def __init__(self, connection: Connection) -> None:
        self._call = connection.call
        self._user = self._call("browser.createUserContext")["userContext"]
        self._context = self._call("browsingContext.create", type="tab", userContext=self._user)["context"]

    def goto(self, url: str) -> None:
        self._call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def reload(self) -> None:
        self._call("browsingContext.reload", context=self._context, wait="complete")

    def evaluate(self, function: str, argument: Any = None) -> Any:
        result = self._call(
            "script.callFunction",
            functionDeclaration=as_text(function),
            arguments=[{"type": "string", "value": json.dumps(argument)}],
            awaitPromise=True,
            target={"context": self._context},
        )
        if result["type"] == "exception":
            raise JavaScriptError(result["exceptionDetails"]["text"])
        return read_text(result["result"]["value"])

    def click(self, test_id: str) -> None:
        locator = {"type": "css", "value": f"[data-testid={test_id}]"}
        nodes = self._call("browsingContext.locateNodes", context=self._context, locator=locator)["nodes"]
        assert nodes, f"no element has the test id {test_id}"
        element = {"type": "element", "element": {"sharedId": nodes[-1]["sharedId"]}}
        move = {"type": "pointerMove", "x": 0, "y": 0, "origin": element}
        self._act("pointer", [move, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}])

    def type(self, test_id: str, text: str) -> None:
        self.evaluate("(id) => document.querySelector(`[data-testid=${id}]`).focus()", test_id)
        self._keys(text)

    def press(self, key: str) -> None:
        self._keys(KEYS[key])

    def screenshot(self, path: Path) -> None:
        made = self._call("browsingContext.captureScreenshot", context=self._context)
        path.write_bytes(base64.b64decode(made["data"]))

    def close(self) -> None:
        self._call("browsingContext.close", context=self._context)
        self._call("browser.removeUserContext", userContext=self._user)

    def _keys(self, text: str) -> None:
        self._act("key", [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")])

    def _act(self, device: str, actions: list[dict[str, Any]]) -> None:
        source = {"type": device, "id": device, "actions": actions}
        self._call("input.performActions", context=self._context, actions=[source])


class Firefox:
    def __init__(self) -> None:
        command = next((path for name in COMMANDS if (path := shutil.which(name))), None)
        if command is None:
            raise Unavailable("no Firefox found: install firefox-esr")
        driver = lavapipe.find_driver()
        self._profile = Path(tempfile.mkdtemp(prefix="wisp-firefox-"))
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        (self._profile / "user.js").write_text("\n".join(lines))
        environment = {**os.environ, "VK_DRIVER_FILES": str(driver), "VK_ICD_FILENAMES": str(driver)}
        if sys.platform == "linux":
            library = self._profile / "condition_wait.so"
            build_library(PATIENT_WAITS, library)
            environment["LD_PRELOAD"] = " ".join([str(library), *os.environ.get("LD_PRELOAD", "").split()])
        self._log = (self._profile / "log").open("wb")
        self._process = subprocess.Popen(
            [command, "--headless", "--no-remote", "--remote-debugging-port", "0", "--profile", str(self._profile)],
            stdout=self._log,
            stderr=self._log,
            env=environment,
        )
        try:
            self._connection = Connection(self._address())
            self._connection.call("session.new", capabilities={})
        except BaseException:
            self._end()
            raise

    def new_tab(self) -> Tab:
        return FirefoxTab(self._connection)

    def close(self) -> None:
        with contextlib.suppress(Exception):  # It may be gone already, which is as good.
            self._connection.call("browser.close")
            self._connection.close()
        self._end()

    def _address(self) -> str:
        """Firefox writes it into its profile once it listens."""
        file = self._profile / "WebDriverBiDiServer.json"
        for _ in range(10 * START_SECONDS):
            with contextlib.suppress(OSError, ValueError):
                where = json.loads(file.read_text())
                return f"ws://{where['ws_host']}:{where['ws_port']}/session"
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        log = (self._profile / "log").read_text(errors="replace")
        raise RuntimeError(f"Firefox did not start to listen: {log[-2000:]}")

    def _end(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._profile, ignore_errors=True)
