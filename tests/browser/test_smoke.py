"""A variant that computes something else than its artifact says is not used: a real Chromium, wrong kernels."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import toy_artifact
from tests.browser.conftest import AS_HARDWARE, run_in_worker, serving
from tests.browser.test_autotune import decode_with, quick
from tests.browser.test_engine_loop import PROMPT, open_page
from tests.browser.toy_artifact import KERNELS

TOY = toy_artifact.toy()
LOGIT = "-f32((v + VOCABu - next) % VOCABu)"
# What a driver's miscompilation looks like: `[name in the artifact, what the kernel has, what it is made to have]`.
WRONG = {
    "nan": (LOGIT, "bitcast<f32>(0x7fc00000u + v)"),
    "zeros": (LOGIT, "0.0"),
    "other": ("h / 7u", "h / 5u"),
    "prefill": ("kv[state_at[0] + at.x] = gathered[at.x];", "kv[state_at[0] + at.x] = gathered[at.x] + 1u;"),
}
# Kernels of devices after the first are others.
LATER_WRONG = """
let devices = 0;
const requestDevice = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...args) {
  const device = await requestDevice.apply(this, args);
  globalThis.device = device;
  if (devices++ > 0) {
    const create = device.createShaderModule.bind(device);
    device.createShaderModule = ({code, ...rest}) => create({...rest, code: code.replace("h / 7u", "h / 5u")});
  }
  return device;
};
"""
# A kernel of an alternative that is wrong from now on.
ALTERNATIVE_WRONG = """
const createShaderModule = GPUDevice.prototype.createShaderModule;
GPUDevice.prototype.createShaderModule = function ({code, ...rest}) {
  const wrong = code.includes("fn quick(") ? code.replace("h / 7u", "h / 5u") : code;
  return createShaderModule.call(this, {...rest, code: wrong});
};
"""
# As if an earlier visit had measured so.
REMEMBER = """async (remembered) => {
  for (const name of await caches.keys()) {
    const cache = await caches.open(name);
    for (const {url} of await cache.keys())
      if (url.includes("tuning.json")) await cache.put(url, new Response(JSON.stringify(remembered)));
  }
}"""
LOAD = """async ([model, options, ids]) => {
  const { createEngine } = await import("/static/wisp.js");
  try {
    const engine = await createEngine(`/models/${model}/`, options);
    const before = engine.stats();
    const got = {info: engine.info, before, ids: await engine.generateIds(ids, {maxTokens: 12, ignoreEos: true})};
    await engine.dispose();
    return got;
  } catch (error) {
    return {error: error.name, kind: error.kind, message: error.message};
  }
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("artifacts")
    toy_artifact.write(root / "good", TOY, cpu=True)
    for name, (old, new) in WRONG.items():
        assert KERNELS.count(old) == 1
        toy_artifact.write(root / name, TOY, cpu=True, source=KERNELS.replace(old, new))
    toy_artifact.write(root / "old", TOY, source=KERNELS.replace(*WRONG["other"]), smoke=False)
    toy_artifact.write(root / "tuned", TOY, alternatives={"quick": (decode_with("quick"), quick("quick"))})
    with serving(root) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    page = open_page(browser, url)
    run_in_worker(page, AS_HARDWARE)
    yield page
    page.context.close()


@pytest.mark.parametrize("variant", ["webgpu-f32", "wasm-simd"])
def test_every_variant_of_a_good_artifact_is_taken(page: Page, variant: str) -> None:
    got = page.evaluate(LOAD, ["good", {"backend": variant}, PROMPT])
    assert got["info"]["variant"] == variant
    assert got["info"]["skipped"] == []
    assert got["ids"] == TOY.generate(PROMPT, 12)
    counted = {name: got["before"][name] for name in ("tokens", "decodeSteps", "promptTokens", "requests")}
    assert counted == dict.fromkeys(counted, 0), "the smoke test is nobody's request"
    assert got["before"]["submits"] >= 2


@pytest.mark.parametrize("model", WRONG)
def test_kernels_that_compute_something_else_are_not_used(page: Page, model: str) -> None:
    got = page.evaluate(LOAD, [model, {}, PROMPT])
    assert got["info"]["variant"] == "wasm-simd"
    reasons = {entry["variant"]: entry["reason"] for entry in got["info"]["skipped"]}
    assert reasons["webgpu-f32"].startswith("The device computes other logits than the artifact says (")
    assert ("NaN" in reasons["webgpu-f32"]) == (model == "nan")
    assert got["ids"] == TOY.generate(PROMPT, 12)
    by_name = page.evaluate(LOAD, [model, {"backend": "webgpu-f32"}, PROMPT])
    assert (by_name["error"], by_name["kind"]) == ("DeviceError", "wrong-results")
    assert "other logits than the artifact says" in by_name["message"]


def test_an_artifact_of_an_earlier_compiler_still_loads(page: Page) -> None:
    got = page.evaluate(LOAD, ["old", {}, PROMPT])
    assert got["info"]["variant"] == "webgpu-f32"
    assert got["ids"] != TOY.generate(PROMPT, 12)


def test_a_device_that_comes_back_wrong_gives_way_to_the_cpu(page: Page) -> None:
    run_in_worker(page, AS_HARDWARE + LATER_WRONG)
    page.evaluate(
        """async () => {
          const { createEngine } = await import("/static/wisp.js");
          window.moved = new Promise((resolve) => (window.onMoved = resolve));
          window.engine = await createEngine("/models/good/", {onBackendChange: (info) => window.onMoved(info)});
        }"""
    )
    assert page.evaluate("engine.info.variant") == "webgpu-f32"
    page.workers[0].evaluate("() => globalThis.device.destroy()")
    info = page.evaluate("moved")
    assert info["variant"] == "wasm-simd"
    assert "it could not be started again: The device computes other logits" in info["skipped"][-1]["reason"]
    ids = page.evaluate("ids => engine.generateIds(ids, {maxTokens: 12, ignoreEos: true})", PROMPT)
    assert ids == TOY.generate(PROMPT, 12)


def test_a_remembered_alternative_that_is_wrong_now_is_forgotten(page: Page, url: str) -> None:
    options = {"autotune": True, "backend": "webgpu-f32"}
    page.evaluate(LOAD, ["tuned", options, PROMPT])
    page.evaluate(REMEMBER, {"choice": {"decode": "quick"}, "tries": 1, "final": True})
    page.goto(url + "healthz")
    remembered = page.evaluate(LOAD, ["tuned", options, PROMPT])["info"]["tuning"]
    assert (remembered["source"], remembered["programs"]) == ("remembered", {"decode": "quick"})
    run_in_worker(page, AS_HARDWARE + ALTERNATIVE_WRONG)
    for _ in range(2):
        page.goto(url + "healthz")
        got = page.evaluate(LOAD, ["tuned", options, PROMPT])
        assert got["info"]["tuning"]["programs"] == {}
        assert got["ids"] == TOY.generate(PROMPT, 12)
