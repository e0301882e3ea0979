"""`wisp bench --backend browser`: the figures of a tiny artifact in a real Chromium; what is missing is said."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from compiler import bench_browser
from compiler.bench import bench
from compiler.bench_shapes import SHAPES, RandomModel, byte_tokenizer, random_tensors, write_random_artifact
from compiler.errors import WispError
from tests import chromium
from tests.conftest import unavailable

SMALL = {**SHAPES["llama-tiny"], "hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 96}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = RandomModel("small", SMALL, random_tensors, byte_tokenizer())
    return write_random_artifact(model, tmp_path_factory.mktemp("bench") / "small", variants=["webgpu-f32"])


def test_every_figure_is_there_and_positive(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = chromium.find()
    if path is None:
        unavailable("no Chromium found: run `make setup` or set WISP_CHROMIUM to its path")
    monkeypatch.setenv("WISP_CHROMIUM", str(path))
    report = json.loads(json.dumps(bench(artifact, backend="browser", limit=3.0), allow_nan=False))
    assert (report["backend"], report["variant"]) == ("browser", "webgpu-f32")
    assert all(report["load"][key] > 0 for key in ("cold_s", "warm_s", "compile_s"))
    assert report["time_to_first_token_s"] > 0
    assert [row["tokens"] for row in report["prefill"]] == [32]
    assert [row["context"] for row in report["decode"]] == [32]
    assert all(row["tokens_per_second"] > 0 for row in (*report["prefill"], *report["decode"]))
    counters: dict[str, Any] = report["counters"]
    assert counters["dispatches_per_token"] >= 10
    # One submit a token, or fewer; the CPU gets the token and nothing else.
    assert 0 < counters["submits_per_token"] <= 1.5
    assert 0 < counters["readbacks_per_token"] <= 1
    assert 4 <= counters["bytes_read_back_per_token"] <= 64
    assert report["kernels"] is None


def test_a_missing_playwright_or_browser_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WISP_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(WispError, match=r"no Chromium was found.*WISP_CHROMIUM"):
        bench_browser.find_chromium()
    importing = builtins.__import__

    def without_playwright(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("playwright"):
            raise ImportError(name)
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_playwright)
    with pytest.raises(WispError, match="pip install wisp"), bench_browser.open_page("http://127.0.0.1/"):
        pass
