"""`wisp bench` in a browser: the figures of a tiny artifact in a real Chromium; what is missing is said."""

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compiler.artifact.writer import load_artifact
from compiler.bench import browser as bench_browser
from compiler.bench.shapes import SHAPES, RandomModel, byte_tokenizer, random_tensors, write_random_artifact
from compiler.errors import WispError
from tests import chromium
from tests.conftest import ROOT, unavailable
from tests.lowering import builds_lower_once

SMALL = {**SHAPES["llama-tiny"], "hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 96}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = RandomModel("small", SMALL, random_tensors, byte_tokenizer())
    output = tmp_path_factory.mktemp("bench") / "small"
    with builds_lower_once(alternatives=True):
        return write_random_artifact(model, output, variants=["webgpu-f32", "wasm-simd"])


def measure(artifact: Path, *options: str) -> dict[str, Any]:
    """The JSON of `wisp bench`, in a process of its own: one process runs one Playwright, and the tests have it."""
    path = chromium.find()
    if path is None:
        unavailable("no Chromium found: run `make setup` or set WISP_CHROMIUM to its path")
    command = [sys.executable, "-m", "compiler.cli", "bench", str(artifact), "--limit", "2", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "WISP_CHROMIUM": str(path)}, stdout=subprocess.PIPE)
    assert done.returncode == 0
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def report(artifact: Path) -> dict[str, Any]:
    return measure(artifact, "--backend", "browser")


def test_every_figure_is_there_and_positive(report: dict[str, Any]) -> None:
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
    assert report["threads"] is None
    assert report["load"]["compile_warm_s"] > 0
    assert report["bandwidth"]["bytes_per_second"] >= report["bandwidth"]["read_bytes_per_second"] > 1e7
    assert report["multiply_adds"]["f32_per_second"] > 1e7
    assert all(0 < row["multiply_add_share"] < 1 for row in report["prefill"])
    assert all(0 < row["bandwidth_share"] < 1 for row in report["decode"])


def test_kernels_are_timed_where_the_adapter_can(report: dict[str, Any], artifact: Path) -> None:
    if report["kernels"] is None:
        assert any("timestamp-query" in reason for reason in report["skipped"])
        return
    plan = load_artifact(artifact).plans["webgpu-f32"]
    assert set(report["kernels"]) == {"decode", f"prefill_{max(plan['prefill_chunks'])}"}
    for program, figures in report["kernels"].items():
        assert sum(row["dispatches"] for row in figures["kernels"]) == len(plan["programs"][program])
        assert figures["seconds"] == pytest.approx(sum(row["seconds"] for row in figures["kernels"]))
        assert figures["seconds"] > 0


def test_whole_programs_are_timed_with_their_alternatives(report: dict[str, Any], artifact: Path) -> None:
    if report["kernels"] is None:
        assert report["steps"] is report["sampling"] is None
        return
    plan = load_artifact(artifact).plans["webgpu-f32"]
    prefill = f"prefill_{max(plan['prefill_chunks'])}"
    found = {(row["program"], row["alternative"]) for row in report["steps"]}
    assert {("decode", name) for name in ("own", "narrow", "wide")} <= found
    assert {(prefill, name) for name in ("own", "narrow", "packed")} <= found
    assert all(row["seconds"] > 0 for row in report["steps"])
    assert all(report["sampling"][name] > 0 for name in ("greedy", "top_p", "top_k_top_p"))


def test_the_cpu_is_measured_with_the_threads_asked_for(artifact: Path) -> None:
    report = measure(artifact, "--backend", "wasm", "--threads", "2")
    assert (report["backend"], report["variant"], report["threads"]) == ("wasm", "wasm-simd", 2)
    assert "CPU" in report["adapter"]
    assert [row["tokens"] for row in report["prefill"]] == [32]
    assert all(row["tokens_per_second"] > 0 for row in (*report["prefill"], *report["decode"]))
    assert all(row["multiply_add_share"] is None for row in report["prefill"])
    assert all(row["bandwidth_share"] is None for row in report["decode"])
    assert all(report[key] is None for key in ("bandwidth", "multiply_adds", "kernels", "steps", "sampling"))
    assert report["skipped"] == ["kernels, bandwidth and multiply-adds: only on WebGPU"]


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
    with pytest.raises(WispError, match=r"pip install 'wisp\[bench\]'"), bench_browser.open_page("http://127.0.0.1/"):
        pass
