"""A real Chromium with WebGPU on the CPU, a real server, and the demo artifact."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests import chromium
from tests.conftest import ROOT, unavailable

expect.set_options(timeout=60_000)  # only so that a failure ends: a busy machine is no failure

SERVE = "import sys, server; server.serve(sys.argv[1], '127.0.0.1', 0)"


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """pytest-playwright's arguments, with the Chromium that `tests.chromium` finds."""
    path = chromium.find()
    if path is None:
        unavailable("no Chromium found: run `make setup` or set WISP_CHROMIUM to its path")
    return {**browser_type_launch_args, "executable_path": path, "args": list(chromium.FLAGS)}


@pytest.fixture(scope="session")
def server_url(artifact_demo: Path) -> Iterator[str]:
    """The address of a server with the demo artifact, `http://127.0.0.1:PORT/`."""
    with serving(artifact_demo.parent) as url:
        yield url


@contextlib.contextmanager
def serving(artifacts: Path) -> Iterator[str]:
    """A server process over a directory of artifacts, on a free port; yields its URL."""
    command = [sys.executable, "-u", "-c", SERVE, str(artifacts)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # "Wisp is at URL (...)", or nothing when it could not start
            url = next((word for word in line.split() if word.startswith("http://")), None)
            if url is None:
                pytest.fail(f"the server did not start (its reason is above); it said {line!r}", pytrace=False)
            yield url
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def webgpu_adapter(browser: Browser, server_url: str) -> dict[str, Any]:
    """What the browser's WebGPU adapter says of itself, `{vendor, architecture, features}`."""
    page = browser.new_page()
    page.goto(server_url + "healthz")
    adapter = page.evaluate(
        """async () => {
            const adapter = await navigator.gpu?.requestAdapter();
            return adapter && {vendor: adapter.info.vendor, architecture: adapter.info.architecture,
                               features: [...adapter.features]};
        }"""
    )
    page.close()
    if adapter is None:
        unavailable(f"Chromium {browser.version} offers no WebGPU adapter")
    return adapter


@pytest.fixture
def page(webgpu_adapter: dict[str, Any], context: BrowserContext) -> Page:
    """A page of a fresh browser context (empty caches and storage) that has WebGPU."""
    return context.new_page()
