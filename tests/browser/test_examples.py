"""The examples of web/examples as their readers build them: the package as `npm pack` makes it, in a real browser."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, BrowserType, Page, expect

from tests import chromium
from tests.browser.test_embedding import ISOLATED, hosting
from tests.conftest import ROOT, unavailable

WEB = ROOT / "web"
EXAMPLES = WEB / "examples"
QUESTION = "What is 2 plus 3?"
ON = "demo on wasm-simd"  # what "auto" takes where the GPU is software

# What a program for the SDK, or for the Prompt API, expects.
ADAPTERS = """
import type { LanguageModelV4 } from "@ai-sdk/provider";
import { createEngine } from "wisp";
import { wisp } from "wisp/ai-sdk";
import { promptApi } from "wisp/prompt-api";

export const model: LanguageModelV4 = wisp(() => createEngine("/model/"));
const session = await promptApi((options) => createEngine("/model/", options)).create({ temperature: 1, topK: 3 });
export const answer: Promise<string> = session.prompt("Hi", { responseConstraint: /yes|no/ });
"""

Install = Callable[..., Path]


def run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `npm install wisp-0.1.0.tgz` would put into node_modules."""
    folder = tmp_path_factory.mktemp("package")
    (packed,) = json.loads(run(["npm", "pack", "--json", "--pack-destination", str(folder)], WEB))
    with tarfile.open(folder / packed["filename"]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


@pytest.fixture
def install(package: Path, tmp_path: Path) -> Install:
    """A copy of an example with the package and the named ones of web/ installed."""

    def install(name: str, *others: str) -> Path:
        app = tmp_path / name
        shutil.copytree(EXAMPLES / name, app)
        modules = app / "node_modules"
        modules.mkdir()
        shutil.copytree(package, modules / "wisp")
        for other in others:
            (modules / other).parent.mkdir(exist_ok=True)
            (modules / other).symlink_to(WEB / "node_modules" / other)
        return app

    return install


def ask(page: Page, url: str, artifact: str) -> None:
    page.goto(url)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer[data-done]")).not_to_be_empty()
    expect(page.get_by_role("status")).to_have_text(artifact)


@pytest.mark.parametrize("name", ["plain", "prompt-api"])
def test_one_html_file(
    context: BrowserContext, install: Install, package: Path, artifact_demo: Path, name: str
) -> None:
    """Under a sub-path, where nothing of it may lie at the root."""
    app = install(name)
    shutil.copytree(package / "dist", app / "wisp")
    (app / "model").symlink_to(artifact_demo)
    with hosting(app.parent, ISOLATED) as url:
        ask(context.new_page(), f"{url}{name}/", ON)


@pytest.mark.parametrize(
    ("name", "others"),
    [("vite-typescript", ()), ("vite-react", ("react", "react-dom", "scheduler")), ("ai-sdk", ("ai",))],
)
def test_vite(
    context: BrowserContext, install: Install, artifact_demo: Path, name: str, others: tuple[str, ...]
) -> None:
    app = install(name, "vite", *others)
    run(["node", str(WEB / "node_modules" / "vite" / "bin" / "vite.js"), "build", "--logLevel", "warn"], app)
    (app / "dist" / "model").symlink_to(artifact_demo)
    with hosting(app / "dist", ISOLATED) as url:
        ask(context.new_page(), url, ON)


def test_next(context: BrowserContext, install: Install, artifact_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported as static files. Turbopack follows no link out of the app: what it is made of is linked file by file."""
    modules = ROOT / "tests" / "next" / "node_modules"
    if not modules.is_dir():
        unavailable("Next.js is not installed: run `make setup`")
    monkeypatch.setenv("NEXT_TELEMETRY_DISABLED", "1")
    app = install("next")
    shutil.copytree(modules, app / "node_modules", copy_function=link, symlinks=True, dirs_exist_ok=True)
    run(["node", "node_modules/next/dist/bin/next", "build"], app)
    (app / "out" / "model").symlink_to(artifact_demo)
    with hosting(app / "out", ISOLATED) as url:
        ask(context.new_page(), url, ON)


def link(source: str, target: str) -> None:
    """The same file under another name, or where that cannot be a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.mark.parametrize("resolution", ["bundler", "nodenext"])
def test_its_types_are_found(install: Install, resolution: str) -> None:
    app = install("vite-typescript", "@ai-sdk/provider")
    (app / "src" / "adapters.ts").write_text(ADAPTERS)
    tsc = str(WEB / "node_modules" / "typescript" / "bin" / "tsc")
    by = [] if resolution == "bundler" else ["--module", resolution, "--moduleResolution", resolution]
    run(["node", tsc, "--project", ".", "--skipLibCheck", "false", *by], app)


def test_node(install: Install, artifact_demo: Path) -> None:
    app = install("node")
    assert run(["node", "chat.mjs", str(artifact_demo), QUESTION], app).strip()
    failed = subprocess.run(["node", "chat.mjs"], cwd=app, capture_output=True, text=True)
    assert (failed.returncode, failed.stderr.split()[0]) == (2, "usage:")


def test_an_extension(
    browser_type: BrowserType, install: Install, package: Path, artifact_demo: Path, tmp_path: Path
) -> None:
    """A page of it, on the CPU with threads: extensions may be isolated."""
    app = install("chrome-extension")
    shutil.rmtree(app / "node_modules")
    shutil.copytree(package / "dist", app / "wisp")
    shutil.copytree(artifact_demo, app / "model")
    path = chromium.find()
    if path is None:
        unavailable("no Chromium found: run `make setup` or set WISP_CHROMIUM to its path")
    flags = [*chromium.FLAGS, f"--disable-extensions-except={app}", f"--load-extension={app}"]
    context = browser_type.launch_persistent_context(
        str(tmp_path / "profile"), executable_path=path, args=flags, ignore_default_args=["--disable-extensions"]
    )
    try:
        # An unpacked extension's id is made of its path: the first 16 bytes of its SHA-256, digits as letters from a.
        identifier = extension_id(app)
        page = context.new_page()
        page.set_default_timeout(300_000)
        ask(page, f"chrome-extension://{identifier}/index.html", ON)
        assert page.evaluate("crossOriginIsolated")
    finally:
        context.close()


def extension_id(folder: Path) -> str:
    return "".join(chr(ord("a") + int(digit, 16)) for digit in hashlib.sha256(str(folder).encode()).hexdigest()[:32])


def test_what_the_package_holds(package: Path) -> None:
    """No file of the page or of the compiler, and what a page pays before it loads a model is small."""
    names = {path.name for path in (package / "dist").iterdir()}
    assert names.isdisjoint({"page.js", "page.css", "check.js", "bench.js", "check-tokenizer.mjs"})
    entries = {f"{name}.{kind}" for name in ("wisp", "react", "ai-sdk", "prompt-api") for kind in ("js", "d.ts")}
    assert {*entries, "worker.js", "service-worker.js", "thread.js", "wisp-node.mjs"} <= names
    stated = json.loads((package / "package.json").read_text())
    assert not stated.get("dependencies"), "all that it needs is in it"
    assert "postinstall" not in stated.get("scripts", {})

    def with_imports(name: str, seen: dict[str, int]) -> dict[str, int]:
        if name not in seen:
            text = (package / "dist" / name).read_text()
            seen[name] = len(gzip.compress(text.encode(), 9))
            for line in text.splitlines():
                if line.startswith(("import ", "export ")) and 'from "./' in line:
                    with_imports(line.split('"./')[1].split('"')[0], seen)
        return seen

    entry = with_imports("wisp.js", {})
    assert sum(entry.values()) <= 6_000, entry
    texts = [(package / "dist" / name).read_text() for name in entry]
    assert any("import(" in text for text in texts), "the engine itself comes when it is asked for"
