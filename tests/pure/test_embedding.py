"""Embedding models: from sentence-transformers' files to what the CPU computes, and what refuses them."""

from __future__ import annotations

import json
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf.constants import PoolingType
from numpy.typing import NDArray

from compiler.artifact.inspect import inspect, print_summary
from compiler.artifact.writer import load_artifact
from compiler.bench.run import bench
from compiler.build import build
from compiler.chat.model import load_model
from compiler.check.parity import check, print_report
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.kernels import reference
from compiler.kernels.cpu.builder import CpuKernel
from compiler.kernels.pool import pool
from compiler.models import config_from_huggingface
from compiler.runtime.wasmtime import open_wasm_variant
from compiler.serving.catalogue import Catalogue
from compiler.site.hub import model_card
from compiler.sources.open import open_checkpoint
from tests.checkpoints import make_family, make_llama
from tests.cpu_kernels import Modules
from tests.embeddings import BOUND, CASES, checkpoint, furthest
from tests.gguf_files import write_gguf

SHAPES = [(chunk, k, adds) for chunk, k in ((1, 72), (8, 64)) for adds in (False, True)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedding")


def compiled(directory: Path, pooling: str, scheme: str) -> Path:
    output = directory / "artifacts" / f"{pooling}-{scheme}"
    if not output.exists():
        source = str(checkpoint(directory, pooling))
        config = resolve_config(
            source, output=output, quantization=scheme, context=192, variants=["wasm-simd"], scales="absmax"
        )
        build(config)
    return output


@pytest.mark.parametrize(("chunk", "k", "adds"), SHAPES)
def test_rows_are_pooled_as_the_twin_pools_them(chunk: int, k: int, adds: bool) -> None:
    rng = np.random.default_rng(k)
    modules = Modules({"pool": pool("pool", chunk, k, adds, 64, CpuKernel)})
    rows = chunk - chunk // 3
    for position in (0, 7):
        state = np.zeros(64, np.uint32)
        state[0], state[2] = position, rows
        x, before = rng.normal(size=(chunk, k)).astype(np.float32), rng.normal(size=k).astype(np.float32)
        arrays: dict[str, NDArray[Any]] = {"x": x.ravel(), "state": state, "out": before}
        got = modules.run("pool", arrays)
        want = reference.pool(x[:rows], before if adds and position else None)
        np.testing.assert_allclose(got["out"], want, rtol=1e-5, atol=1e-6)
        assert modules.same_in_pieces("pool", arrays, got)


@pytest.mark.parametrize(("pooling", "scheme"), CASES)
def test_the_cpu_gives_the_embeddings_of_transformers(directory: Path, pooling: str, scheme: str) -> None:
    artifact = load_artifact(compiled(directory, pooling, scheme))
    session = open_wasm_variant(artifact, "wasm-simd")
    assert furthest(checkpoint(directory, pooling), pooling, scheme, session) < BOUND


def test_an_artifact_says_that_it_embeds(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = compiled(directory, "mean_tokens", "q0f32")
    artifact = load_artifact(path)
    assert artifact.model["embedding"] == {"pooling": "mean"}
    assert artifact.model["chat_template"] is None
    plan = artifact.plans["wasm-simd"]
    assert list(plan["programs"]) == ["decode", *(f"prefill_{chunk}" for chunk in plan["prefill_chunks"])]
    assert {buffer["name"] for buffer in plan["buffers"] if buffer["kind"] == "io"} == {"input_ids", "embedding"}
    summary = inspect(path)
    assert summary["task"] == "embedding"
    print_summary(summary)
    assert "task         embedding" in capsys.readouterr().out
    assert [model["task"] for model in Catalogue([path]).read().models] == ["embedding"]
    assert "feature-extraction" in model_card(artifact.model, None)


def test_a_check_compares_directions(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = compiled(directory, "lasttoken", "q8f16_1")
    report = check(path, str(checkpoint(directory, "lasttoken")), tokens=24)
    assert report["passed"], report["failures"]
    (variant,) = report["variants"]
    assert 0 <= variant["max_error"] < BOUND
    assert 0 < report["quantization_error"]["max_error"] < 0.01
    print_report(report)
    assert "1 - cosine" in capsys.readouterr().out
    assert "1 - cosine" in model_card(load_artifact(path).model, report)


def test_another_pooling_is_another_checkpoint(directory: Path) -> None:
    with pytest.raises(WispError, match="pooling last, expected pooling mean"):
        check(compiled(directory, "lasttoken", "q8f16_1"), str(checkpoint(directory, "mean_tokens")))


def test_an_artifact_is_compiled_again_as_what_it_is(directory: Path, tmp_path: Path) -> None:
    path = compiled(directory, "lasttoken", "q8f16_1")
    again = build(resolve_config(str(path), output=tmp_path / "again", context=64, variants=["wasm-simd"]))
    assert load_artifact(again).model["embedding"] == {"pooling": "last"}


def test_what_generates_refuses_it(directory: Path) -> None:
    path = compiled(directory, "lasttoken", "q8f16_1")
    with pytest.raises(WispError, match="wisp chat is for models that generate text"):
        load_model(path)
    with pytest.raises(WispError, match="wisp bench is for models that generate text"):
        bench(path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", {}, "modules.json is not usable"),
        ("modules.json", [], "got no modules"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer"}, {"type": "a.Dense"}], "Dense"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "got pooling_mode_cls_token"),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True}, "mean_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True, "include_prompt": False}, "include_prompt"),
    ],
)
def test_what_no_kernel_stands_for_is_refused(tmp_path: Path, file: str, content: object, message: str) -> None:
    source = checkpoint(tmp_path, "lasttoken")
    (source / file).write_text(json.dumps(content))
    with pytest.raises(WispError, match=message):
        build(resolve_config(str(source), output=tmp_path / "out", variants=["wasm-simd"]))


def test_a_decoder_with_the_files_beside_it_embeds_too(tmp_path: Path) -> None:
    """A head of its own is left out, and tensors have the names of a decoder's."""
    source = make_llama(tmp_path / "llama", tie_word_embeddings=False)
    beside = checkpoint(tmp_path, "lasttoken")
    for file in ("modules.json", "1_Pooling"):
        (beside / file).rename(source / file)
    path = build(resolve_config(str(source), output=tmp_path / "out", context=64, variants=["wasm-simd"]))
    artifact = load_artifact(path)
    assert not [name for name in artifact.tensors if name.startswith("lm_head")]


def test_a_gguf_file_says_how_it_pools(tmp_path: Path) -> None:
    source = make_family("qwen3", tmp_path / "qwen3", tie_word_embeddings=True)
    for kind, pooling in ((PoolingType.LAST, "last"), (PoolingType.MEAN, "mean")):
        file = tmp_path / f"{pooling}.gguf"
        write_gguf(source, file, metadata=methodcaller("add_pooling_type", kind))
        assert config_from_huggingface(open_checkpoint(file).config, 64).pooling == pooling
    file = tmp_path / "cls.gguf"
    write_gguf(source, file, metadata=lambda writer: writer.add_pooling_type(PoolingType.CLS))
    with pytest.raises(WispError, match=r"pooling_type.*1 \(mean\) or 3 \(last\)"):
        open_checkpoint(file)
