"""What a person feels: the page stays smooth while it answers, Stop works at once, a load wastes no time.

These tests run on machines that do other work too, so they do not look at the clock: what the page's thread does is
counted, what happens after a Stop is put in order, overlap is proved by making one side wait for the other.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import toy_artifact
from tests.browser.conftest import run_in_worker, serving

NODES_A_TASK = 40  # a question, an answer with its buttons and figures
FIXED_TASKS = 20  # of a turn's begin and end

# Counts what the page's own thread asks of a GPU or of WebAssembly: the engine does that in its worker.
COUNT_ENGINE_CALLS = """
window.engineCalls = 0;
const count = (object, name) => {
  const original = object[name];
  object[name] = function (...args) { window.engineCalls++; return original.apply(this, args); };
};
count(GPUAdapter.prototype, "requestDevice");
count(GPUQueue.prototype, "submit");
count(WebAssembly, "instantiate");
count(WebAssembly, "Instance");
"""

# The engine's worker, run on the page's thread: what these tests must notice.
WITHOUT_WORKER = """
window.Worker = class {
  constructor(url) {
    window.postMessage = (data) => queueMicrotask(() => this.onmessage?.({ data }));
    this.started = import(url);
  }
  postMessage(data) { void this.started.then(() => window.onmessage({ data })); }
  terminate() {}
};
"""

# Counts what an answer costs the page's thread: tasks that change the document, and the most nodes that one changes.
COUNT_CHANGES = """
window.changes = {tasks: 0, nodes: 0, most: 0};
new MutationObserver((records) => {
  const nodes = records.reduce((sum, record) => sum + record.addedNodes.length + record.removedNodes.length, 0);
  window.changes.tasks += 1;
  window.changes.nodes += nodes;
  window.changes.most = Math.max(window.changes.most, nodes);
}).observe(document.body, {childList: true, subtree: true});
"""

# What the count must notice: with every chunk the page renders the conversation a hundred times.
WASTEFUL = """() => {
  const create = window.wisp.chat.completions.create;
  window.wisp.chat.completions.create = async function* (request) {
    for await (const chunk of await create(request)) {
      for (let i = 0; i < 100; i++) document.body.append(document.createElement("i"));
      for (const drawn of document.querySelectorAll("body > i")) drawn.remove();
      yield chunk;
    }
  };
}"""

# In the worker, before its own code: how much is submitted before the page says stop, and how much after that.
COUNT_SUBMITS = """
globalThis.submits = {before: 0, after: 0};
let stopped = false;
addEventListener("message", ({ data }) => { stopped = data.type === "abort" || data.type === "interrupt"; });
const submit = GPUQueue.prototype.submit;
GPUQueue.prototype.submit = function (...args) {
  globalThis.submits[stopped ? "after" : "before"]++;
  return submit.apply(this, args);
};
"""

# In the worker: answers of error scopes come late, so that a Stop finds rows being set aside, which waits for one.
LATE_SCOPES = """
const pop = GPUDevice.prototype.popErrorScope;
GPUDevice.prototype.popErrorScope = async function () {
  const error = await pop.call(this);
  await new Promise((resolve) => setTimeout(resolve, 50));
  return error;
};
"""

# The toy's decode kernel, some milliseconds longer.
SLOW_KERNELS = toy_artifact.KERNELS.replace(
    "  state[1] = next;",
    """  var burnt = position;
  for (var i = 0u; i < 150000u; i++) { burnt = burnt * 1664525u + (burnt >> 16u); }
  if (burnt == 1u) { next = 0u; }
  state[1] = next;""",
)

# In the worker, before its own code: says when the pipelines are asked for and there; holds them back on demand.
OBSERVED_PIPELINES = """
const channel = new BroadcastChannel("pipelines");
const release = HELD ? new Promise((go) => { channel.onmessage = ({ data }) => { if (data === "go") go(); }; }) : 0;
const create = GPUDevice.prototype.createComputePipelineAsync;
let waiting = 0;
GPUDevice.prototype.createComputePipelineAsync = async function (...args) {
  if (waiting++ === 0) channel.postMessage("asked");
  const pipeline = await create.apply(this, args);
  await release;
  if (--waiting === 0) channel.postMessage("there");
  return pipeline;
};
"""
LISTEN = """() => {
  window.channel = new BroadcastChannel("pipelines");
  window.heard = [];
  window.channel.onmessage = ({ data }) => window.heard.push(data);
}"""


# In the worker: the most submits that were under way at once, by the mappings that wait for them.
COUNT_IN_FLIGHT = """
globalThis.mostInFlight = 0;
let inFlight = 0;
const mapAsync = GPUBuffer.prototype.mapAsync;
GPUBuffer.prototype.mapAsync = async function (...args) {
  globalThis.mostInFlight = Math.max(globalThis.mostInFlight, ++inFlight);
  await mapAsync.apply(this, args);
  inFlight--;
};
"""
START = """() => {
  window.loading = import("/static/wisp.js").then(({ createEngine }) => createEngine("/models/toy/"));
}"""
LOADED = "async () => (await window.loading).generateIds([5, 6], {maxTokens: 3})"
ANSWER = "async () => (await window.loading).generateIds([5, 6], {ignoreEos: true})"


def ask(page: Page, text: str) -> None:
    """Asks and waits for the whole answer."""
    answers = page.get_by_test_id("answer-stats")
    before = answers.count()
    page.get_by_test_id("prompt").fill(text)
    page.keyboard.press("Enter")
    expect(answers).to_have_count(before + 1)


def open_chat(page: Page, url: str) -> None:
    page.goto(f"{url}?backend=webgpu-f32-sg")
    expect(page.get_by_test_id("prompt")).to_be_visible()


def changes(page: Page, text: str) -> dict[str, int]:
    """What an answer changes in the document; `chunks` is how many pieces it came in."""
    page.evaluate("() => { window.changes = {tasks: 0, nodes: 0, most: 0}; }")
    before = page.evaluate("window.wisp.stats().tokens")
    ask(page, text)
    counted: dict[str, int] = page.evaluate("window.changes")
    return counted | {"chunks": page.evaluate("window.wisp.stats().tokens") - before}


# ---------------------------------------------------------------------------------------------------------- smoothness


def test_an_answer_changes_little_of_the_page_at_a_time(quick_page: Page, server_url: str) -> None:
    """No task touches more nodes than a turn has, however long the conversation is, and no token costs two tasks."""
    open_chat(quick_page, server_url)
    quick_page.evaluate(COUNT_CHANGES)
    for _ in range(3):
        counted = changes(quick_page, "Tell me a story.")
        assert 0 < counted["tasks"] <= 2 * counted["chunks"] + FIXED_TASKS, counted
        assert counted["most"] <= NODES_A_TASK, counted
        assert counted["nodes"] <= 4 * counted["chunks"] + 2 * NODES_A_TASK, counted
    quick_page.evaluate(WASTEFUL)
    counted = changes(quick_page, "Tell me a story.")
    assert counted["most"] > NODES_A_TASK, "a page that is busy is not noticed"


@pytest.mark.parametrize("in_worker", [True, False], ids=["as it is", "with an engine on the page, which is noticed"])
def test_the_page_computes_nothing_itself(quick_page: Page, server_url: str, in_worker: bool) -> None:
    quick_page.add_init_script(COUNT_ENGINE_CALLS)
    if not in_worker:
        quick_page.add_init_script(WITHOUT_WORKER)
    open_chat(quick_page, server_url)
    ask(quick_page, "My name is Ada.")
    assert quick_page.evaluate("window.wisp.stats().tokens") > 0
    assert (quick_page.evaluate("window.engineCalls") == 0) is in_worker
    assert len(quick_page.workers) == int(in_worker)


# ---------------------------------------------------------------------------------------------------------------- stop


def test_nothing_is_submitted_after_a_stop(page: Page, server_url: str) -> None:
    """Of the demo model: what is under way when the worker hears of the Stop is all that still runs."""
    run_in_worker(page, COUNT_SUBMITS)
    open_chat(page, server_url)
    for _ in range(3):
        page.get_by_test_id("new-chat").click()
        page.get_by_test_id("prompt").fill("Tell me a story.")
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("answer-text")).not_to_be_empty()
        page.get_by_test_id("stop").click()
        expect(page.get_by_test_id("answer-stats")).to_have_count(1)
        submits = page.workers[0].evaluate("() => globalThis.submits")
        assert submits["before"] > 0
        assert submits["after"] == 0, submits


# Generates to the end of the context, and then some more times with an interrupt: how many tokens each gave.
INTERRUPTED = """async ([url, backend]) => {
  const { createEngine } = await import("/static/wisp.js");
  window.engine = await createEngine(url, {backend});
  const whole = (await window.engine.generateIds([5, 6], {ignoreEos: true})).length;
  const stopped = [];
  for (let run = 0; run < 7; run++) {
    const running = window.engine.generateIds([7, run], {ignoreEos: true});
    await new Promise((resolve) => setTimeout(resolve, 5 * run));
    window.engine.interrupt();
    stopped.push((await running).length);
  }
  return {whole, stopped};
}"""


@pytest.mark.parametrize("first", ["", LATE_SCOPES], ids=["in decode", "while rows are set aside"])
def test_stop_is_heard_with_many_steps_in_flight(page: Page, toy_url: str, first: str) -> None:
    """Of a model whose steps take a few milliseconds, of which the engine keeps many in flight."""
    run_in_worker(page, COUNT_SUBMITS + first)
    page.goto(toy_url + "healthz")
    got = page.evaluate(INTERRUPTED, ["/models/slow/", "webgpu-f32"])
    assert max(got["stopped"]) < got["whole"], got
    assert page.workers[0].evaluate("() => globalThis.submits.after") == 0


def test_stop_is_heard_on_the_cpu(page: Page, server_url: str) -> None:
    """Where steps keep the worker's thread busy, which has to hear of the Stop between them, not after the last."""
    page.goto(server_url + "healthz")
    got = page.evaluate(INTERRUPTED, ["/models/demo/", "wasm-simd"])
    assert got["whole"] > 900
    assert max(got["stopped"]) < got["whole"] / 2, got


def test_readbacks_are_not_waited_for_one_by_one(page: Page, toy_url: str) -> None:
    """While a token is read back, the next ones are computed: more than one submit is under way."""
    run_in_worker(page, COUNT_IN_FLIGHT)
    page.goto(toy_url + "healthz")
    page.evaluate(START)
    page.evaluate(LOADED)
    worker = page.workers[0]
    page.evaluate(ANSWER)
    assert worker.evaluate("() => globalThis.mostInFlight") >= 2


# ------------------------------------------------------------------------------------------------------------- prefix


def test_the_next_turn_starts_from_what_is_cached(quick_page: Page, server_url: str) -> None:
    open_chat(quick_page, server_url)
    texts = ["My name is Ada.", "What is my name?", "Thank you."]
    turns = []
    for text in texts:
        before = quick_page.evaluate("window.wisp.stats()")
        ask(quick_page, text)
        after = quick_page.evaluate("window.wisp.stats()")
        turns.append({key: after[key] - before[key] for key in ("promptTokens", "reusedTokens", "tokens")})
    for previous, turn in itertools.pairwise(turns):
        # All of the previous prompt and answer but the token that was sampled last: it was never fed back.
        assert turn["reusedTokens"] >= previous["promptTokens"] + previous["tokens"] - 1, turns
        assert turn["promptTokens"] - turn["reusedTokens"] < 40, turns


# -------------------------------------------------------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def toy_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("artifacts")
    toy_artifact.write(root / "toy", toy_artifact.toy())
    toy_artifact.write(root / "slow", toy_artifact.toy(), source=SLOW_KERNELS)
    with serving(root) as url:
        yield url


def wait_until(page: Page, condition: Any) -> None:
    deadline = time.monotonic() + 120  # only so that a failure ends
    while not condition():
        assert time.monotonic() < deadline, "one waits for the other"
        page.wait_for_timeout(20)


def test_kernels_compile_while_weights_download(page: Page, toy_url: str) -> None:
    """No weight arrives before every kernel is compiled: a load that downloads first would wait for ever."""
    run_in_worker(page, OBSERVED_PIPELINES.replace("HELD", "false"))
    held: list[Route] = []
    page.route("**/params_shard_*", lambda route: held.append(route))
    page.goto(toy_url + "healthz")
    page.evaluate(LISTEN)
    page.evaluate(START)
    wait_until(page, lambda: held and "there" in page.evaluate("window.heard"))
    page.unroute("**/params_shard_*")
    for route in held:
        route.continue_()
    assert page.evaluate(LOADED) == toy_artifact.toy().generate([5, 6], 3)


def test_weights_download_while_kernels_compile(page: Page, toy_url: str) -> None:
    """No kernel is there before every weight has arrived: a load that compiles first would wait for ever."""
    run_in_worker(page, OBSERVED_PIPELINES.replace("HELD", "true"))
    arrived: list[str] = []
    page.on("requestfinished", lambda request: arrived.append(request.url))
    page.goto(toy_url + "healthz")
    page.evaluate(LISTEN)
    page.evaluate(START)
    wait_until(page, lambda: sum("params_shard_" in url for url in arrived) == 2)
    wait_until(page, lambda: "asked" in page.evaluate("window.heard"))
    page.evaluate("() => window.channel.postMessage('go')")
    assert page.evaluate(LOADED) == toy_artifact.toy().generate([5, 6], 3)
