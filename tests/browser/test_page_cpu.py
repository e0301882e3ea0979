"""The page on devices without a GPU, and on hosts that send no headers."""

import http.server
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import toy_artifact
from tests.browser.conftest import AS_HARDWARE, run_in_worker, serving
from tests.browser.test_fallback import LOSING
from tests.browser.test_page import answered, ask, load
from tests.conftest import ROOT

NO_GPU = "Object.defineProperty(Navigator.prototype, 'gpu', {get: () => undefined});"
NO_GPU_IN_WORKER = "Object.defineProperty(WorkerNavigator.prototype, 'gpu', {get: () => undefined});"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    toy_artifact.write(root / "toy", toy_artifact.toy(), name="Toy", cpu=True)
    return root


@pytest.fixture(scope="module")
def url(artifacts: Path) -> Iterator[str]:
    with serving(artifacts) as address:
        yield address


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def without_gpu(page: Page) -> None:
    page.add_init_script(NO_GPU)
    run_in_worker(page, AS_HARDWARE + NO_GPU_IN_WORKER)


def test_without_a_gpu_the_model_loads_and_says_where_it_runs(page: Page, url: str) -> None:
    without_gpu(page)
    load(page, url)
    expect(page.get_by_test_id("place")).to_have_text(re.compile(r"^CPU, \d+ threads?$"))
    notice = page.get_by_test_id("notice")
    expect(notice).to_contain_text("This model runs on the CPU")
    expect(notice).to_contain_text("this browser does not offer WebGPU")
    ask(page, "first")
    answered(page)
    page.get_by_test_id("open-device").click()
    expect(page.get_by_test_id("variant")).to_contain_text("wasm-simd on the CPU")
    expect(page.get_by_test_id("skipped")).to_contain_text("this browser does not offer WebGPU")


def test_models_are_offered_without_a_gpu_when_they_run_on_the_cpu(page: Page, artifacts: Path, url: str) -> None:
    toy_artifact.write(artifacts / "gpu-only", toy_artifact.toy(), name="GPU only", parameters=1_235_814_400)
    try:
        without_gpu(page)
        page.goto(url)
        missing = page.get_by_test_id("device-missing")
        expect(missing).to_contain_text("the model runs on the CPU: the same answers, more slowly")
        expect(missing).not_to_have_class(re.compile("bad"))
        expect(page.get_by_test_id("device-line")).to_contain_text("the CPU does the work")
        expect(page.get_by_test_id("model-gpu-only")).to_contain_text("Needs a GPU")
        expect(page.get_by_test_id("model-toy").get_by_role("radio")).to_be_checked()
        page.get_by_test_id("model-gpu-only").click()
        expect(page.get_by_test_id("load")).to_be_disabled()
        page.get_by_test_id("model-toy").click()
        expect(page.get_by_test_id("model-toy")).not_to_contain_text("Needs a GPU", use_inner_text=True)
        expect(page.get_by_test_id("load")).to_be_enabled()
        missing.get_by_text("How to use the GPU").click()
        expect(missing).to_contain_text("This browser does not offer WebGPU", use_inner_text=True)
    finally:
        shutil.rmtree(artifacts / "gpu-only")


def test_without_gpu_and_simd_neither_is_offered(page: Page, url: str) -> None:
    page.add_init_script(NO_GPU + "WebAssembly.validate = (bytes) => bytes.byteLength <= 8;")
    page.goto(url)
    expect(page.get_by_test_id("no-cpu")).to_contain_text("this browser's WebAssembly has no SIMD")
    expect(page.get_by_test_id("load")).to_be_disabled()


def test_a_conversation_moves_to_the_cpu_and_says_so(page: Page, url: str) -> None:
    run_in_worker(page, AS_HARDWARE + LOSING.replace("LASTS", "[8, 8]"))
    load(page, url)
    ask(page, "first")
    expect(page.get_by_test_id("place")).to_contain_text("CPU")
    answered(page)
    expect(page.get_by_test_id("notice")).to_contain_text("The conversation continues on the CPU")
    expect(page.get_by_test_id("notice")).to_contain_text("lost twice within a minute")
    ask(page, "second")
    answered(page, 2)


# ------------------------------------------------------------------------------------------- hosts that send no headers


class PlainHost(http.server.SimpleHTTPRequestHandler):
    """Files as they are. `/models` is a file where `/models/toy/` is a directory, as object stores have it."""

    def do_GET(self) -> None:
        if self.path == "/models":
            self.path = "/catalogue.json"
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def plain_url(url: str, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, the engine and the model on a host that sends no header of isolation."""
    root = tmp_path_factory.mktemp("host")
    for path, name in {"": "index.html", "models": "catalogue.json"}.items():
        with urllib.request.urlopen(url + path) as response:
            (root / name).write_bytes(response.read())
    shutil.copytree(ROOT / "web" / "dist", root / "static")
    shutil.copytree(artifacts, root / "models")
    shutil.copy(ROOT / "web" / "dist" / "isolation.js", root)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(PlainHost, directory=str(root))) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}/"
        host.shutdown()


def test_a_service_worker_gives_threads_where_the_host_sends_no_headers(page: Page, plain_url: str) -> None:
    page.add_init_script(NO_GPU)
    load(page, plain_url + "?backend=wasm-simd&model=toy")
    assert not page.evaluate("crossOriginIsolated")
    assert page.evaluate("wisp.info.threads") == 1
    assert "Cross-Origin-Opener-Policy" in page.evaluate("wisp.info.hints[0]")
    page.get_by_test_id("open-device").click()
    expect(page.get_by_test_id("hint")).to_be_visible()  # a key that is pressed before closes nothing
    expect(page.get_by_test_id("hint")).to_contain_text("isolation.js")
    page.keyboard.press("Escape")
    with page.expect_event("load"):
        page.get_by_role("button", name="Reload with more threads").click()
    expect(page.get_by_test_id("prompt")).to_be_visible()
    assert page.evaluate("crossOriginIsolated")
    assert page.evaluate("wisp.info.threads") == min(2, page.evaluate("navigator.hardwareConcurrency"))
    assert page.evaluate("wisp.info.hints") == []
    ask(page, "first")
    answered(page)


def test_no_service_worker_is_registered_for_the_gpu(page: Page, plain_url: str) -> None:
    run_in_worker(page, AS_HARDWARE)
    load(page, plain_url + "?model=toy")
    assert page.evaluate("wisp.info.backend") == "webgpu"
    assert page.evaluate("async () => (await navigator.serviceWorker.getRegistrations()).length") == 0
