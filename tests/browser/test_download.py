"""Downloads in a real Chromium over a network that fails: a load ends with the right model or the right sentence."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import toy_artifact
from tests.browser.fault_server import PORTAL, Fault, FaultServer, faulty
from tests.browser.test_engine_loop import PROMPT
from tests.browser.toy_artifact import Toy

TOY = toy_artifact.toy()
PADDING = 300_000  # a shard that comes in many pieces
SHARD_0, SHARD_1 = "params_shard_0.bin", "params_shard_1.bin"
EXPECTED = TOY.generate(PROMPT, 10)
BROKEN = Fault(cut=100_000, arrived=True)
LEFT = PADDING + 4 * 128 - 100_000  # of SHARD_0 then, when all else is there

# The engine waits for the network by timers; its worker's run so many times as fast.
FAST = """
const [later, again, now] = [setTimeout, setInterval, performance.now.bind(performance)];
globalThis.setTimeout = (work, ms, ...args) => later(work, ms / 20, ...args);
globalThis.setInterval = (work, ms, ...args) => again(work, ms / 20, ...args);
performance.now = () => 20 * now();
"""

# Loads the model and asks it; what a load says of itself comes back, or its error.
LOAD = """async ([url, options, prompt, left]) => {
  const { createEngine } = await import("/static/wisp.js");
  const progress = [];
  try {
    const onProgress = (state) => {
      progress.push({...state});
      if (state.totalBytes > 0 && state.totalBytes - state.loadedBytes === left) void fetch("/arrived");
    };
    const engine = await createEngine(url, {backend: "wasm-simd", threads: 1, onProgress, ...options});
    const ids = await engine.generateIds(prompt, {maxTokens: 10, ignoreEos: true});
    const { info } = engine;
    const stats = engine.stats();
    await engine.dispose();
    return {ids, info, stats, progress};
  } catch ({name, kind, message, file}) {
    return {error: name, kind, message, file, progress};
  }
}"""


def write(directory: Path, model: Toy = TOY, **changes: Any) -> None:
    toy_artifact.write(directory, model, cpu=True, padding=PADDING, **changes)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[FaultServer]:
    write(tmp_path / "toy")
    with faulty(tmp_path) as server:
        yield server


@pytest.fixture
def page(browser: Browser, net: FaultServer) -> Iterator[Page]:
    """A page with empty caches."""
    page = browser.new_context().new_page()
    page.goto(net.url + "blank")
    yield page
    page.context.close()


def load(page: Page, url: str = "/models/toy/", left: int = -1, **options: Any) -> Any:
    """`left`: the server hears when all but so many bytes have arrived."""
    got = page.evaluate(LOAD, [url, options, PROMPT, left])
    seen = got["progress"]
    for before, now in itertools.pairwise(seen):
        assert now["loadedBytes"] >= before["loadedBytes"], "progress goes back"
        assert now["totalBytes"] == 0 or now["loadedBytes"] <= now["totalBytes"]
    if "ids" in got:
        assert seen[-1]["phase"] == "ready"
        assert seen[-1]["loadedBytes"] == seen[-1]["totalBytes"] > 0
    return got


def stored(page: Page) -> list[str]:
    """The keys of what the browser keeps."""
    script = """async () => {
      const names = await caches.keys();
      const keys = await Promise.all(names.map(async (name) => (await caches.open(name)).keys()));
      return keys.flat().map(({url}) => url);
    }"""
    return page.evaluate(script)


# --------------------------------------------------------------------------------------------- one load, one bad day

ANSWERED_IN_THE_END: dict[str, list[Fault]] = {
    "500 twice": [Fault(status=500), Fault(status=500)],
    "busy": [Fault(status=503, headers={"Retry-After": "1"})],
    "refused": [Fault(refuse=True)],
    "cut": [Fault(cut=100_000), Fault(cut=50_000)],
    "cut, no ranges": [Fault(cut=100_000), Fault(ranges=False)],
    "flipped": [Fault(flip=1000)],
    "flipped after a cut": [Fault(cut=100_000), Fault(flip=200_000)],
    "gzip": [Fault(compressed=True)],
    "gzip, cut": [Fault(compressed=True, cut=100_000)],
    "too short": [Fault(body=b"short")],
    "too long": [Fault(body=bytes(PADDING + 100_000))],
    "portal": [Fault(body=PORTAL, headers={"Content-Type": "text/html"})],
    "in small pieces": [Fault(pieces=3000)],
}


@pytest.mark.parametrize("faults", ANSWERED_IN_THE_END.values(), ids=ANSWERED_IN_THE_END.keys())
def test_a_fault_that_passes_is_not_noticed(net: FaultServer, page: Page, faults: list[Fault]) -> None:
    net.faults[SHARD_0] = list(faults)
    net.faults["model.json"] = [fault for fault in faults if fault.status == 500 or fault.refuse]
    got = load(page)
    assert got.get("ids") == EXPECTED, got
    assert net.faults[SHARD_0] == []
    assert all("?v=" in asked.path for asked in net.asked if SHARD_0 in asked.path)


def test_resuming_says_which_version_it_means(net: FaultServer, page: Page) -> None:
    net.faults[SHARD_0] = [BROKEN]
    assert load(page, left=LEFT)["ids"] == EXPECTED
    first, second = [asked.headers for asked in net.asked if SHARD_0 in asked.path]
    assert "range" not in first
    assert second["range"] == "bytes=100000-"
    assert second["if-range"].startswith('"')


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=404), "HTTP status: got 404"),
        (Fault(flip=77), "SHA-256 of the file, fetched 3 times"),
        (Fault(body=b"short"), "length of the file|an end before its bytes"),
        (Fault(status=500), "failed 5 times in a row: got HTTP status 500"),
        (Fault(body=PORTAL, headers={"Content-Type": "text/html"}), "a page came in place of the file"),
        (Fault(pieces=1, every=1.4), "fewer than 16384 bytes a minute"),
        (Fault(status=403), "`headers` or `fetch`"),
    ],
    ids=["gone", "flipped", "short", "failing", "portal", "byte-a-time", "forbidden"],
)
def test_a_fault_that_stays_has_an_end_and_a_name(net: FaultServer, page: Page, fault: Fault, words: str) -> None:
    net.worker_prelude = FAST
    net.always[SHARD_1] = fault
    got = load(page)
    assert (got["error"], got["kind"], got["file"]) == ("NetworkError", "network", SHARD_1)
    assert any(word in got["message"] for word in words.split("|")), got["message"]


def test_a_connection_that_stalls_is_taken_up_and_said(net: FaultServer, page: Page) -> None:
    net.worker_prelude = FAST
    net.faults[SHARD_1] = [Fault(stall=100_000)]
    got = load(page)
    assert got["ids"] == EXPECTED
    assert "no byte for 30 seconds; trying again in 1 s" in [state["waiting"] for state in got["progress"]]
    assert got["progress"][-1]["waiting"] is None


def test_an_outage_in_the_middle_is_waited_for(net: FaultServer, page: Page) -> None:
    """What would be two minutes for a person."""
    net.worker_prelude = FAST
    net.faults[SHARD_1] = [Fault(cut=100_000), *[Fault(refuse=True)] * 9]
    assert load(page)["ids"] == EXPECTED
    assert net.faults[SHARD_1] == []


# ------------------------------------------------------------------------------------------------- the copy at home

OFFLINE: dict[str, Fault] = {
    "portal": Fault(body=PORTAL, headers={"Content-Type": "text/html"}),
    "other JSON": Fault(body=b'{"error": "quota"}'),
    "no network": Fault(refuse=True),
    "error": Fault(status=500),
    "cut": Fault(cut=40),
}


@pytest.mark.parametrize("fault", OFFLINE.values(), ids=OFFLINE.keys())
def test_the_copy_survives_and_serves(net: FaultServer, page: Page, fault: Fault) -> None:
    first = load(page)
    assert not [notice for notice in first["info"]["notices"] if "copy" in notice]
    net.always["model.json"] = fault
    for _ in range(2):
        net.asked.clear()
        got = load(page)
        assert got["ids"] == EXPECTED, got
        assert got["info"]["notices"][0].startswith("The copy of the model in this browser is used: model.json: ")
        assert net.names() == ["model.json"]
    net.always.clear()
    assert "copy" not in str(load(page)["info"]["notices"])


def test_without_a_copy_a_portal_is_named_and_not_kept(net: FaultServer, page: Page) -> None:
    net.always["model.json"] = OFFLINE["portal"]
    got = load(page)
    assert got["error"] == "NetworkError"
    assert "no JSON" in got["message"]
    assert stored(page) == []


def other_toy(weight: int) -> Toy:
    return Toy(TOY.weight + weight, TOY.constant)


def test_an_artifact_that_is_replaced_in_mid_load_is_loaded_anew(net: FaultServer, page: Page, tmp_path: Path) -> None:
    replaced = other_toy(3)
    old = (tmp_path / "toy" / "model.json").read_bytes()
    write(tmp_path / "toy", replaced)
    net.faults["model.json"] = [Fault(body=old)]
    got = load(page)
    assert got.get("ids") == replaced.generate(PROMPT, 10), got
    assert net.names().count("model.json") == 2


def test_a_version_that_cannot_be_had_leaves_the_one_before(net: FaultServer, page: Page, tmp_path: Path) -> None:
    net.worker_prelude = FAST
    load(page)
    write(tmp_path / "toy", other_toy(3))
    net.always[SHARD_1] = Fault(status=500)
    got = load(page)
    assert got["ids"] == EXPECTED
    assert got["info"]["notices"][0].startswith("An earlier copy of the model in this browser is used")
    net.always.clear()
    assert load(page)["ids"] == other_toy(3).generate(PROMPT, 10)


def test_files_are_kept_by_content_as_long_as_an_artifact_has_them(
    net: FaultServer, page: Page, tmp_path: Path
) -> None:
    write(tmp_path / "toy" / "big")
    load(page, "/models/toy/big/")
    net.asked.clear()
    assert load(page, "/models/toy/")["ids"] == EXPECTED
    assert net.names() == ["model.json"], "its files are those of the other one"
    write(tmp_path / "toy", other_toy(5))
    load(page, "/models/toy/")
    net.asked.clear()
    net.always["model.json"] = Fault(refuse=True)
    assert load(page, "/models/toy/big/")["ids"] == EXPECTED
    assert net.names() == ["model.json"]
    files = [json.loads((tmp_path / path / "model.json").read_text())["files"] for path in ("toy", "toy/big")]
    hashes = {entry["sha256"] for listed in files for entry in listed.values()}
    kept = {key.split("/")[-1] for key in stored(page) if "/files/" in key}
    assert kept <= hashes


def test_caches_of_earlier_engines_are_cleared(page: Page) -> None:
    page.evaluate('async () => (await caches.open("wisp-artifacts-v1")).put("/old", new Response("x"))')
    assert load(page)["ids"] == EXPECTED
    assert page.evaluate("async () => caches.keys()") == ["wisp-files-v2"]


def test_eviction_in_mid_load_is_survived(net: FaultServer, page: Page) -> None:
    load(page)
    net.worker_prelude = """
    const match = Cache.prototype.match;
    let reads = 0;
    Cache.prototype.match = async function (key) {
      if (++reads === 4) for (const name of await caches.keys()) await caches.delete(name);
      return match.call(this, key);
    };
    """
    assert load(page)["ids"] == EXPECTED


# -------------------------------------------------------------------------------------------------------------- room


def test_too_little_room_is_said_before_the_download(net: FaultServer, page: Page) -> None:
    net.worker_prelude = "StorageManager.prototype.estimate = async () => ({quota: 2e5, usage: 1e5});"
    got = load(page)
    assert got["ids"] == EXPECTED
    assert "not kept in this browser" in got["info"]["notices"][0]
    assert "has room for 0 MB more of this site, they take 1 MB" in got["info"]["notices"][0]
    files = json.loads((net.artifacts / "toy" / "model.json").read_text())["files"]
    assert not [key for key in stored(page) if files[SHARD_0]["sha256"] in key or files[SHARD_1]["sha256"] in key]


def test_a_full_disk_ends_the_keeping_and_not_the_load(net: FaultServer, page: Page) -> None:
    net.worker_prelude = """
    const put = Cache.prototype.put;
    Cache.prototype.put = async function (key, response) {
      if (Number(response.headers.get("Content-Length")) > 2e5) throw new DOMException("full", "QuotaExceededError");
      return put.call(this, key, response);
    };
    """
    got = load(page)
    assert got["ids"] == EXPECTED
    assert got["info"]["notices"] == [
        "The model's files are not kept in this browser, so that the next visit downloads them again: "
        "the browser has no more room for this site."
    ]


def test_persistence_is_asked_for_and_its_refusal_said(page: Page) -> None:
    page.evaluate(
        "() => { window.asks = 0; StorageManager.prototype.persist = async () => { window.asks++; return false; }; }"
    )
    got = load(page)
    assert page.evaluate("window.asks") == 1
    assert "has not granted this site persistent storage" in got["info"]["notices"][0]
    load(page, cache=False)
    assert page.evaluate("window.asks") == 1


# ----------------------------------------------------------------------------------------------------------- together


def test_two_loads_of_one_page_download_once(net: FaultServer, page: Page) -> None:
    net.always = {name: Fault(pieces=30_000, every=0.02) for name in (SHARD_0, SHARD_1)}
    script = f"async (args) => Promise.all([({LOAD})(args), ({LOAD})(args)])"
    both = page.evaluate(script, ["/models/toy/", {}, PROMPT])
    assert [got["ids"] for got in both] == [EXPECTED, EXPECTED]
    names = net.names()
    assert (names.count(SHARD_0), names.count(SHARD_1)) == (1, 1)


def test_two_tabs_download_once_and_the_second_says_why_it_waits(net: FaultServer, page: Page) -> None:
    net.always = {name: Fault(pieces=30_000, every=0.05) for name in (SHARD_0, SHARD_1)}
    other = page.context.new_page()
    other.goto(net.url + "blank")
    start = f"(args) => {{ window.got = ({LOAD})(args); }}"
    for tab in (page, other):
        tab.evaluate(start, ["/models/toy/", {}, PROMPT])
    results = [tab.evaluate("window.got") for tab in (page, other)]
    assert [got["ids"] for got in results] == [EXPECTED, EXPECTED]
    names = net.names()
    assert (names.count(SHARD_0), names.count(SHARD_1)) == (1, 1)
    waits = {state["waiting"] for got in results for state in got["progress"]}
    assert "another tab or engine is downloading it" in waits


def test_shards_wait_neither_for_the_texts_nor_for_what_nobody_needs(net: FaultServer, page: Page) -> None:
    net.holds["tokenizer.json"] = SHARD_1  # served when a shard was asked for
    net.holds["tokenizer_config.json"] = SHARD_0
    assert load(page)["ids"] == EXPECTED
    assert not [asked.path for asked in net.asked if "webgpu" in asked.path]


# ------------------------------------------------------------------------------------------------- addresses, origins


def test_the_query_of_a_signed_address_goes_with_every_file(net: FaultServer, page: Page) -> None:
    assert load(page, "/models/toy/?signature=a%2Bb&expires=9#x")["ids"] == EXPECTED
    queries = [asked.path.split("?")[1] for asked in net.asked]
    assert queries[0] == "signature=a%2Bb&expires=9"
    assert all(query.startswith("signature=a%2Bb&expires=9&v=") for query in queries[1:])
    net.asked.clear()
    assert load(page, "/models/toy/?signature=other")["ids"] == EXPECTED
    assert [asked.path for asked in net.asked] == ["/models/toy/model.json?signature=other"]


def test_headers_go_with_every_file(net: FaultServer, page: Page) -> None:
    assert load(page, headers={"Authorization": "Bearer abc"})["ids"] == EXPECTED
    assert {asked.headers.get("authorization") for asked in net.asked} == {"Bearer abc"}
    got = load(page, headers={"no name": "x"})
    assert (got["error"], "headers" in got["message"]) == ("RequestError", True)


def test_a_fetch_function_of_the_page_fetches_every_file(net: FaultServer, page: Page) -> None:
    net.faults[SHARD_0] = [BROKEN]
    script = f"""async ([url, options, prompt, left]) => {{
      const seen = [];
      const fetching = (url, init) => {{
        const headers = new Headers(init.headers);
        headers.set("X-Token", "abc");
        seen.push(url);
        return fetch(url, {{...init, headers}});
      }};
      return {{got: await ({LOAD})([url, {{...options, fetch: fetching}}, prompt, left]), seen}};
    }}"""
    both = page.evaluate(script, ["/models/toy/", {}, PROMPT, LEFT])
    assert both["got"].get("ids") == EXPECTED, both["got"]
    assert {asked.headers.get("x-token") for asked in net.asked} == {"abc"}
    assert len(both["seen"]) == len(net.asked)
    assert [asked.headers.get("range") for asked in net.asked if SHARD_0 in asked.path] == [None, "bytes=100000-"]
    error = page.evaluate(
        script.replace("return fetch(", "throw new Error('no token'); fetch("), ["/models/x/", {}, PROMPT]
    )
    assert "no token" in error["got"]["message"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[FaultServer]:
    """The artifact at another origin, and no policy on the page that would forbid it."""
    with faulty(tmp_path, secured=False) as server:
        yield server


def test_another_origin_is_used_or_its_refusal_named(browser: Browser, tmp_path: Path, elsewhere: FaultServer) -> None:
    write(tmp_path / "toy")
    with faulty(tmp_path, secured=False) as here:
        page = browser.new_context().new_page()
        page.goto(here.url + "blank")
        url = elsewhere.url + "models/toy/"
        got = load(page, url)
        assert got["message"].startswith(f"model.json: CORS: {elsewhere.url[:-1]} answers, but does not let pages of")
        assert "Access-Control-Allow-Origin" in got["message"]
        elsewhere.headers = {"Access-Control-Allow-Origin": "*"}
        elsewhere.faults[SHARD_0] = [BROKEN]
        elsewhere.told = here.told
        got = load(page, url, headers={"Authorization": "x"})
        assert "Access-Control-Allow-Headers: authorization" in got["message"]
        assert load(page, url, left=LEFT)["ids"] == EXPECTED
        assert "bytes=100000-" in str([asked.headers for asked in elsewhere.asked])
        assert "if-range" not in str([asked.headers for asked in elsewhere.asked])
        page.context.close()


def test_an_origin_that_is_away_is_not_said_to_refuse(net: FaultServer, browser: Browser, tmp_path: Path) -> None:
    with faulty(tmp_path, secured=False) as here:
        here.worker_prelude = FAST
        page = browser.new_context().new_page()
        page.goto(here.url + "blank")
        message = load(page, "http://127.0.0.1:9/models/toy/")["message"]
        page.context.close()
    assert "CORS: " not in message
    assert "Check the connection" in message


# ------------------------------------------------------------------------------------------------------------ memory

SMALL_MEMORY = """
const Memory = WebAssembly.Memory;
WebAssembly.Memory = function (descriptor) {
  if (descriptor.initial > PAGES) throw new RangeError("could not allocate memory");
  return new Memory(descriptor);
};
"""
SMALL_GPU = """
let taken = 0;
const device = GPUDevice.prototype;
const { createBuffer, pushErrorScope, popErrorScope } = device;
device.pushErrorScope = function (kind) { taken = 0; pushErrorScope.call(this, kind); };
device.createBuffer = function (descriptor) {
  taken += descriptor.size;
  return createBuffer.call(this, descriptor);
};
device.popErrorScope = async function () {
  return (await popErrorScope.call(this)) ?? (taken > BYTES ? {message: "no memory left"} : null);
};
"""


def test_the_cpu_takes_memory_for_a_context_as_it_is_used(net: FaultServer, page: Page, tmp_path: Path) -> None:
    context = 2**20  # 4 MiB of KV cache, where there are 1.5
    write(tmp_path / "toy", context=context)
    net.worker_prelude = SMALL_MEMORY.replace("PAGES", str(20 + 3 * 2**19 // 65536))
    got = load(page, backend="wasm-simd")
    assert got.get("ids") == EXPECTED, got
    assert got["info"]["contextLength"] == context
    net.worker_prelude = SMALL_MEMORY.replace("PAGES", "0")
    got = load(page, backend="wasm-simd")
    assert (got["error"], got["kind"]) == ("DeviceError", "out-of-memory")


def test_a_context_without_memory_is_lowered_and_said(
    net: FaultServer, page: Page, tmp_path: Path, webgpu_adapter: dict[str, Any]
) -> None:
    context, backend = 2**20, "webgpu-f32"  # 4 MiB of KV cache
    write(tmp_path / "toy", context=context)

    def small(size: int) -> str:
        return SMALL_GPU.replace("BYTES", str(size))

    net.worker_prelude = small(3 * 2**19)
    got = load(page, backend=backend)
    assert got.get("ids") == EXPECTED, got
    assert got["info"]["contextLength"] == context // 4
    assert f"a context of {context // 4:,} tokens" in got["info"]["notices"][-1]
    assert got["info"]["skipped"] == []
    assert len([asked for asked in net.asked if SHARD_0 in asked.path]) == 1, "no weight is fetched in vain"
    got = load(page, backend=backend, contextLength=context // 2)
    assert (got["error"], f"expected at most {context // 4}" in got["message"]) == ("RequestError", True), got
    net.worker_prelude = small(0)
    got = load(page, backend=backend)
    assert (got["error"], got["kind"]) == ("DeviceError", "out-of-memory")


def test_weights_that_are_not_kept_are_downloaded_again_out_loud(
    net: FaultServer, page: Page, webgpu_adapter: dict[str, Any]
) -> None:
    net.worker_prelude = """
    const requestDevice = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...args) {
      return (globalThis.device = await requestDevice.apply(this, args));
    };
    """
    page.evaluate(
        """async () => {
          const { createEngine } = await import("/static/wisp.js");
          window.said = [];
          window.progress = [];
          const moved = new Promise((resolve) => (window.tell = resolve));
          window.moved = moved;
          window.engine = await createEngine("/models/toy/", {
            backend: "webgpu-f32", cache: false, onRecovering: ({what}) => said.push(what),
            onBackendChange: () => tell(), onProgress: (state) => progress.push(state)});
          window.progress.length = 0;
        }"""
    )
    page.workers[0].evaluate("() => globalThis.device.destroy()")
    page.evaluate("moved")
    assert "downloaded again (1 MB)" in page.evaluate("said[0]")
    assert page.evaluate("progress[0].loadedBytes < progress.at(-1).loadedBytes")
    ids = page.evaluate("(ids) => engine.generateIds(ids, {maxTokens: 10, ignoreEos: true})", PROMPT)
    assert ids == EXPECTED
