"""The engine on other people's pages: from another origin, as from a CDN, and in an app that a bundler builds."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser import toy_artifact
from tests.browser.toy_artifact import BOS
from tests.conftest import ROOT

TOY = toy_artifact.toy()
PROMPT = [BOS, 7, 9]
WEB = ROOT / "web"
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
RUN = """async ([url, backend]) => {
  const engine = await createEngine(url, {backend, threads: backend === "wasm-simd" ? 2 : undefined});
  const ids = await engine.generateIds(PROMPT, {maxTokens: 9, temperature: 0});
  const {variant, threads} = engine.info;
  await engine.dispose();
  return {ids, variant, threads};
}""".replace("PROMPT", json.dumps(PROMPT))


class _Files(http.server.SimpleHTTPRequestHandler):
    """A static host that knows nothing of Wisp."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: object, headers_of: dict[str, str], **kwargs: object) -> None:
        self.headers_of = headers_of
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def end_headers(self) -> None:
        for name, value in self.headers_of.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def hosting(directory: Path, headers: dict[str, str]) -> Iterator[str]:
    handler = functools.partial(_Files, directory=str(directory), headers_of=headers)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{host.server_address[1]}/"
        finally:
            host.shutdown()


def check(got: dict[str, object], backend: str) -> None:
    assert got["ids"] == TOY.generate(PROMPT, 9)
    assert got["variant"] == backend
    if backend == "wasm-simd":
        assert got["threads"] == 2


@pytest.mark.parametrize("backend", ["webgpu-f32", "wasm-simd"])
def test_the_engine_may_lie_at_another_origin(context: BrowserContext, tmp_path: Path, backend: str) -> None:
    toy_artifact.write(tmp_path / "page" / "toy", TOY, cpu=True)
    (tmp_path / "page" / "index.html").write_text("<!doctype html><title>another page</title>")
    with (
        hosting(tmp_path / "page", ISOLATED) as page_url,
        hosting(WEB / "dist", {"Access-Control-Allow-Origin": "*"}) as engine_url,
    ):
        page = context.new_page()
        page.goto(page_url)
        engine = f'const {{ createEngine }} = await import("{engine_url}wisp.js");'
        got = page.evaluate(f"async (args) => {{ {engine} return await ({RUN})(args); }}", ["/toy/", backend])
    check(got, backend)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app that imports the engine as a package, built by Vite with its defaults."""
    app = tmp_path_factory.mktemp("app")
    package = app / "node_modules" / "wisp"
    shutil.copytree(WEB / "dist", package)
    (package / "package.json").write_text(json.dumps({"name": "wisp", "type": "module", "exports": "./wisp.js"}))
    (app / "index.html").write_text(
        '<!doctype html><title>an app</title><script type="module" src="/main.js"></script>'
    )
    (app / "main.js").write_text(f'import {{ createEngine }} from "wisp"; window.run = {RUN};')
    command = ["node", str(WEB / "node_modules" / "vite" / "bin" / "vite.js"), "build", "--logLevel", "warn"]
    done = subprocess.run(
        command, cwd=app, capture_output=True, text=True, env={**os.environ, "NODE_ENV": "production"}
    )
    assert done.returncode == 0, done.stderr
    toy_artifact.write(app / "dist" / "toy", TOY, cpu=True)
    return app / "dist"


@pytest.mark.parametrize("backend", ["webgpu-f32", "wasm-simd"])
def test_a_bundler_takes_the_workers_along(context: BrowserContext, app: Path, backend: str) -> None:
    with hosting(app, ISOLATED) as url:
        page = context.new_page()
        page.goto(url)
        page.wait_for_function("() => window.run !== undefined")
        got = page.evaluate("(args) => run(args)", ["/toy/", backend])
    check(got, backend)


def test_the_engine_runs_in_a_worker_of_the_page(context: BrowserContext, tmp_path: Path) -> None:
    toy_artifact.write(tmp_path / "toy", TOY, cpu=True)
    (tmp_path / "index.html").write_text("<!doctype html><title>a page with a worker</title>")
    shutil.copytree(WEB / "dist", tmp_path / "wisp")
    script = f"""
      import {{ createEngine }} from "/wisp/wisp.js";
      ({RUN})(["/toy/", "wasm-simd"]).then(postMessage, (error) => postMessage({{error: String(error)}}));
    """
    (tmp_path / "own.js").write_text(script)
    with hosting(tmp_path, ISOLATED) as url:
        page = context.new_page()
        page.goto(url)
        got = page.evaluate(
            'new Promise((done) => { new Worker("/own.js", {type: "module"}).onmessage = ({data}) => done(data); })'
        )
    check(got, "wasm-simd")


FILES = """async ([kind, names]) => {
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle("toy", {create: true});
  const files = [];
  for (const name of names) {
    const blob = await (await fetch(`/toy/${name}`)).blob();
    const file = new File([blob], name.split("/").at(-1));
    files.push(Object.defineProperty(file, "webkitRelativePath", {value: `toy/${name}`}));
    let inner = folder;
    for (const part of name.split("/").slice(0, -1)) inner = await inner.getDirectoryHandle(part, {create: true});
    const writable = await (await inner.getFileHandle(name.split("/").at(-1), {create: true})).createWritable();
    await writable.write(blob);
    await writable.close();
  }
  const { createEngine } = await import("/wisp/wisp.js");
  const made = (source) => (RUN)([source, "wasm-simd"]);
  if (kind === "handle") return await made(folder);
  if (kind === "list") return await made(files);
  const others = files.filter(({name}) => name !== "model.json");
  return {refused: await made(others).catch(({kind, message}) => ({kind, message}))};
}""".replace("RUN", RUN)


@pytest.fixture
def own_page(context: BrowserContext, tmp_path: Path) -> Iterator[Page]:
    """A page with the engine and the toy beside it, which lies in `tmp_path`."""
    toy_artifact.write(tmp_path / "toy", TOY, cpu=True)
    (tmp_path / "index.html").write_text("<!doctype html><title>a page</title>")
    shutil.copytree(WEB / "dist", tmp_path / "wisp")
    (tmp_path / "own-worker.js").write_text('globalThis.mine = true; import "/wisp/worker.js";')
    with hosting(tmp_path, ISOLATED) as url:
        page = context.new_page()
        page.goto(url)
        yield page


@pytest.mark.parametrize("kind", ["handle", "list"])
def test_an_artifact_in_the_visitors_files(own_page: Page, tmp_path: Path, kind: str) -> None:
    requested: list[str] = []
    own_page.on("request", lambda request: requested.append(request.url))
    got = own_page.evaluate(FILES, [kind, files_of_toy(tmp_path)])
    check(got, "wasm-simd")
    assert not [url for url in requested if "invalid" in url], "nothing of it is asked of the network"


def files_of_toy(folder: Path) -> list[str]:
    toy = folder / "toy"
    return sorted(path.relative_to(toy).as_posix() for path in toy.rglob("*") if path.is_file())


def test_files_that_are_no_artifact(own_page: Page, tmp_path: Path) -> None:
    refused = own_page.evaluate(FILES, ["without model.json", files_of_toy(tmp_path)])["refused"]
    assert refused["kind"] == "request"
    assert "none of them model.json" in refused["message"]


def test_a_worker_of_the_pages_own(own_page: Page) -> None:
    script = """async (run) => {
      const { createEngine } = await import("/wisp/wisp.js");
      let started = 0;
      const worker = () => { started += 1; return new Worker("/own-worker.js", {type: "module"}); };
      const engine = await createEngine("/toy/", {backend: "wasm-simd", worker});
      const ids = await engine.generateIds(PROMPT, {maxTokens: 9, temperature: 0});
      await engine.dispose();
      const wrong = await createEngine("/toy/", {worker: "own-worker.js"}).catch(({message}) => message);
      return {ids, started, wrong};
    }""".replace("PROMPT", json.dumps(PROMPT))
    got = own_page.evaluate(script)
    assert (got["ids"], got["started"]) == (TOY.generate(PROMPT, 9), 1)
    assert got["wrong"].startswith("worker")
    assert "a function that makes a worker" in got["wrong"]
