"""Templates and tokenizers that never end, and workers that die, on a real page: the engine says so and goes on."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Worker, expect

from tests.browser import toy_artifact
from tests.browser.conftest import serving
from tests.browser.test_engine_loop import open_page
from tests.browser.test_page import answered, ask
from tests.browser.toy_artifact import BOS, EOS

TOY = toy_artifact.toy()
# For ever where a message says so; the others are rendered as usual.
LOOPS = (
    "{% if messages[-1]['content'] == 'loop' %}{% for a in range(9999) %}{% for b in range(9999) %}"
    "{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}{% endif %}"
)
BACKTRACKS = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
LOAD = """async (model) => {
  const { createEngine } = await import("/static/wisp.js");
  window.events = [];
  window.engine = await createEngine(`/models/${model}/`, {
    backend: "wasm-simd", threads: 1,
    onRecovering: ({what}) => events.push(what),
    onBackendChange: ({variant}) => { events.push(variant); window.onMoved?.(); },
    onDeviceLost: ({message}) => events.push("lost: " + message),
  });
}"""
CHAT = """async (contents) => {
  const messages = contents.map((content, i) => ({role: i % 2 ? "assistant" : "user", content}));
  const answer = await engine.chat.completions.create({messages, max_tokens: 8}).catch((error) => error);
  return answer.choices?.[0].message.content ?? {kind: answer.kind, message: answer.message};
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("artifacts")
    toy_artifact.write(root / "loops", TOY, cpu=True, chat_template=LOOPS + toy_artifact.TEMPLATE)
    toy_artifact.write(root / "broken", TOY, cpu=True, chat_template="{% for message in messages %}{{ message }}")
    hostile = json.loads(toy_artifact.tokenizer().to_str())
    hostile["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [BACKTRACKS, hostile["pre_tokenizer"]]}
    toy_artifact.write(root / "backtracks", TOY, cpu=True, tokenizer_json=json.dumps(hostile))
    with serving(root) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    page = open_page(browser, url)
    yield page
    page.context.close()


def answer(*contents: str) -> str:
    roles = ("user", "assistant")
    text = "<s>" + "".join(f"<|{roles[i % 2]}|>{content}\n" for i, content in enumerate(contents)) + "<|assistant|>"
    tokenizer = toy_artifact.tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids[0] == BOS
    return tokenizer.decode(TOY.generate(ids, 8, stop=(EOS,)))


def is_about(error: Any, what: str) -> bool:
    return error["kind"] == "worker" and error["message"].startswith(f"{what} ran for")


def test_a_template_that_never_ends_is_stopped_and_the_conversation_goes_on(page: Page) -> None:
    page.evaluate(LOAD, "loops")
    assert page.evaluate(CHAT, ["hello"]) == answer("hello")
    ended: list[Worker] = []
    page.workers[0].on("close", lambda worker: ended.append(worker))
    assert is_about(page.evaluate(CHAT, ["hello", "hi", "loop"]), "The model's chat template")
    assert page.evaluate(CHAT, ["hello", "hi", "go on"]) == answer("hello", "hi", "go on")
    recovering, moved = page.evaluate("events")
    assert "chat template ran for" in recovering
    assert moved == "wasm-simd"
    assert page.evaluate("engine.stats().recoveries") == 1
    page.evaluate("engine.dispose()")
    while not ended:  # a browser takes its time to end a thread that never yields
        page.wait_for_timeout(100)


def test_stop_and_a_new_chat_do_not_wait_for_it(page: Page) -> None:
    page.evaluate(LOAD, "loops")
    hung = page.evaluate(
        """async () => {
          const request = {messages: [{role: "user", content: "loop"}]};
          const answer = engine.chat.completions.create(request).catch((error) => error);
          await new Promise((resolve) => setTimeout(resolve, 200));
          engine.interrupt();
          await engine.resetChat();
          return (await answer).message;
        }"""
    )
    assert "ran for 2 s without an end and was stopped" in hung
    assert page.evaluate(CHAT, ["hello"]) == answer("hello")


def test_a_tokenizer_that_never_ends_is_stopped(page: Page) -> None:
    page.evaluate(LOAD, "backtracks")
    assert page.evaluate(CHAT, ["hello"])
    assert is_about(page.evaluate(CHAT, ["a" * 60 + "b"]), "The model's tokenizer")
    assert page.evaluate(CHAT, ["hello"])


@pytest.mark.parametrize("stopped", [True, False])
def test_on_the_page_it_hangs_once(page: Page, url: str, stopped: bool) -> None:
    """The meter, which counts the prompt's tokens too, does not ask again what hung."""
    page.goto(f"{url}?model=loops&backend=wasm-simd")
    expect(page.get_by_test_id("prompt")).to_be_visible()
    ask(page, "loop")
    if stopped:
        page.get_by_test_id("stop").click()
        page.get_by_role("button", name="New chat").click()
        expect(page.get_by_test_id("welcome")).to_be_visible()
    else:
        expect(page.get_by_test_id("answer-note")).to_contain_text("chat template ran for 10 s")
        page.get_by_role("button", name="New chat").click()
    ask(page, "hello")
    answered(page)
    expect(page.get_by_test_id("answer-text")).not_to_be_empty()
    assert page.evaluate("wisp.stats().recoveries") == 1


def test_a_template_that_is_none_is_named_at_the_load(page: Page) -> None:
    with pytest.raises(Exception, match=r"model\.json: chat_template is no template that this page can read"):
        page.evaluate(LOAD, "broken")


def test_a_worker_that_ends_while_nobody_asks_is_replaced(page: Page) -> None:
    page.evaluate(LOAD, "loops")
    assert page.evaluate(CHAT, ["hello"]) == answer("hello")
    page.evaluate("() => { window.moved = new Promise((resolve) => (window.onMoved = resolve)); }")
    page.workers[0].evaluate("() => self.close()")
    page.evaluate("moved")
    assert page.evaluate("events") == ["The engine's worker ended", "wasm-simd"]
    assert page.evaluate(CHAT, ["hello", "hi", "go on"]) == answer("hello", "hi", "go on")
