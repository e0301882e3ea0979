"""An exported site: below a path of a host that sends no headers, as an app, and without any network."""

import functools
import http.server
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from compiler.progress import Silent
from compiler.site.export import export
from tests.browser import toy_artifact
from tests.browser.test_conversations import KEPT
from tests.browser.test_page import answered, ask, load
from tests.browser.test_page_cpu import NO_GPU

READY = """async () => {
  const { active } = await navigator.serviceWorker.ready;
  while (!["activated", "redundant"].includes(active.state)) await new Promise((go) => setTimeout(go, 20));
  return active.state;
}"""


class PlainHost(http.server.SimpleHTTPRequestHandler):
    """`python -m http.server`: no header but the type, no ranges."""

    def log_message(self, *_: Any) -> None:
        pass


def aged(directory: Path, days: int) -> None:
    """As files lie on a host: a browser that is told no more takes one of a month to be fresh for days."""
    when = time.time() - days * 86_400
    for path in directory.rglob("*"):
        os.utime(path, (when, when))


@dataclass
class Host:
    """A host of plain files that can be switched off."""

    server: http.server.ThreadingHTTPServer
    url: str
    directory: Path

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    toy_artifact.write(tmp_path / "artifacts" / "toy", toy_artifact.toy(), name="Toy", cpu=True)
    directory = tmp_path / "host" / "sub" / "site"
    export(tmp_path / "artifacts", directory, Silent(), base="/sub/site/")
    aged(directory, days=60)
    handler = functools.partial(PlainHost, directory=str(tmp_path / "host"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    running = Host(server, f"http://127.0.0.1:{server.server_port}/sub/site/", directory)
    yield running
    running.stop()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(300_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """One without a GPU: the CPU is what needs isolation."""
    page = context.new_page()
    page.add_init_script(NO_GPU)
    return page


def failures(page: Page) -> list[str]:
    """What the page complains about from now on, such as its own Content-Security-Policy."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def test_the_page_and_the_model_work_with_the_network_off(page: Page, host: Host) -> None:
    complaints = failures(page)
    load(page, host.url)
    assert not page.evaluate("crossOriginIsolated"), "the host sends no headers"
    ask(page, "first")
    answered(page)
    said = page.get_by_test_id("log").inner_text()
    assert page.evaluate(READY) == "activated"
    assert complaints == []
    page.wait_for_function(KEPT)
    host.stop()
    page.reload()
    expect(page.get_by_test_id("prompt")).to_be_visible()
    assert page.evaluate("crossOriginIsolated"), "the worker adds what the host does not send"
    assert page.evaluate("wisp.info.threads") == min(2, page.evaluate("navigator.hardwareConcurrency"))
    assert "copy of the model in this browser" in page.evaluate("wisp.info.notices.join()")
    assert page.get_by_test_id("log").inner_text().splitlines()[:2] == said.splitlines()[:2]
    page.get_by_test_id("new-chat").click()
    expect(page.get_by_test_id("message-answer")).to_have_count(0)
    ask(page, "first")
    answered(page)
    assert page.get_by_test_id("log").inner_text().splitlines()[:2] == said.splitlines()[:2]


def test_a_fresh_tab_opens_offline_at_the_bare_address(page: Page, context: BrowserContext, host: Host) -> None:
    load(page, host.url + "?model=toy")
    assert page.evaluate(READY) == "activated"
    page.close()
    context.set_offline(True)
    other = context.new_page()
    other.add_init_script(NO_GPU)
    load(other, host.url)
    ask(other, "first")
    answered(other)


def test_a_new_version_is_taken_whole_once_the_old_one_is_closed(
    page: Page, context: BrowserContext, host: Host, tmp_path: Path
) -> None:
    load(page, host.url)
    assert page.evaluate(READY) == "activated"
    (cache,) = [name for name in page.evaluate("caches.keys()") if name.startswith("wisp-page ")]
    toy_artifact.write(tmp_path / "artifacts" / "other", toy_artifact.toy(), name="Other", cpu=True)
    export(tmp_path / "artifacts", host.directory, Silent())
    aged(host.directory, days=30)
    page.reload()
    page.wait_for_function("async () => (await navigator.serviceWorker.ready).waiting !== null")
    page.close()
    other = context.new_page()
    other.add_init_script(NO_GPU)
    # Beside the site, until nobody uses the old version any more.
    other.goto(host.url.removesuffix("sub/site/"))
    other.wait_for_function(
        "async (scope) => (await navigator.serviceWorker.getRegistration(scope)).waiting === null", arg=host.url
    )
    other.goto(host.url)
    expect(other.locator("input[name=model]")).to_have_count(2)
    of_the_page = "async () => (await caches.keys()).filter((name) => name.startsWith('wisp-page '))"
    other.wait_for_function(
        f"async (old) => (({of_the_page})()).then((kept) => !kept.includes(old) && kept.length === 1)", arg=cache
    )


def test_the_site_can_be_installed(page: Page, host: Host) -> None:
    load(page, host.url)
    assert page.evaluate(READY) == "activated"
    client = page.context.new_cdp_session(page)
    found = client.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert [error["errorId"] for error in found] == ["in-incognito"], "as every page of a test is"
    found = client.send("Page.getAppManifest")
    assert found["errors"] == []
    assert found["url"] == host.url + "manifest.json"
