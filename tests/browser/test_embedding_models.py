"""Embedding models in Chromium, on WebGPU and on the CPU, by the engine and by OpenAI's API, and what the page says."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from compiler.build import build
from compiler.config import resolve_config
from tests.browser.conftest import serving
from tests.checkpoints import reference_embedding, reference_model, text_ids
from tests.embeddings import BOUND, TEXTS, checkpoint

DIMENSIONS = 40
RUN = """async ([backend, texts, dimensions]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/embeds/", { backend });
  const ask = async (body) => {
    const init = { method: "POST", body: JSON.stringify(body) };
    const made = await engine.fetch("https://api.openai.com/v1/embeddings", init);
    return { status: made.status, ...(await made.json()) };
  };
  const whole = await engine.embed(texts);
  const openai = await ask({ model: "embeds", input: texts, encoding_format: "base64", dimensions });
  const messages = [{ role: "user", content: "hi" }];
  const chat = await engine.chat.completions.create({ messages }).catch(({ message }) => message);
  const long = await engine.embed("a b ".repeat(1000)).catch(({ kind }) => kind);
  const after = await engine.embed(texts[0]);
  const { info } = engine;
  await engine.dispose();
  return { whole: whole.map((v) => [...v]), openai, chat, long, after: [...after[0]], info };
}"""


@pytest.fixture(scope="module", params=["lasttoken", "mean_tokens"])
def embeds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, str]]:
    """Address, checkpoint and pooling of a served model; with sums for the mean its weights are floats."""
    root = tmp_path_factory.mktemp("embeds")
    pooling: str = request.param
    source = checkpoint(root, pooling)
    config = resolve_config(
        str(source),
        output=root / "artifacts" / "embeds",
        identifier="embeds",
        quantization="q8f16_1" if pooling == "lasttoken" else "q0f32",
        context=192,
        variants=["webgpu-f32", "wasm-simd"],
        scales="absmax",
    )
    build(config)
    with serving(root / "artifacts") as address:
        yield address, source, pooling


@pytest.mark.parametrize("backend", ["webgpu-f32", "wasm-simd"])
def test_embeddings_are_those_of_transformers(page: Page, embeds: tuple[str, Path, str], backend: str) -> None:
    address, source, pooling = embeds
    page.goto(address.rstrip("/") + "/healthz")
    got: dict[str, Any] = page.evaluate(RUN, [backend, list(TEXTS), DIMENSIONS])
    model = reference_model(source, "q8f16_1" if pooling == "lasttoken" else "q0f32")
    ids = [text_ids(source, text) for text in TEXTS]
    wants = [reference_embedding(model, each, pooling) for each in ids]
    assert (got["info"]["variant"], got["info"]["task"]) == (backend, "embedding")
    for vector, want, entry in zip(got["whole"], wants, got["openai"]["data"], strict=True):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert 1 - np.dot(vector, want) < BOUND
        short = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
        assert 1 - short @ want[:DIMENSIONS] / np.linalg.norm(want[:DIMENSIONS]) < BOUND
        assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
    assert got["openai"]["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert "is for models that generate text" in got["chat"]
    assert got["long"] == "context-overflow"
    assert 1 - np.dot(got["after"], got["whole"][0]) < 1e-5


def test_the_page_offers_no_chat_with_it(page: Page, embeds: tuple[str, Path, str]) -> None:
    address, _, _ = embeds
    page.goto(address)
    expect(page.get_by_test_id("embeds-embeds")).to_contain_text("is not offered for chat")
    expect(page.get_by_role("button", name="Load")).to_be_disabled()
