"""Real browsers (Chromium with WebGPU on the CPU for most tests), a real server, and the demo artifact."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, Page, Route, expect

from tests import chromium
from tests.browser import toy_artifact
from tests.browser.drivers import Driver, Tab, Unavailable, launch
from tests.browser.drivers.chromium import Chromium
from tests.browser.site import Site, serving_site
from tests.conftest import ROOT, unavailable

PATIENCE = 300_000  # milliseconds; only so that a failure ends: a busy machine is no failure
expect.set_options(timeout=PATIENCE)
# Before a worker's own code: SwiftShader poses as a GPU, so that "auto" takes it before the CPU.
AS_HARDWARE = """
if (globalThis.GPUAdapterInfo !== undefined) {
  const info = {vendor: "acme", architecture: "", device: "", description: "", isFallbackAdapter: false};
  for (const name in info) Object.defineProperty(GPUAdapterInfo.prototype, name, {get: () => info[name]});
}
"""

SERVE = "import sys; from compiler.serving.listen import serve; serve(sys.argv[1], '127.0.0.1', 0)"


def run_in_worker(page: Page, script: str) -> None:
    """Runs `script` in the engine's worker, before the engine's own code."""

    def prepend(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, body=script + response.text())

    page.route("**/worker.js*", prepend)


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


@pytest.fixture(scope="session")
def toy_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the toy model alone, for tests of the page that need no compiler."""
    root = tmp_path_factory.mktemp("artifacts")
    toy_artifact.write(root / "toy", toy_artifact.toy(), name="Toy")
    with serving(root) as url:
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
def quick_browser(
    request: pytest.FixtureRequest, browser_type: BrowserType, browser_type_launch_args: dict[str, Any]
) -> Iterator[Browser]:
    """A Chromium for modules that compute much on the GPU: on lavapipe, where the machine has what that takes.

    It makes the demo model's kernels in a quarter of SwiftShader's time and computes a token in a seventh.
    """
    try:
        launched = Chromium.on_lavapipe(browser_type, lavapipe_cache(request)).browser
    except Unavailable:
        launched = browser_type.launch(**browser_type_launch_args)
    yield launched
    launched.close()


@pytest.fixture(scope="module")
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
def context(context: BrowserContext) -> BrowserContext:
    context.set_default_timeout(PATIENCE)
    return context


@pytest.fixture
def page(webgpu_adapter: dict[str, Any], context: BrowserContext) -> Page:
    """A page of a fresh browser context (empty caches and storage) that has WebGPU."""
    return context.new_page()


@pytest.fixture
def quick_page(quick_browser: Browser) -> Iterator[Page]:
    """A page of `quick_browser`, its caches and storage empty; too quick for a Stop in the middle of an answer."""
    context = quick_browser.new_context()
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def lavapipe_cache(request: pytest.FixtureRequest) -> Path:
    return request.config.cache.mkdir("wisp-chromium-lavapipe")


@pytest.fixture(scope="session")
def browsers(request: pytest.FixtureRequest, browser_type: BrowserType) -> Iterator[Callable[[str], Driver]]:
    """The running browser of a name, launched when it is first asked for."""
    running: dict[str, Driver] = {}
    cache = lavapipe_cache(request)

    def get(name: str) -> Driver:
        if name not in running:
            try:
                running[name] = launch(name, request.getfixturevalue("launch_browser"), browser_type, cache)
            except Unavailable as reason:
                unavailable(f"{name}: {reason}")
        return running[name]

    yield get
    for driver in running.values():
        driver.close()


@pytest.fixture
def tab(request: pytest.FixtureRequest, browsers: Callable[[str], Driver]) -> Iterator[Tab]:
    """A page of the browser that the test's parameter names, with empty caches and storage."""
    opened = browsers(request.param).new_tab()
    yield opened
    opened.close()


@pytest.fixture
def site(artifact_demo: Path) -> Iterator[Site]:
    """The page and the embedded model on a server that the test can watch and spoil."""
    with serving_site(artifact_demo.parent) as it:
        yield it


@pytest.fixture
def tabs(context: BrowserContext, site: Site) -> list[Page]:
    """Two of one browser, at an address of the server that runs nothing."""
    pages = [context.new_page() for _ in range(2)]
    for page in pages:
        page.goto(site.url + "healthz")
    return pages
