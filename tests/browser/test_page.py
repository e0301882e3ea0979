"""The page as a person uses it, in a real Chromium.

The toy model answers nonsense, quickly and always the same; where an answer's text or timing matters, a scripted one
takes the engine's place. test_page_demo.py talks to the demo model.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, expect

from tests.browser import toy_artifact
from tests.browser.conftest import run_in_worker, serving

# Replaces the loaded engine's completions: answers `text` in pieces, `pause` milliseconds apart, and counts overlaps.
SCRIPTED = """([text, pause]) => {
  const engine = window.wisp;
  let stopped = false;
  const script = window.script = {requests: [], running: 0, most: 0};
  engine.interrupt = () => { stopped = true; };
  engine.chat.completions.create = async function* (request) {
    script.requests.push(JSON.parse(JSON.stringify(request)));
    script.most = Math.max(script.most, ++script.running);
    stopped = false;
    let pieces = 0;
    for (const piece of text.match(/[^]{1,4}/g) ?? []) {
      if (stopped) break;
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
      pieces++;
      yield {choices: [{index: 0, delta: {content: piece}, finish_reason: null}], usage: null};
    }
    script.running--;
    yield {choices: [{index: 0, delta: {}, finish_reason: stopped ? "abort" : "stop"}], usage: null};
    const extra = {prefill_tokens_per_second: 1234.5, decode_tokens_per_second: 34.21, time_to_first_token_s: 0.213,
                   reused_tokens: 5};
    yield {choices: [], usage: {prompt_tokens: 20, completion_tokens: pieces, total_tokens: 20 + pieces, extra}};
  };
}"""

# Before the worker's own code: a device that can be lost on demand.
LOSABLE = """
const requestDevice = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...args) {
  const device = await requestDevice.apply(this, args);
  const lost = new Promise((resolve) => {
    globalThis.lose = () => resolve({reason: "unknown", message: "the driver was reset"});
  });
  Object.defineProperty(device, "lost", {value: lost});
  return device;
};
"""

OVERFLOW = """() => {
  const error = Object.assign(new Error("300 tokens, expected at most 256"), {kind: "context-overflow"});
  window.wisp.chat.completions.create = async function* () { throw error; };
}"""


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    toy_artifact.write(root / "toy", toy_artifact.toy(), name="Toy", suggestions=["Say café.", "<b>bold</b>"])
    return root


@pytest.fixture(scope="session")
def server_url(artifacts: Path) -> Iterator[str]:
    """In this module the toy model's, so that no test waits for the compiler."""
    with serving(artifacts) as url:
        yield url


@pytest.fixture
def page(page: Page, server_url: str) -> Iterator[Page]:
    """Nothing a test does may break the policy, ask another origin or throw where nobody listens."""
    complaints: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith((server_url, "data:")):
            complaints.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", on_request)
    yield page
    assert complaints == []


def load(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.get_by_test_id("prompt")).to_be_visible()


def scripted(page: Page, text: str, pause: int = 0) -> None:
    page.evaluate(SCRIPTED, [text, pause])


def ask(page: Page, text: str) -> None:
    page.get_by_test_id("prompt").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page, count: int = 1) -> None:
    expect(page.get_by_test_id("answer-stats")).to_have_count(count)
    expect(page.get_by_test_id("stop")).to_be_hidden()


# ------------------------------------------------------------------------------------------------------------ loading


def test_a_small_model_loads_by_itself_and_answers(page: Page, server_url: str) -> None:
    page.goto(server_url)
    assert page.evaluate("window.wisp") is None
    expect(page.get_by_test_id("welcome")).to_be_visible()
    assert page.evaluate("window.wisp.info.variant") == "webgpu-f32"
    assert page.evaluate("crossOriginIsolated"), "threads need it"
    expect(page).to_have_url(re.compile(r"\?model=toy$"))
    expect(page.get_by_test_id("prompt")).to_be_focused()
    page.get_by_test_id("suggestion").first.click()
    expect(page.get_by_test_id("message-user")).to_have_text("Say café.")
    answered(page)
    expect(page.get_by_test_id("prompt-tokens")).to_have_text(re.compile(r"^\d+ tokens$"))
    expect(page.get_by_test_id("answer-tokens")).to_have_text(re.compile(r"^\d+ tokens?$"))
    expect(page.get_by_test_id("prefill-rate")).to_have_text(re.compile(r"^[\d.,]+ tok/s$"))
    expect(page.get_by_test_id("decode-rate")).to_have_text(re.compile(r"^[\d.,]+ tok/s$"))
    expect(page.get_by_test_id("first-token")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    used = int(page.get_by_test_id("context-meter").get_attribute("aria-valuenow") or 0)
    assert used == page.evaluate("window.wisp.stats().promptTokens") + tokens(page.get_by_test_id("answer-tokens"))


def test_the_meter_follows_the_first_answer(page: Page, server_url: str) -> None:
    load(page, server_url)
    page.evaluate(
        """() => {
            const meter = document.querySelector('[data-testid="context-meter"]');
            window.values = [];
            new MutationObserver((changes) => window.values.push(...changes.map(({ oldValue }) => Number(oldValue))))
                .observe(meter, { attributes: true, attributeFilter: ["aria-valuenow"], attributeOldValue: true });
        }"""
    )
    ask(page, "Say café.")
    answered(page)
    before = page.evaluate("window.values")  # what it showed before each change
    prompt = tokens(page.get_by_test_id("prompt-tokens"))
    grown = sorted({value for value in before if value > prompt})
    assert before[0] == 0
    assert before[1] >= prompt
    assert len(grown) > 1, f"it grows with the answer: {before}"
    assert grown[-1] <= prompt + tokens(page.get_by_test_id("answer-tokens")) + 1  # a stop token is sampled too


def tokens(locator: Any) -> int:
    return int(locator.inner_text().split()[0].replace(",", ""))


def test_device_panel_says_what_was_chosen_and_why(page: Page, server_url: str) -> None:
    load(page, server_url)
    page.get_by_test_id("open-device").click()
    expect(page.get_by_test_id("variant")).to_contain_text("webgpu-f32")
    expect(page.get_by_test_id("skipped")).to_be_visible()
    expect(page.get_by_test_id("skipped")).to_contain_text("webgpu-f16")
    expect(page.get_by_test_id("skipped")).to_contain_text("shader-f16")
    facts = page.get_by_test_id("device-facts")
    for fact in ("swiftshader", "shader-f16: no", "Largest binding", "Workgroup storage"):
        expect(facts).to_contain_text(fact)
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("device")).to_be_hidden()
    expect(page.get_by_test_id("open-device")).to_be_focused()


def test_several_models_wait_to_be_chosen(page: Page, artifacts: Path, server_url: str) -> None:
    toy_artifact.write(artifacts / "other", toy_artifact.toy(), name="Other", parameters=1_235_814_400)
    try:
        page.goto(server_url)
        expect(page.get_by_test_id("load")).to_have_text("Load (1.3 kB)")
        expect(page.get_by_test_id("model-other")).to_contain_text("1.2 B parameters, q0f32, 256 tokens of context")
        expect(page.get_by_test_id("model-other").get_by_role("radio")).to_be_checked()
        page.get_by_test_id("model-toy").click()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("welcome")).to_be_visible()
        assert page.evaluate("window.wisp.info.model") == "other"
        page.get_by_test_id("open-device").click()
        page.get_by_test_id("change-model").click()
        expect(page.get_by_test_id("picker")).to_be_visible()
        assert page.evaluate("window.wisp") is None
    finally:
        (artifacts / "other" / "model.json").unlink()


def test_license_and_homepage_of_a_model_are_said(page: Page, artifacts: Path, server_url: str) -> None:
    homepage = "https://example.org/org/model"
    directory = artifacts / "licensed"
    toy_artifact.write(directory, toy_artifact.toy(), name="Licensed", license="Apache-2.0", homepage=homepage)
    try:
        page.goto(server_url + "?model=licensed")
        expect(page.get_by_test_id("prompt")).to_be_visible()
        page.get_by_test_id("open-device").click()
        expect(page.get_by_test_id("device-model")).to_contain_text("Apache-2.0")
        expect(page.get_by_test_id("homepage")).to_have_text("example.org/org/model")
        expect(page.get_by_test_id("homepage")).to_have_attribute("href", homepage)
        page.goto(server_url)
        option = page.get_by_test_id("model-licensed")
        expect(option.get_by_test_id("license")).to_have_text(
            "License of the weights: Apache-2.0, from example.org/org/model"
        )
        expect(page.get_by_test_id("model-toy").get_by_test_id("license")).to_have_count(0)
    finally:
        shutil.rmtree(directory)


def test_progress_and_cancel(page: Page, server_url: str) -> None:
    held: list[Route] = []
    page.route("**/params_shard_1.bin*", lambda route: held.append(route))
    page.goto(server_url)
    expect(page.get_by_test_id("progress-bar")).to_be_visible()
    expect(page.get_by_test_id("progress-detail")).to_contain_text(re.compile(r"[\d.]+ k?B of [\d.]+ kB"))
    page.get_by_test_id("cancel").click()
    expect(page.get_by_test_id("load")).to_be_focused()
    expect(page.get_by_test_id("progress")).to_be_hidden()
    expect(page.get_by_test_id("load-error")).to_be_hidden()
    page.unroute("**/params_shard_1.bin*")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("welcome")).to_be_visible()
    assert len(held) == 1


@pytest.mark.parametrize("fault", ["flipped", "short", "missing"])
def test_a_bad_shard_is_named_and_can_be_retried(page: Page, server_url: str, fault: str) -> None:
    def spoil(route: Route) -> None:
        response = route.fetch()
        body = bytearray(response.body())
        body[7] ^= 1
        match fault:
            case "flipped":
                route.fulfill(status=200, headers={"content-type": "application/octet-stream"}, body=bytes(body))
            case "short":
                route.fulfill(status=200, headers={"content-type": "application/octet-stream"}, body=bytes(body[:100]))
            case "missing":
                route.fulfill(status=404, body="Not Found")

    page.route("**/params_shard_1.bin*", spoil)
    page.goto(server_url)
    expect(page.get_by_test_id("load-error")).to_contain_text("params_shard_1.bin")
    expect(page.get_by_test_id("retry")).to_be_focused()
    page.unroute("**/params_shard_1.bin*")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(page.get_by_test_id("load-error")).to_be_hidden()


def test_a_reload_takes_the_weights_from_the_cache(page: Page, server_url: str) -> None:
    load(page, server_url)
    page.route("**/*.bin*", lambda route: route.abort())
    page.reload()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    assert page.evaluate("window.wisp.stats().cacheHits") >= 3


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "Object.defineProperty(Navigator.prototype, 'gpu', {get: () => undefined})",
            "This browser does not offer WebGPU",
        ),
        ("GPU.prototype.requestAdapter = () => Promise.resolve(null)", "found no GPU it may use"),
        (
            "Object.defineProperty(window, 'isSecureContext', {get: () => false})",
            "only to pages from https:// addresses and from localhost",
        ),
    ],
)
def test_missing_webgpu_is_explained(page: Page, server_url: str, script: str, message: str) -> None:
    page.add_init_script(script)
    page.goto(server_url)
    missing = page.get_by_test_id("device-missing")
    expect(missing).to_contain_text(message)
    expect(missing.get_by_role("listitem").first).to_be_visible()
    expect(page.get_by_test_id("no-cpu")).to_be_visible()
    expect(page.get_by_test_id("model-toy")).to_contain_text("Needs a GPU")
    expect(page.get_by_test_id("load")).to_be_disabled()
    page.get_by_test_id("open-device").click()
    expect(page.get_by_test_id("device-facts")).to_contain_text(message)


def test_an_older_browser_is_told_so_and_downloads_nothing(page: Page, server_url: str) -> None:
    page.add_init_script("delete Array.prototype.toSorted;")
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url.removeprefix(server_url).split("?")[0]))
    page.goto(server_url)
    sentence = re.compile(r"too old for Wisp, which runs in Chrome or Edge \d+, Firefox \d+, Safari [\d.]+ or later")
    expect(page.get_by_test_id("old-browser")).to_contain_text(sentence)
    expect(page.get_by_test_id("picker")).to_be_hidden()
    script = """async () => {
      const { createEngine } = await import("/static/wisp.js");
      return createEngine("/models/toy/").catch(({ name, kind, message }) => ({ name, kind, message }));
    }"""
    error = page.evaluate(script)
    assert (error["name"], error["kind"]) == ("DeviceError", "old-browser")
    assert sentence.search(error["message"])
    assert not [path for path in requested if path.startswith("models") or "worker" in path]


def test_no_model_is_explained(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        page = browser.new_page()
        page.goto(url)
        expect(page.get_by_test_id("no-models")).to_contain_text("wisp compile")
        page.close()


# --------------------------------------------------------------------------------------------------------------- chat


def test_keyboard_sends_and_breaks_lines(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "Yes.")
    expect(page.get_by_test_id("send")).to_be_disabled()
    prompt = page.get_by_test_id("prompt")
    prompt.press_sequentially("one")
    height = prompt.bounding_box()["height"]  # type: ignore[index]
    prompt.press("Shift+Enter")
    prompt.press_sequentially("two")
    assert prompt.bounding_box()["height"] > height  # type: ignore[index]
    prompt.press("Enter")
    answered(page)
    assert page.evaluate("window.script.requests[0].messages") == [{"role": "user", "content": "one\ntwo"}]
    expect(prompt).to_have_value("")
    expect(prompt).to_be_focused()


def test_a_follow_up_carries_the_conversation(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "Yes.")
    ask(page, "first")
    answered(page)
    ask(page, "second")
    answered(page, 2)
    assert [message["content"] for message in page.evaluate("window.script.requests[1].messages")] == [
        "first",
        "Yes.",
        "second",
    ]


@pytest.mark.parametrize("key", [True, False], ids=["escape", "button"])
def test_stop_keeps_what_was_written(page: Page, server_url: str, key: bool) -> None:
    load(page, server_url)
    scripted(page, "word " * 2000, pause=20)
    ask(page, "long")
    expect(page.get_by_test_id("answer-text")).to_contain_text("word word")
    expect(page.get_by_test_id("log")).to_have_attribute("aria-busy", "true")
    page.keyboard.press("Escape") if key else page.get_by_test_id("stop").click()
    expect(page.get_by_test_id("answer-note")).to_have_text("Stopped.")
    answered(page)
    expect(page.get_by_test_id("log")).to_have_attribute("aria-busy", "false")
    text = page.get_by_test_id("answer-text").inner_text()
    assert 5 < len(text) < 5000
    scripted(page, "Yes.")
    ask(page, "and now?")
    answered(page, 2)
    assert page.evaluate("window.script.requests[0].messages[1].content").strip() == text.strip()


def test_a_stopped_answer_of_the_engine_leaves_it_usable(page: Page, server_url: str) -> None:
    load(page, server_url)
    ask(page, "the quick brown fox")
    page.keyboard.press("Escape")
    answered(page)
    ask(page, "again")
    answered(page, 2)


def test_two_messages_at_once_are_never_interleaved(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "a slow answer of some words", pause=40)
    ask(page, "first")
    ask(page, "second")
    expect(page.get_by_test_id("notice")).to_contain_text("One answer at a time")
    expect(page.get_by_test_id("prompt")).to_have_value("second")
    answered(page)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("notice")).to_be_hidden()
    answered(page, 2)
    assert page.evaluate("window.script.most") == 1
    assert [len(request["messages"]) for request in page.evaluate("window.script.requests")] == [1, 3]


def test_regenerate_replaces_the_last_answer_only(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "First.")
    ask(page, "one")
    answered(page)
    ask(page, "two")
    answered(page, 2)
    expect(page.get_by_test_id("regenerate").filter(visible=True)).to_have_count(1)
    scripted(page, "Second.")
    page.get_by_test_id("regenerate").last.click()
    expect(page.get_by_test_id("answer-text").last).to_have_text("Second.")
    expect(page.get_by_test_id("answer-text").first).to_have_text("First.")
    expect(page.get_by_test_id("message-answer")).to_have_count(2)
    assert [message["content"] for message in page.evaluate("window.script.requests[0].messages")] == [
        "one",
        "First.",
        "two",
    ]


def test_new_chat_ends_the_running_answer(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "word " * 2000, pause=20)
    ask(page, "long")
    expect(page.get_by_test_id("answer-text")).to_contain_text("word")
    page.get_by_test_id("new-chat").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(page.get_by_test_id("message-answer")).to_have_count(0)
    expect(page.get_by_test_id("context-meter")).to_have_attribute("aria-valuenow", "0")
    scripted(page, "Yes.")
    ask(page, "fresh")
    answered(page)
    assert len(page.evaluate("window.script.requests[0].messages")) == 1


def test_settings_reach_the_request_and_survive_a_reload(page: Page, server_url: str) -> None:
    load(page, server_url)
    page.get_by_test_id("open-settings").click()
    expect(page.get_by_test_id("setting-temperature")).to_have_value("0")
    page.get_by_test_id("system-prompt").fill("Be brief.")
    page.get_by_test_id("setting-temperature").fill("0.5")
    page.get_by_test_id("setting-seed").fill("7")
    page.get_by_test_id("setting-max_tokens").fill("12")
    page.get_by_test_id("setting-max_tokens").fill("-3")
    page.get_by_test_id("close-settings").click()
    page.reload()
    expect(page.get_by_test_id("prompt")).to_be_visible()
    scripted(page, "Yes.")
    ask(page, "hello")
    answered(page)
    request = page.evaluate("window.script.requests[0]")
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (request["temperature"], request["seed"]) == (0.5, 7)
    assert "max_tokens" not in request
    assert "top_p" not in request, "what nobody set is the model's business"
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("reset-settings").click()
    expect(page.get_by_test_id("setting-temperature")).to_have_value("0")
    expect(page.get_by_test_id("setting-seed")).to_have_value("")


def test_overflow_says_what_to_do(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "Yes.")
    ask(page, "first")
    answered(page)
    page.evaluate(OVERFLOW)
    ask(page, "one too many")
    notice = page.get_by_test_id("notice")
    expect(notice).to_contain_text("no longer fits the model’s context of 256 tokens")
    expect(page.get_by_test_id("prompt")).to_have_value("one too many")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    notice.get_by_role("button", name="Forget the oldest messages").click()
    expect(page.get_by_text("The model no longer sees the messages above")).to_be_visible()
    scripted(page, "Yes.")
    page.get_by_test_id("prompt").press("Enter")
    answered(page, 2)
    assert [message["content"] for message in page.evaluate("window.script.requests[0].messages")] == ["one too many"]


def test_a_message_longer_than_the_context_is_refused_by_the_engine_too(page: Page, server_url: str) -> None:
    load(page, server_url)
    ask(page, "café " * 300)
    expect(page.get_by_test_id("notice")).to_contain_text("This message is longer than the model’s context")
    expect(page.get_by_test_id("welcome")).to_be_visible()


def test_an_error_of_the_engine_is_shown_and_can_be_tried_again(page: Page, server_url: str) -> None:
    load(page, server_url)
    page.evaluate("window.wisp.chat.completions.create = async function* () { throw new Error('the GPU hiccuped'); }")
    ask(page, "hello")
    expect(page.get_by_test_id("answer-note")).to_have_text("the GPU hiccuped")
    scripted(page, "Better.")
    page.get_by_test_id("regenerate").click()
    expect(page.get_by_test_id("answer-text")).to_have_text("Better.")


def lose(page: Page) -> None:
    page.workers[0].evaluate("() => globalThis.lose()")


def test_a_lost_gpu_is_taken_again_and_the_conversation_goes_on(page: Page, server_url: str) -> None:
    run_in_worker(page, LOSABLE)
    load(page, server_url)
    ask(page, "first")
    answered(page)
    page.evaluate("new MutationObserver(() => (window.said += notice.textContent)).observe(notice, {childList: true})")
    lose(page)
    page.evaluate("async () => { while (!wisp.stats().recoveries) await wisp.tokenize(''); }")
    assert "the driver was reset" in page.evaluate("window.said")
    expect(page.get_by_test_id("notice")).to_be_hidden()
    ask(page, "second")
    answered(page, 2)


def test_a_gpu_that_is_lost_for_good_is_said_and_the_model_can_be_loaded_again(page: Page, server_url: str) -> None:
    run_in_worker(page, LOSABLE)
    load(page, server_url)
    ask(page, "first")
    answered(page)
    lose(page)
    page.evaluate("async () => { while (!wisp.stats().recoveries) await wisp.tokenize(''); }")
    lose(page)
    notice = page.get_by_test_id("notice")
    expect(notice).to_contain_text("the driver was reset")
    notice.get_by_role("button", name="Load the model again").click()
    page.get_by_test_id("prompt").fill("second")
    expect(page.get_by_test_id("send")).to_be_enabled()
    expect(page.get_by_test_id("message-answer")).to_have_count(1)
    scripted(page, "Yes.")
    ask(page, "second")
    answered(page, 2)
    assert len(page.evaluate("window.script.requests[0].messages")) == 3


def test_the_view_follows_the_answer_but_not_against_the_reader(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "line\n\n" * 150, pause=10)
    ask(page, "long")
    from_end = (
        "document.getElementById('scroller').scrollHeight - innerHeight - document.getElementById('scroller').scrollTop"
    )
    expect(page.get_by_test_id("answer-text").locator("p").nth(40)).to_be_visible()
    assert page.evaluate(from_end) < 60
    page.mouse.move(600, 300)
    page.mouse.wheel(0, -400)
    expect(page.get_by_test_id("jump")).to_be_visible()
    top = page.evaluate("document.getElementById('scroller').scrollTop")
    answered(page)
    assert page.evaluate("document.getElementById('scroller').scrollTop") == top
    page.get_by_test_id("jump").click()
    expect(page.get_by_test_id("jump")).to_be_hidden()
    expect(page.get_by_test_id("regenerate")).to_be_in_viewport()


# ----------------------------------------------------------------------------------------------------------- markdown


HOSTILE = """Hello <script>window.pwned = 1</script>

<img src=x onerror="window.pwned = 2"> <svg onload="window.pwned = 3"></svg> <b onclick="window.pwned = 4">b</b>

[a](javascript:window.pwned=5) [b](JaVa&#x73;cript:window.pwned=6) [c](data:text/html,<script>1</script>)
[d](vbscript:x) [e](https://example.com/path "title") [f](/models) <https://example.org/auto> [g](&#1;javascript:x)

![pixel](https://example.com/pixel.png)

<iframe src="https://example.com"></iframe><form action="https://example.com"><input name=q></form>
<style>body { display: none }</style><math><mtext><table><mglyph><style><img src=x onerror="window.pwned = 7">
"""


def test_what_a_model_writes_cannot_act(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, HOSTILE)
    ask(page, "attack")
    answered(page)
    text = page.get_by_test_id("answer-text")
    expect(text).to_contain_text("<script>window.pwned = 1</script>")
    expect(text).to_contain_text("pixel")
    elements = "script, img, svg, iframe, form, input, style, math, object, [onerror], [onload], [onclick], [style]"
    expect(text.locator(elements)).to_have_count(0)
    live = text.locator("a[href]")
    assert [link.get_attribute("href") for link in live.all()] == [
        "https://example.com/path",
        "https://example.org/auto",
    ]
    for link in live.all():
        assert link.get_attribute("target") == "_blank"
        assert "noopener" in (link.get_attribute("rel") or "")
    for link in text.locator("a:not([href])").all():
        link.click()
    assert page.evaluate("window.pwned") is None


def test_what_a_person_writes_is_text(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "Yes.")
    page.get_by_test_id("suggestion").nth(1).click()
    expect(page.get_by_test_id("message-user")).to_have_text("<b>bold</b>")
    expect(page.get_by_test_id("message-user").locator("b")).to_have_count(0)


MARKDOWN = """# Title

Some *emphasis*, **strong** and `code`.

- one
- two

1. first
2. second

```python
print("<b>")
```

| a | b |
|---|---|
| 1 | 2 |

> quoted

[later]

[later]: https://example.com/later
"""


@pytest.mark.parametrize("pause", [0, 3], ids=["whole", "streamed"])
def test_markdown_is_shown_alike_whole_and_streamed(page: Page, server_url: str, pause: int) -> None:
    load(page, server_url)
    scripted(page, MARKDOWN, pause=pause)
    ask(page, "format")
    answered(page)
    text = page.get_by_test_id("answer-text")
    for selector, content in {
        "h1": "Title",
        "em": "emphasis",
        "strong": "strong",
        "p code": "code",
        "ul li >> nth=1": "two",
        "ol li >> nth=1": "second",
        "pre code": 'print("<b>")',
        "th >> nth=1": "b",
        "td >> nth=1": "2",
        "blockquote": "quoted",
        "a": "later",
    }.items():
        expect(text.locator(selector)).to_have_text(content)


def test_copy_gives_the_source(page: Page, server_url: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    load(page, server_url)
    scripted(page, "**bold** answer")
    ask(page, "hello")
    answered(page)
    page.get_by_test_id("copy").click()
    expect(page.get_by_test_id("copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "**bold** answer"


# ------------------------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(page: Page, server_url: str, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    load(page, server_url)
    scripted(page, MARKDOWN + "`" + "unbroken" * 30 + "` " + "unbroken" * 30 + "\n\n```\n" + "wide " * 60 + "\n```")
    ask(page, "wide " + "unbroken" * 30)
    answered(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") == 360
    assert page.evaluate("document.getElementById('scroller').scrollWidth <= 360")
    for button in ("open-settings", "open-device", "new-chat", "send"):
        box = page.get_by_test_id(button).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert min(box["width"], box["height"]) >= 36, "large enough for a thumb"
    page.get_by_test_id("open-settings").click()
    assert page.evaluate("document.getElementById('settings').scrollWidth <= 360")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(16, 20, 21)" if scheme == "dark" else "rgb(255, 255, 255)")


def test_every_control_has_a_name(page: Page, server_url: str) -> None:
    load(page, server_url)
    scripted(page, "Yes.")
    ask(page, "hello")
    answered(page)
    for opener in (None, "open-settings", "open-device"):
        if opener is not None:
            page.get_by_test_id(opener).click()
        for control in page.locator("button, input, textarea, [role=meter], [role=log]").filter(visible=True).all():
            described = page.evaluate(
                "e => e.labels?.length || e.getAttribute('aria-label') || e.innerText.trim()", control.element_handle()
            )
            assert described, control.evaluate("e => e.outerHTML")
        if opener is not None:
            page.keyboard.press("Escape")
