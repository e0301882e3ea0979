"""Without a GPU, and when one goes away: in a real Chromium, on devices that really refuse or are destroyed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserType, Page

from tests.browser import toy_artifact
from tests.browser.conftest import AS_HARDWARE, run_in_worker, serving
from tests.browser.test_engine_loop import MESSAGES, PROMPT, WITH_ENGINE
from tests.browser.toy_artifact import EOS
from tests.conftest import unavailable

TOY = toy_artifact.toy()

# Before the worker's own code.
NO_GPU = "Object.defineProperty(WorkerNavigator.prototype, 'gpu', {get: () => undefined});"
ASKED = """
globalThis.asked = 0;
const requestAdapter = GPU.prototype.requestAdapter;
GPU.prototype.requestAdapter = function (...args) { globalThis.asked++; return requestAdapter.apply(this, args); };
"""
REFUSED = "GPUAdapter.prototype.requestDevice = () => Promise.reject(new DOMException('not today', 'OperationError'));"
FULL = """
const popErrorScope = GPUDevice.prototype.popErrorScope;
GPUDevice.prototype.popErrorScope = async function () {
  await popErrorScope.call(this);
  return {message: 'no memory left'};
};
"""
# The n-th device is destroyed after so many submits; the work of the last one is still on its way then.
LOSING = """
const lasts = LASTS;
const requestDevice = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...args) {
  const device = await requestDevice.apply(this, args);
  let left = lasts.shift() ?? Infinity;
  const submit = device.queue.submit.bind(device.queue);
  device.queue.submit = (buffers) => {
    submit(buffers);
    if (left-- <= 0) device.destroy();
  };
  return device;
};
"""
# Helper threads of the CPU that can be ended from outside, as a browser short of memory does.
THREADS = """
globalThis.helpers = [];
globalThis.Worker = class extends Worker {
  constructor(...args) { super(...args); globalThis.helpers.push(this); }
};
"""

# As of some versions of Safari, and as of Chrome on OpenGL ES.
NO_INFO = "Object.defineProperty(GPUAdapter.prototype, 'info', {get: () => undefined});"
UNKNOWN_INFO = "Object.defineProperty(GPUAdapter.prototype, 'info', {get: () => ({vendor: '', architecture: ''})});"
NO_WASM_MEMORY = """
const { Memory } = WebAssembly;
WebAssembly.Memory = function (descriptor) {
  if (descriptor.initial > 1) throw new RangeError("could not allocate memory");
  return new Memory(descriptor);
};
"""

# Streams one answer and keeps what the engine tells meanwhile.
STREAM = """
  const events = [];
  const recording = {onRecovering: ({kind}) => events.push(kind), onBackendChange: ({variant}) => events.push(variant),
                     onDeviceLost: ({kind}) => events.push("lost " + kind)};
  const engine = await createEngine("/models/toy/", {...options, ...recording});
  let text = "", usage, failure = null;
  try {
    const request = {...args, stream: true, stream_options: {include_usage: true}};
    for await (const chunk of engine.chat.completions.create(request)) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
  } catch (error) {
    failure = error.kind;
  }
  const {info} = engine;
  const out = {text, usage, failure, events, info, stats: engine.stats()};
  await engine.dispose();
  return out;
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    toy_artifact.write(root / "toy", TOY, cpu=True)
    return root


@pytest.fixture(scope="module")
def url(artifacts: Path) -> Iterator[str]:
    with serving(artifacts) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """A page with empty caches on which the engine runs under the server's security policy."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url + "healthz")
    if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
        unavailable(f"Chromium {browser.version} offers no WebGPU adapter")
    yield page
    context.close()


def run(page: Page, body: str, args: Any = None, **options: Any) -> Any:
    return page.evaluate(WITH_ENGINE.replace("BODY", body), [options, args])


def stream(page: Page, request: dict[str, Any], **options: Any) -> Any:
    body = f"""async ([options, args]) => {{
      const {{ createEngine }} = await import("/static/wisp.js");
      {STREAM}
    }}"""
    return page.evaluate(body, [options, {"messages": MESSAGES, **request}])


def answer(count: int, **sampling: Any) -> str:
    """What the model says to MESSAGES."""
    tokenizer = toy_artifact.tokenizer()
    text = f"<s><|user|>{MESSAGES[0]['content']}\n<|assistant|>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return tokenizer.decode(TOY.generate(ids, count, stop=(EOS,), **sampling))


def requests(page: Page) -> list[str]:
    """The files of the artifact that are asked for, from now on."""
    names: list[str] = []

    def note(url: str) -> None:
        if "/models/toy/" in url:
            names.append(url.split("/models/toy/")[1].split("?")[0])

    page.on("request", lambda request: note(request.url))
    return names


# ---------------------------------------------------------------------------------------------------------- at the load


def test_without_webgpu_the_cpu_answers(page: Page) -> None:
    run_in_worker(page, AS_HARDWARE + NO_GPU)
    asked = requests(page)
    body = """
      const ids = await engine.generateIds(args, {maxTokens: 60, ignoreEos: true});
      const sampled = {maxTokens: 30, temperature: 1, seed: 12, repetitionPenalty: 1.5, ignoreEos: true};
      return {ids, sampled: await engine.generateIds(args, sampled), logits: [...await engine.logits(args)],
              info: engine.info, isolated: crossOriginIsolated};"""
    got = run(page, body, PROMPT, threads=2)
    assert "error" not in got, got
    assert got["ids"] == TOY.generate(PROMPT, 60)
    assert got["sampled"] == TOY.generate(PROMPT, 30, seed=12, distinct=True)
    assert got["logits"] == TOY.logits(PROMPT)
    info = got["info"]
    assert (info["variant"], info["backend"], info["threads"]) == ("wasm-simd", "wasm", 2)
    assert info["adapter"]["description"] == "CPU, 2 threads, relaxed SIMD"
    reason = "this browser does not offer WebGPU"
    assert info["skipped"] == [{"variant": name, "reason": reason} for name in ("webgpu-f16", "webgpu-f32")]
    assert got["isolated"]
    assert info["hints"] == []
    assert "wasm-simd/kernels-relaxed.wasm" in asked
    assert "wasm-simd/kernels.wasm" not in asked
    assert not [name for name in asked if name.startswith("webgpu")]


def test_the_cpu_by_hand_asks_for_no_gpu(page: Page) -> None:
    run_in_worker(page, AS_HARDWARE + ASKED)
    page.evaluate(
        """async () => {
          const { createEngine } = await import("/static/wisp.js");
          window.engine = await createEngine("/models/toy/", {backend: "wasm-simd", threads: 1});
        }"""
    )
    assert page.workers[0].evaluate("() => globalThis.asked") == 0
    info = page.evaluate("engine.info")
    assert (info["variant"], info["threads"], info["skipped"]) == ("wasm-simd", 1, [])
    assert page.evaluate("ids => engine.generateIds(ids, {maxTokens: 9, ignoreEos: true})", PROMPT) == TOY.generate(
        PROMPT, 9
    )


def test_a_browser_that_shares_no_memory_computes_with_one_thread_and_says_why(page: Page) -> None:
    """As WebKitGTK, where an isolated page can make shared memory but hand it to no worker."""
    run_in_worker(page, AS_HARDWARE + "delete globalThis.SharedArrayBuffer;")
    info = run(page, "return engine.info", backend="wasm-simd", threads=2)
    assert info["threads"] == 1
    (hint,) = info["hints"]
    assert hint.startswith("This browser shares no memory between threads, though the page is cross-origin isolated")


@pytest.mark.parametrize("threads", [0, 1.5, 65, -1])
def test_a_number_of_threads_that_is_none_is_refused(page: Page, threads: float) -> None:
    error = run(page, "", None, threads=threads)
    assert error["error"] == "RequestError"
    assert "threads" in error["message"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [(REFUSED, "The GPU refused a device"), (FULL, "The GPU has not enough memory for the model (no memory left)")],
    ids=["refused", "full"],
)
def test_a_gpu_that_cannot_be_used_gives_way_to_the_cpu(page: Page, script: str, reason: str) -> None:
    run_in_worker(page, AS_HARDWARE + script)
    asked = requests(page)
    got = run(
        page,
        "return {info: engine.info, ids: await engine.generateIds(args, {maxTokens: 20, ignoreEos: true})}",
        PROMPT,
    )
    assert got["ids"] == TOY.generate(PROMPT, 20)
    assert got["info"]["variant"] == "wasm-simd"
    assert got["info"]["skipped"][1]["variant"] == "webgpu-f32"
    assert got["info"]["skipped"][1]["reason"].startswith(reason)
    assert len(asked) == len(set(asked)), "no file is fetched twice"
    error = run(page, "", None, backend="webgpu-f32")
    assert error["kind"] in ("no-adapter", "out-of-memory")


@pytest.mark.parametrize("cache", [True, False])
def test_shaders_that_do_not_compile_give_way_to_the_cpu(browser: Browser, tmp_path: Path, cache: bool) -> None:
    broken = toy_artifact.KERNELS.replace("var h = 0u;", "var h = nonsense;")
    toy_artifact.write(tmp_path / "toy", TOY, source=broken, cpu=True)
    with serving(tmp_path) as address:
        page = browser.new_page()
        run_in_worker(page, AS_HARDWARE)
        page.goto(address + "healthz")
        asked = requests(page)
        got = run(page, "return {info: engine.info, stats: engine.stats()}", None, cache=cache)
        page.close()
    assert got["info"]["variant"] == "wasm-simd"
    reason = got["info"]["skipped"][1]["reason"]
    assert reason.startswith("The kernels do not compile")
    assert "nonsense" in reason
    assert "\n" not in reason
    small = [name for name in asked if not name.startswith(("params", "constants"))]
    assert len(small) == len(set(small)), "what every variant reads is fetched once"


def test_a_model_too_large_for_webassembly_is_refused_before_the_download(browser: Browser, tmp_path: Path) -> None:
    toy_artifact.write(tmp_path / "toy", TOY, cpu=True, scratch=2**32 - 2**20)
    with serving(tmp_path) as address:
        page = browser.new_page()
        page.goto(address + "healthz")
        asked = requests(page)
        error = run(page, "", None, backend="wasm-simd")
        page.close()
    assert (error["error"], error["kind"]) == ("DeviceError", "out-of-memory")
    for words in ("4.0 GiB", "contextLength", "WebGPU", "256 tokens"):
        assert words in error["message"]
    assert not [name for name in asked if name.startswith("params")]


def test_without_either_both_are_named(page: Page) -> None:
    run_in_worker(page, AS_HARDWARE + NO_GPU + "delete globalThis.WebAssembly;")
    error = run(page, "")
    assert error["kind"] == "no-variant"
    assert "webgpu-f16, webgpu-f32: this browser does not offer WebGPU" in error["message"]
    assert "wasm-simd: this browser has no WebAssembly" in error["message"]


@pytest.mark.parametrize("backend", ["auto", "webgpu-f32"])
def test_the_cpu_comes_before_a_software_gpu_but_not_before_one_that_was_named(
    browser: Browser, url: str, backend: str
) -> None:
    page = browser.new_page()
    page.goto(url + "healthz")
    info = run(page, "return engine.info", backend=backend)
    page.close()
    if backend == "auto":
        assert info["variant"] == "wasm-simd"
        reasons = {skipped["variant"]: skipped["reason"] for skipped in info["skipped"]}
        assert reasons.keys() == {"webgpu-f16", "webgpu-f32"}
        assert "the only GPU here is a software one" in reasons["webgpu-f32"]
        assert "shader-f16" in reasons["webgpu-f16"]
    else:
        assert (info["variant"], info["skipped"]) == ("webgpu-f32", [])
        assert info["adapter"]["isFallback"]
        assert info["adapter"]["featureLevel"] == "core"


def test_a_software_gpu_runs_what_the_cpu_cannot(browser: Browser, tmp_path: Path) -> None:
    """A last resort, but one: of a model that is too large for WebAssembly."""
    toy_artifact.write(tmp_path / "toy", TOY, cpu=True)
    with serving(tmp_path) as address:
        page = browser.new_page()
        run_in_worker(page, NO_WASM_MEMORY)
        page.goto(address + "healthz")
        info = run(page, "return engine.info")
        page.close()
    assert info["variant"] == "webgpu-f32"
    assert [skipped["variant"] for skipped in info["skipped"]] == ["webgpu-f16", "wasm-simd"]
    assert "not enough memory" in info["skipped"][1]["reason"]


@pytest.mark.parametrize("script", [NO_INFO, UNKNOWN_INFO], ids=["no info", "empty info"])
def test_an_adapter_that_says_nothing_of_itself_is_a_gpu_like_any_other(
    browser: Browser, url: str, script: str
) -> None:
    page = browser.new_page()
    run_in_worker(page, script)
    page.goto(url + "healthz")
    got = run(page, "return {info: engine.info, ids: await engine.generateIds(args, {maxTokens: 9})}", PROMPT)
    page.close()
    assert got["info"]["variant"] == "webgpu-f32"
    assert got["info"]["adapter"]["vendor"] == ""
    assert got["ids"] == TOY.generate(PROMPT, 9)


# ------------------------------------------------------------------------------------------------------ at the run time


def test_a_lost_gpu_comes_back_and_the_answer_goes_on(page: Page) -> None:
    run_in_worker(page, AS_HARDWARE + LOSING.replace("LASTS", "[12]"))
    got = stream(page, {"max_tokens": 100, "temperature": 1, "seed": 5, "repetition_penalty": 1.5})
    assert got["failure"] is None
    assert got["text"] == answer(100, seed=5, distinct=True)
    assert got["events"] == ["device-lost", "webgpu-f32"]
    assert got["info"]["variant"] == "webgpu-f32"
    assert [skipped["variant"] for skipped in got["info"]["skipped"]] == ["webgpu-f16"]
    assert got["stats"]["recoveries"] == 1
    assert got["usage"]["completion_tokens"] == got["stats"]["tokens"] == 100
    assert got["stats"]["bytesFromCache"] > 0


def test_a_gpu_lost_twice_gives_way_to_the_cpu_in_the_middle_of_the_answer(page: Page) -> None:
    run_in_worker(page, AS_HARDWARE + LOSING.replace("LASTS", "[12, 10]"))
    got = stream(page, {"max_tokens": 100, "temperature": 1, "seed": 5})
    assert got["failure"] is None
    assert got["text"] == answer(100, seed=5)
    assert got["events"] == ["device-lost", "webgpu-f32", "device-lost", "wasm-simd"]
    assert (got["info"]["variant"], got["info"]["backend"]) == ("wasm-simd", "wasm")
    assert got["info"]["skipped"][1]["variant"] == "webgpu-f32"
    assert got["info"]["skipped"][1]["reason"].startswith("lost twice within a minute: The GPU device was lost")


def test_a_variant_by_hand_is_never_exchanged(page: Page) -> None:
    run_in_worker(page, AS_HARDWARE + LOSING.replace("LASTS", "[12, 10]"))
    got = stream(page, {"max_tokens": 100, "temperature": 1, "seed": 5}, backend="webgpu-f32")
    assert got["failure"] == "device-lost"
    assert got["events"] == ["device-lost", "webgpu-f32", "device-lost", "lost device-lost"]
    assert answer(100, seed=5).startswith(got["text"])


def test_an_idle_engine_is_ready_again_when_it_is_asked(page: Page) -> None:
    run_in_worker(
        page, AS_HARDWARE + LOSING.replace("LASTS", "[]").replace("let left", "globalThis.device = device;\n  let left")
    )
    page.evaluate(
        """async () => {
          const { createEngine } = await import("/static/wisp.js");
          window.moved = new Promise((resolve) => (window.tell = resolve));
          window.engine = await createEngine("/models/toy/", {onBackendChange: ({variant}) => window.tell(variant)});
        }"""
    )
    ask = "ids => engine.generateIds(ids, {maxTokens: 40, ignoreEos: true})"
    first = page.evaluate(ask, PROMPT)
    page.workers[0].evaluate("() => globalThis.device.destroy()")
    assert page.evaluate("moved") == "webgpu-f32"
    assert page.evaluate(ask, PROMPT) == first == TOY.generate(PROMPT, 40)


@pytest.mark.parametrize("loudly", [True, False])
def test_helper_threads_that_end_are_started_again_or_done_without(page: Page, loudly: bool) -> None:
    run_in_worker(page, AS_HARDWARE + THREADS)
    page.evaluate(
        """async () => {
          const { createEngine } = await import("/static/wisp.js");
          const onBackendChange = (info) => (window.moved = info);
          window.engine = await createEngine("/models/toy/", {backend: "wasm-simd", threads: 2, onBackendChange});
        }"""
    )
    ask = "ids => engine.generateIds(ids, {maxTokens: 200, ignoreEos: true})"
    expected = TOY.generate(PROMPT, 200)
    assert page.evaluate(ask, PROMPT) == expected
    end = "(helper) => { helper.terminate(); if (LOUDLY) helper.onerror({message: 'full'}); }"
    page.workers[0].evaluate(f"() => globalThis.helpers.forEach({end})".replace("LOUDLY", str(loudly).lower()))
    assert page.evaluate(ask, PROMPT[:-1]) == TOY.generate(PROMPT[:-1], 200)
    if loudly:
        assert page.evaluate("window.moved.threads") == 2
        assert page.evaluate("engine.stats().recoveries") == 1


def test_a_gpu_process_that_crashes_is_survived(
    browser_type: BrowserType, browser_type_launch_args: dict[str, Any], url: str
) -> None:
    browser = browser_type.launch(**browser_type_launch_args)  # its GPU process dies; other tests keep theirs
    page = browser.new_page()
    run_in_worker(page, AS_HARDWARE)
    page.goto(url + "healthz")
    page.evaluate(
        """async (ids) => {
          const { createEngine } = await import("/static/wisp.js");
          window.answers = [];
          window.recovered = new Promise((resolve) => (window.tell = resolve));
          window.engine = await createEngine("/models/toy/", {onBackendChange: ({backend}) => window.tell(backend)});
          window.running = (async () => {
            while (!window.enough) answers.push(await engine.generateIds(ids, {maxTokens: 100, ignoreEos: true}));
          })();
        }""",
        PROMPT,
    )
    more = "async (n) => { while (answers.length < n) await new Promise((resolve) => setTimeout(resolve, 50)); }"
    page.evaluate(more, 2)
    browser.new_browser_cdp_session().send("Browser.crashGpuProcess")
    backend = page.evaluate("recovered")
    page.evaluate(more, page.evaluate("answers.length") + 2)
    page.evaluate("async () => { window.enough = true; await running; }")
    answers = page.evaluate("answers")
    browser.close()
    assert backend in ("webgpu", "wasm")
    assert all(answer == TOY.generate(PROMPT, 100) for answer in answers)


def test_the_demo_model_finishes_its_answer_on_the_cpu(quick_browser: Browser, server_url: str) -> None:
    script = """async (options) => {
      const { createEngine } = await import("/static/wisp.js");
      const engine = await createEngine("/models/demo/", options);
      const messages = [{role: "user", content: "What can you do?"}];
      const {choices: [{message}]} = await engine.chat.completions.create({messages, temperature: 0, max_tokens: 40});
      const out = [message.content, engine.info.variant, engine.stats().recoveries];
      await engine.dispose();
      return out;
    }"""
    page = quick_browser.new_context().new_page()
    page.goto(server_url + "healthz")
    text, variant, recoveries = page.evaluate(script, {"backend": "webgpu-f32"})
    assert (variant, recoveries) == ("webgpu-f32", 0)
    run_in_worker(page, AS_HARDWARE + LOSING.replace("LASTS", "[12, 20]"))
    assert page.evaluate(script, {"autotune": False}) == [text, "wasm-simd", 2]
    page.context.close()
