"""What people paste into a chat, on the embedded model: other scripts, emoji, markup, nothing, and far too much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

PROMPTS = {
    "emoji": "🙂🙃👩‍👩‍👧‍👦🇳🇴",
    "arabic": "ما اسمك؟ كيف حالك اليوم؟",
    "chinese": "你好,你叫什么名字?",
    "combining": "Z͑ͫaͣlͨgͩo e\u0301",
    "markup": "<script>alert(1)</script> [x](javascript:alert(1)) `code`",
    "control": "a\u0000b\u0007\r\n\ttab",
}
ASK = """async (content) => {
  const made = await window.engine.chat.completions.create({
    messages: [{ role: "user", content }], temperature: 0, max_tokens: 24,
  });
  return made.choices[0].message.content;
}"""
LOAD = """async (backend) => {
  const { createEngine } = await import("/static/wisp.js");
  window.engine = await createEngine("/models/demo/", { backend });
}"""
REFUSED = """async (content) => {
  try {
    await window.engine.chat.completions.create({ messages: [{ role: "user", content }], max_tokens: 4 });
    return null;
  } catch (error) {
    return error.message;
  }
}"""


@pytest.fixture(scope="session")
def browser(quick_browser: Browser) -> Browser:
    return quick_browser


@pytest.fixture(scope="module", params=["webgpu-f32-sg", "wasm-simd"])
def loaded(
    webgpu_adapter: dict[str, Any], browser: Browser, server_url: str, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """A page with the demo model in `window.engine`."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(server_url + "healthz")
    page.evaluate(LOAD, request.param)
    yield page
    context.close()


@pytest.mark.parametrize("name", PROMPTS)
def test_any_text_gets_whole_characters_back(name: str, loaded: Page) -> None:
    answer = loaded.evaluate(ASK, PROMPTS[name])
    assert answer.strip()
    assert "\ufffd" not in answer


def test_a_prompt_of_100_kilobytes_is_refused_with_a_remedy(loaded: Page) -> None:
    message = loaded.evaluate(REFUSED, "All work and no play. " * 5000)
    assert message is not None
    assert "1024" in message.replace(",", "")
    assert loaded.evaluate(ASK, "Hello!").strip(), "the engine goes on after it"


def test_an_empty_token_sequence_is_refused(loaded: Page) -> None:
    refused = loaded.evaluate("async () => { try { await window.engine.logits([]); } catch (e) { return e.message; } }")
    assert "token" in refused


def test_the_page_refuses_100_kilobytes_and_goes_on(page: Page, server_url: str) -> None:
    page.goto(server_url)
    prompt = page.get_by_test_id("prompt")
    expect(prompt).to_be_visible()
    prompt.fill("All work and no play. " * 5000)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("notice")).to_contain_text("longer than the model")
    prompt.fill("Hello!")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("answer-stats")).to_have_count(1)
