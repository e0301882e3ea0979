"""The published model of the demo in browsers: the answers that transformers gives to the same file."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from compiler.config import resolve_config
from compiler.demo import RECIPE
from compiler.incremental import build_if_stale
from tests.browser.conftest import serving
from tests.browser.drivers import Tab
from tests.smollm2 import golden_answers, model_file

PATIENCE = 240_000  # milliseconds
GREEDY = """async ([ids, maxTokens]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/smollm2-135m-instruct/", { backend: "webgpu-f32", autotune: false });
  const tokens = await engine.generateIds(ids, { maxTokens, temperature: 0 });
  await engine.dispose();
  return tokens;
}"""


@pytest.fixture(scope="module")
def artifacts(request: pytest.FixtureRequest) -> Path:
    """The demo's artifact, alone in a directory."""
    directory = request.config.cache.mkdir("wisp-smollm2")
    file, output = str(model_file()), directory / RECIPE.stem
    config = resolve_config(
        file, recipe_for_source=RECIPE, identifier=RECIPE.stem, output=output, variants=["webgpu-f32", "wasm-simd"]
    )
    build_if_stale(config)
    return directory


def test_the_page_gives_the_golden_answer(browser: Browser, artifacts: Path) -> None:
    answer = next(answer for answer in golden_answers() if "moon" in answer.prompt)
    context = browser.new_context()
    page = context.new_page()
    with serving(artifacts) as url:
        page.goto(f"{url}?backend=wasm-simd")
        expect(page.get_by_test_id("license")).to_contain_text("Apache-2.0, from huggingface.co/HuggingFaceTB/")
        page.get_by_test_id("load").click()
        expect(page.get_by_test_id("prompt")).to_be_visible(timeout=PATIENCE)
        page.get_by_test_id("open-device").click()
        expect(page.get_by_text("exactly those of the source (Q4_1, Q8_0)")).to_be_visible()
        expect(page.get_by_text("q4af16_g32, q8f16_1")).to_be_visible()
        page.keyboard.press("Escape")
        page.get_by_test_id("open-settings").click()
        page.get_by_test_id("setting-temperature").fill("0")
        page.keyboard.press("Escape")
        page.get_by_test_id("prompt").fill(answer.prompt)
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("answer-stats")).to_have_count(1, timeout=PATIENCE)
        assert page.get_by_test_id("answer-text").inner_text().strip() == answer.text
    context.close()


@pytest.mark.parametrize("tab", ["chromium", "firefox"], indirect=True)
def test_the_gpu_gives_the_golden_tokens(tab: Tab, artifacts: Path) -> None:
    """Of the file's values as they are kept. A software GPU takes a second a token: as few as tell it from others."""
    answer = next(answer for answer in golden_answers() if "moon" in answer.prompt)
    count = min(4, answer.clear_until(0.01))
    assert count == 4
    with serving(artifacts) as url:
        tab.goto(url)
        assert tuple(tab.evaluate(GREEDY, [list(answer.prompt_ids), count])) == answer.ids[:count]
