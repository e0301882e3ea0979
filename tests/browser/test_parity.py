"""The engine in real browsers against transformers: logits, greedy tokens, greedy text, and what a token costs.

The reference runs in float32 on the weights that the scheme stands for. One checkpoint a family; the
embedded model too.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page
from transformers import AutoTokenizer

from compiler.build import build
from compiler.config import resolve_config
from tests.browser.conftest import serving
from tests.browser.drivers import VARIANTS as BROWSERS
from tests.browser.drivers import Tab
from tests.checkpoints import (
    FAMILIES,
    RENAMED,
    enlarge,
    make_family,
    make_llama,
    make_phi3,
    model_logits,
    reference_model,
)
from tests.conftest import ROOT

TOLERANCE = 1e-3  # of the largest logit
CONTEXT, CHUNKS = 192, (32, 8)  # those of the tests on a device, which have lowered most of these networks
STEPS = 64
CHECKPOINTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "llama": (make_llama, "q8f16_1"),
    "phi3": (make_phi3, "q0f32"),
    # Those of another name alone have the kernels of what they are by it.
    **{name: (functools.partial(make_family, name), "q4f16_1") for name in FAMILIES if name not in RENAMED},
    # The embedded model with activations that pass what 16 bits hold.
    "large": (lambda path: enlarge(Path(shutil.copytree(ROOT / "configs" / "demo", path)), "mlp"), "q4f16_1"),
}
GPU_VARIANTS = ("webgpu-f32-sg", "webgpu-f32")
VARIANTS = (*GPU_VARIANTS, "wasm-simd")
# Dispatches: of a decode step a layer and around them, of a prefill chunk likewise.
DISPATCHES = {"webgpu": (6, 5, 9, 6), "wasm": (10, 6, 9, 0)}
# What `test_a_family_in_chromium` does not reach: other engines, other shader compilers, subgroups of 4.
ELSEWHERE = [
    ("chromium", "llama", "webgpu-f32-sg"),
    ("chromium", "phi3", "webgpu-f32"),
    *(
        (browser, name, variant)
        for browser in ("firefox", "webkit")
        for name in ("llama", "phi3")
        for variant in BROWSERS[browser]
    ),
]
MEASURE = """async ([model, backend, prompts, start, steps]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine(`/models/${model}/`, { backend });
  try {
    const logits = [];
    for (const ids of prompts) logits.push(Array.from(await engine.logits(ids)));
    const before = await engine.stats();
    const tokens = await engine.generateIds(start, { maxTokens: steps, temperature: 0, ignoreEos: true });
    const after = await engine.stats();
    return { variant: engine.info.variant, logits, tokens, before, after };
  } finally {
    await engine.dispose();
  }
}"""
CHAT = """async ([model, backend, questions]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine(`/models/${model}/`, { backend });
  const answer = async (messages) => {
    const made = await engine.chat.completions.create({ messages, temperature: 0, max_tokens: 48 });
    return made.choices[0].message.content;
  };
  try {
    const messages = [], continued = [], fresh = [];
    for (const content of questions) {
      messages.push({ role: "user", content });
      continued.push(await answer(messages));
      messages.push({ role: "assistant", content: continued.at(-1) });
    }
    for (let i = 0; i < questions.length; i++) {
      await engine.logits([1]);  // leaves nothing of the conversation to reuse
      fresh.push(await answer(messages.slice(0, 2 * i + 1)));
    }
    return { continued, fresh, stats: await engine.stats() };
  } finally {
    await engine.dispose();
  }
}"""


@pytest.fixture(scope="session")
def browser(quick_browser: Browser) -> Browser:
    return quick_browser


def gpu_variant(name: str) -> str:
    """What a family runs as on Chromium's GPU: families take turns."""
    return GPU_VARIANTS[list(CHECKPOINTS).index(name) % 2]


class Artifacts:
    """Checkpoints in a directory and their artifacts in its `artifacts/`, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def checkpoint(self, name: str) -> Path:
        """The checkpoint, compiled for the variants that run somewhere."""
        path, output = self._root / name, self._root / "artifacts" / name
        if not path.exists():
            make, scheme = CHECKPOINTS[name]
            elsewhere = [variant for _, other, variant in ELSEWHERE if other == name]
            options: dict[str, Any] = {
                "quantization": scheme,
                "context": CONTEXT,
                "variants": [v for v in VARIANTS if v in (gpu_variant(name), "wasm-simd", *elsewhere)],
                "scales": "absmax",  # the rule that `reference_model` rounds by
            }
            config = resolve_config(str(make(path)), output=output, identifier=name, **options)
            build(replace(config, prefill_chunks=CHUNKS))
        return path


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(tmp_path_factory.getbasetemp() / "parity")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.getbasetemp() / "parity" / "artifacts"
    root.mkdir(parents=True)
    with serving(root) as address:
        yield address


@pytest.fixture
def bare_page(webgpu_adapter: dict[str, Any], browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def error(got: list[float], want: np.ndarray) -> float:
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("backend", ["webgpu", "wasm"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_family_in_chromium_is_transformers(
    name: str, backend: str, artifacts: Artifacts, url: str, bare_page: Page
) -> None:
    """Logits after prompts of several lengths, then 64 greedy steps, each the reference's first choice."""
    variant = "wasm-simd" if backend == "wasm" else gpu_variant(name)
    model = reference_model(artifacts.checkpoint(name), CHECKPOINTS[name][1])
    ids = np.random.default_rng(7).integers(3, 300, 90).tolist()
    want = model_logits(model, ids)
    bare_page.goto(url + "healthz")
    lengths = (1, 2, 33, 90)
    got = bare_page.evaluate(MEASURE, [name, variant, [ids[:n] for n in lengths], ids[:20], STEPS])
    assert got["variant"] == variant
    for length, logits in zip(lengths, got["logits"], strict=True):
        assert error(logits, want[length - 1]) < TOLERANCE, length
    _assert_first_choices(model, ids[:20], got["tokens"])


def _assert_first_choices(model: Any, prompt: list[int], tokens: list[int]) -> None:
    """Each token is the reference's first choice after those before it, or as good within the tolerance."""
    assert len(tokens) == STEPS
    logits = model_logits(model, prompt + tokens[:-1])[len(prompt) - 1 :]
    lost = logits.max(axis=1) - logits[np.arange(STEPS), tokens]
    assert (lost <= 2 * TOLERANCE * np.abs(logits).max(axis=1)).all()
    assert (lost == 0).sum() >= STEPS - 1


@pytest.mark.parametrize(("tab", "name", "variant"), ELSEWHERE, indirect=["tab"])
def test_llama_and_phi3_in_other_browsers_are_transformers(
    tab: Tab, name: str, variant: str, artifacts: Artifacts, url: str
) -> None:
    """Logits after one token and after several chunks, then greedy steps."""
    model = reference_model(artifacts.checkpoint(name), CHECKPOINTS[name][1])
    ids = np.random.default_rng(7).integers(3, 300, 90).tolist()
    want = model_logits(model, ids)
    tab.goto(url + "healthz")
    got = tab.evaluate(MEASURE, [name, variant, [ids[:1], ids], ids[:20], STEPS])
    assert got["variant"] == variant
    for length, logits in zip((1, len(ids)), got["logits"], strict=True):
        assert error(logits, want[length - 1]) < TOLERANCE, length
    _assert_first_choices(model, ids[:20], got["tokens"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_embedded_model_in_chromium_is_transformers(variant: str, server_url: str, bare_page: Page) -> None:
    """Logits and 64 greedy steps; and a token costs no bind group, no more than a submit, no readback of logits."""
    source = ROOT / "configs" / "demo"
    model = reference_model(source, "q4f16_1")
    ids = np.random.default_rng(8).integers(3, 1000, 150).tolist()
    bare_page.goto(server_url + "healthz")
    got = bare_page.evaluate(MEASURE, ["demo", variant, [ids], ids[:20], STEPS])
    assert error(got["logits"][0], model_logits(model, ids)[-1]) < TOLERANCE
    _assert_first_choices(model, ids[:20], got["tokens"])
    spent = {key: got["after"][key] - got["before"][key] for key in got["after"]}
    layers = model.config.num_hidden_layers
    steps = spent["decodeSteps"]
    assert STEPS <= steps <= STEPS + 8  # a few may be in flight when the last is read
    assert spent["bindGroupsCreated"] == 0
    # One a step and the prompt's chunks; on a slow device both go in parts, of many dispatches each.
    assert spent["submits"] <= max(steps + 4, spent["dispatches"] / 4)
    assert spent["bytesReadBack"] <= 8 * steps
    assert spent["bytesUploaded"] <= 16 * steps + 4096  # the prompt
    each, around, chunk_each, chunk_around = DISPATCHES[variant.split("-")[0]]
    assert spent["dispatches"] <= steps * (each * layers + around) + 2 * (chunk_each * layers + chunk_around)


@pytest.mark.parametrize("backend", ["webgpu-f32-sg", "wasm-simd"])
def test_greedy_text_in_chromium_is_that_of_transformers(backend: str, server_url: str, bare_page: Page) -> None:
    """A conversation: each answer equals transformers' and that of an engine which reuses nothing."""
    source = ROOT / "configs" / "demo"
    model, tokenizer = reference_model(source, "q4f16_1"), AutoTokenizer.from_pretrained(source)
    questions = ["Hello!", "My name is Ada.", "What is 12 + 30?", "What is my name?", "Ein Café in 東京? 🙂"]
    bare_page.goto(server_url + "healthz")
    got = bare_page.evaluate(CHAT, ["demo", backend, questions])
    messages: list[dict[str, str]] = []
    for question, answer in zip(questions, got["continued"], strict=True):
        messages.append({"role": "user", "content": question})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made = model.generate(ids, max_new_tokens=48, do_sample=False, repetition_penalty=1.0)
        assert answer == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        messages.append({"role": "assistant", "content": answer})
    assert got["fresh"] == got["continued"]
    assert got["stats"]["reusedTokens"] > 0
