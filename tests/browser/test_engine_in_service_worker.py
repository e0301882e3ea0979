"""The engine in an app's own service worker: one model for all pages, without any worker of a page's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page

from tests.browser.test_embedding import ISOLATED, hosting
from tests.conftest import ROOT

START = """async (cache) => {
  const { createEngine } = await import("/wisp/wisp.js");
  await navigator.serviceWorker.register("/app-worker.js", { type: "module" });
  const worker = (await navigator.serviceWorker.ready).active;
  globalThis.engine = await createEngine("/model/", { worker, backend: "wasm-simd", cache });
  const { variant, threads } = engine.info;
  return { variant, threads };
}"""
# The template, the tokenizer and the grammar are all in the one file.
ASK = """async () => {
  const { choices } = await engine.chat.completions.create({
    messages: [{ role: "user", content: "Which one?" }],
    response_format: { type: "regex", regex: "(north|south) [0-9]{2}" },
    temperature: 0,
  });
  return choices[0].message.content;
}"""
STREAM = """async () => {
  const pieces = [];
  const request = { messages: [{ role: "user", content: "What is 2 plus 3?" }], temperature: 0, stream: true };
  for await (const { choices } of engine.chat.completions.create(request)) pieces.push(choices[0].delta.content ?? "");
  return [pieces.length > 1, pieces.join("")];
}"""


def test_two_pages_have_the_model_of_one_service_worker(
    context: BrowserContext, artifact_demo: Path, tmp_path: Path
) -> None:
    (tmp_path / "wisp").symlink_to(ROOT / "web" / "dist")
    (tmp_path / "model").symlink_to(artifact_demo)
    (tmp_path / "app-worker.js").write_text('import "./wisp/service-worker.js";\n')
    (tmp_path / "index.html").write_text("<!doctype html><title>An app</title>")
    with hosting(tmp_path, ISOLATED) as url:

        def start() -> tuple[Page, dict[str, Any]]:
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.goto(url)
            return page, page.evaluate(START, False)

        (one, info), (two, _) = start(), start()
        assert info == {"variant": "wasm-simd", "threads": 1}
        assert one.workers == [], "the page has none of its own"
        asked = one.evaluate(ASK)
        assert asked[:5] in ("north", "south")
        assert len(asked) == 8
        assert two.evaluate(ASK) == asked
        assert two.evaluate("() => engine.stats().requests") == 2, "both pages'"
        one.evaluate("() => engine.dispose()")
        streamed, text = two.evaluate(STREAM)
        assert streamed, "the other one has it yet"
        assert text.strip()
        two.evaluate("() => engine.dispose()")
        assert two.evaluate(f"async () => (await ({START})(false), ({ASK})())") == asked, "a model anew"
