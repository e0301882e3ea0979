"""The demo model in a real Chromium: its logits against the numpy model, its text against Hugging Face's tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page
from tokenizers import Tokenizer

from compiler.artifact.writer import load_artifact
from compiler.models import config_from_huggingface
from compiler.network.reference import ReferenceModel
from compiler.weights.schemes import SCHEMES
from compiler.weights.stored import stored_rows
from tests.browser.conftest import run_in_worker
from tests.conftest import ROOT

TEXT = "Hello! Who are you? Tell me about the sea, and then about 東京 🙂. " * 4
BOUND = 1e-3  # of a logit, relative to the largest; float32 in another order of summation
VARIANTS = ("webgpu-f32-sg", "webgpu-f32", "wasm-simd")
# Every way to sample. Logits of the two backends differ in the last bits, so a draw could too: not with these seeds.
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy, penalized": {"temperature": 0, "repetitionPenalty": 1.3, "frequencyPenalty": 0.4, "presencePenalty": 0.2},
    "seeded": {"temperature": 1, "seed": 1},
    "hot": {"temperature": 1.7, "seed": 2},
    "top-k": {"temperature": 1.3, "seed": 3, "topK": 12},
    "top-p": {"temperature": 1.3, "seed": 4, "topP": 0.8},
    "min-p": {"temperature": 1.3, "seed": 5, "minP": 0.1},
    "all": {"temperature": 1.2, "seed": 6, "topK": 50, "topP": 0.9, "minP": 0.02, "repetitionPenalty": 1.2},
}

LOGITS = """async ([variant, prompts]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/demo/", {backend: variant});
  const out = {variant: engine.info.variant, logits: [], greedy: [], again: [], sampled: []};
  for (const ids of prompts) out.logits.push([...await engine.logits(ids)]);
  const [ids] = prompts.slice(-1);
  const ask = (prompt, options) => engine.generateIds(prompt, {maxTokens: 12, ignoreEos: true, ...options});
  out.greedy = await ask(ids, {temperature: 0});
  out.again = await ask(ids, {temperature: 0});
  const before = engine.stats();
  out.continued = await ask(ids.concat(out.greedy.slice(0, 6)), {temperature: 0, maxTokens: 6});
  out.reused = engine.stats().reusedTokens - before.reusedTokens;
  for (let i = 0; i < 2; i++) out.sampled.push(await ask(ids, {temperature: 1.5, seed: 7}));
  out.other = await ask(ids, {temperature: 1.5, seed: 8});
  const stats = engine.stats();
  out.uncounted = stats.bindGroupsCreated - before.bindGroupsCreated;
  await engine.dispose();
  return out;
}"""


# Counts the dispatches of each submit, on each device of the worker; the first one is lost while the engine generates.
COUNT_DISPATCHES = """
globalThis.most = [];
globalThis.loseDevice = () => {};
let recorded = 0;
for (const name of ["dispatchWorkgroups", "dispatchWorkgroupsIndirect"]) {
  const dispatch = GPUComputePassEncoder.prototype[name];
  GPUComputePassEncoder.prototype[name] = function (...args) { recorded++; return dispatch.apply(this, args); };
}
const requestDevice = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...args) {
  const device = await requestDevice.apply(this, args);
  const index = globalThis.most.push(0) - 1;
  globalThis.loseDevice = () => device.destroy();
  const submit = device.queue.submit.bind(device.queue);
  device.queue.submit = (buffers) => {
    globalThis.most[index] = Math.max(globalThis.most[index], recorded);
    recorded = 0;
    submit(buffers);
  };
  return device;
};
"""


@pytest.fixture(scope="session")
def browser(quick_browser: Browser) -> Browser:
    return quick_browser


@pytest.fixture(scope="module")
def prompts(artifact_demo: Path) -> list[list[int]]:
    """One token, a part of a chunk, several chunks."""
    ids = Tokenizer.from_file(str(artifact_demo / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
    return [ids[:1], ids[:23], ids[:100]]


@pytest.fixture(scope="module")
def expected(artifact_demo: Path, prompts: list[list[int]]) -> list[np.ndarray]:
    """Logits after the last token of each prompt, from the weights that the artifact stores."""
    artifact = load_artifact(artifact_demo)
    source = json.loads((ROOT / "configs" / "demo" / "config.json").read_text())
    config = config_from_huggingface(source, artifact.model["context"])
    rows = stored_rows(artifact, SCHEMES[artifact.model["quantization"]])
    models = [ReferenceModel(config, rows) for _ in prompts]
    return [model.logits(model.hidden_states(ids)[-1:])[0] for model, ids in zip(models, prompts, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_generation(
    page: Page, server_url: str, variant: str, prompts: list[list[int]], expected: list[np.ndarray]
) -> None:
    page.goto(server_url + "healthz")
    got: dict[str, Any] = page.evaluate(LOGITS, [variant, prompts])
    assert got["variant"] == variant
    for logits, reference in zip(got["logits"], expected, strict=True):
        error = np.abs(np.array(logits) - reference).max() / np.abs(reference).max()
        assert error < BOUND
    assert got["greedy"][0] == int(np.argmax(got["logits"][-1]))
    assert got["again"] == got["greedy"]
    assert got["continued"] == got["greedy"][6:]
    assert got["reused"] >= len(prompts[-1]) + 5
    assert got["sampled"][0] == got["sampled"][1] != got["other"]
    assert got["uncounted"] == 0


@pytest.mark.parametrize("variant", ["webgpu-f32", "wasm-simd"])
def test_two_conversations_by_turns(page: Page, server_url: str, variant: str, prompts: list[list[int]]) -> None:
    """Neither is processed again after the other, and each goes on as if it were alone."""
    page.goto(server_url + "healthz")
    talks = [prompts[-1], prompts[-1][::-1]]
    got: dict[str, Any] = page.evaluate(
        """async ([backend, talks]) => {
          const { createEngine } = await import("/static/wisp.js");
          const engine = await createEngine("/models/demo/", {backend, autotune: false});
          const ask = (ids, maxTokens) => engine.generateIds(ids, {maxTokens, temperature: 0, ignoreEos: true});
          const alone = [];
          for (const ids of talks) { await engine.resetChat(); alone.push(await ask(ids, 24)); }
          await engine.resetChat();
          const turns = talks.map(() => []), restored = [], processed = [];
          for (let round = 0; round < 3; round++)
            for (const [i, ids] of talks.entries()) {
              const before = engine.stats();
              turns[i].push(...await ask([...ids, ...turns[i]], 8));
              const after = engine.stats();
              restored.push(after.restoredTokens - before.restoredTokens);
              processed.push(after.promptTokens - before.promptTokens - (after.reusedTokens - before.reusedTokens));
            }
          const {gpuBytes} = engine.stats();
          await engine.resetChat();
          const freed = gpuBytes - engine.stats().gpuBytes;
          await engine.dispose();
          return {alone, turns, restored, processed, freed};
        }""",
        [variant, talks],
    )
    assert got["turns"] == got["alone"]
    assert got["restored"][:2] == [0, 0]
    assert min(got["restored"][2:]) >= len(talks[0])
    assert got["processed"][2:] == [1, 1, 1, 1]
    assert got["freed"] > 0


def test_a_device_that_was_lost_gets_smaller_submits(page: Page, server_url: str, prompts: list[list[int]]) -> None:
    """It may have been lost to one that took too long."""
    run_in_worker(page, COUNT_DISPATCHES)
    page.goto(server_url + "healthz")
    generate = "async (ids) => await engine.generateIds(ids, {maxTokens: 6, temperature: 0, ignoreEos: true})"
    page.evaluate(
        """async () => {
          const { createEngine } = await import("/static/wisp.js");
          window.engine = await createEngine("/models/demo/", {backend: "webgpu-f32", autotune: false});
        }"""
    )
    (worker,) = page.workers
    before = page.evaluate(generate, prompts[-1])
    worker.evaluate("loseDevice()")
    assert page.evaluate(generate, prompts[-1]) == before
    assert page.evaluate("engine.stats().recoveries") == 1
    first, second = worker.evaluate("most")
    assert first > 16 >= second > 0


def test_the_cpu_samples_what_the_gpu_samples(page: Page, server_url: str, prompts: list[list[int]]) -> None:
    """The same tokens for the same seed, on both backends in one browser."""
    page.goto(server_url + "healthz")
    got: dict[str, dict[str, list[int]]] = page.evaluate(
        """async ([ids, samplings]) => {
          const { createEngine } = await import("/static/wisp.js");
          const out = {};
          for (const backend of ["webgpu-f32", "wasm-simd"]) {
            const engine = await createEngine("/models/demo/", {backend});
            out[backend] = {};
            for (const [name, sampling] of Object.entries(samplings))
              out[backend][name] = await engine.generateIds(ids, {maxTokens: 16, ignoreEos: true, ...sampling});
            await engine.dispose();
          }
          return out;
        }""",
        [prompts[1], SAMPLINGS],
    )
    assert got["wasm-simd"] == got["webgpu-f32"]
    answers = [tuple(ids) for ids in got["wasm-simd"].values()]
    assert len(set(answers)) == len(SAMPLINGS), "each way samples something else"


def test_tokens_are_those_of_hugging_faces_tokenizer(page: Page, server_url: str, artifact_demo: Path) -> None:
    page.goto(server_url + "healthz")
    tokenizer = Tokenizer.from_file(str(artifact_demo / "tokenizer.json"))
    messages = [{"role": "user", "content": TEXT}]
    got = page.evaluate(
        """async ([text, messages]) => {
          const { createEngine } = await import("/static/wisp.js");
          const engine = await createEngine("/models/demo/", {contextLength: 64});
          const ids = await engine.tokenize(text);
          const prompt = await engine.applyChatTemplate(messages);
          const error = await engine.chat.completions.create({messages}).catch((e) => e.kind);
          const promptIds = await engine.tokenize(prompt);
          const out = {ids, text: await engine.detokenize(ids), prompt, promptIds, error};
          await engine.dispose();
          return out;
        }""",
        [TEXT, messages],
    )
    assert got["ids"] == tokenizer.encode(TEXT).ids
    assert got["text"] == tokenizer.decode(got["ids"])
    assert got["promptIds"] == tokenizer.encode(got["prompt"]).ids
    assert TEXT.strip() in got["prompt"]
    assert got["error"] == "context-overflow"
