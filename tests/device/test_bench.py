"""`wisp bench` on a tiny artifact of random weights: every figure is there, positive, and about what was asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from compiler.artifact.writer import load_artifact
from compiler.bench import device as bench_device
from compiler.bench import native as bench_native
from compiler.bench import shapes as bench_shapes
from compiler.bench.report import print_report
from compiler.bench.run import bench
from compiler.bench.shapes import SHAPES, STOP_TOKEN, byte_tokenizer, random_tensors, shape_artifact
from compiler.commands.bench import choose_artifact
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.progress import Silent
from compiler.runtime.wgpu import NativeRuntime, open_variant
from compiler.target.variants import VARIANTS
from compiler.weights.quantize import dequantize, parameter_layout
from compiler.weights.schemes import SCHEMES
from tests.device.harness import Gpu
from tests.lowering import builds_lower_once

SMALL = {**SHAPES["llama-tiny"], "hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 96}
COUNTERS = {
    "dispatches_per_token",
    "submits_per_token",
    "readbacks_per_token",
    "bytes_uploaded_per_token",
    "bytes_read_back_per_token",
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = bench_shapes.RandomModel("small", SMALL, random_tensors, byte_tokenizer())
    output = tmp_path_factory.mktemp("bench") / "small"
    with builds_lower_once(alternatives=True):
        return bench_shapes.write_random_artifact(model, output, variants=["webgpu-f32"])


@pytest.fixture(scope="module")
def runtime(gpu: Gpu, artifact: Path) -> NativeRuntime:
    return open_variant(load_artifact(artifact), "webgpu-f32", gpu.adapter)


@pytest.fixture(scope="module")
def report(gpu: Gpu, artifact: Path) -> dict[str, Any]:
    return bench(artifact, limit=2.0)


def test_every_figure_is_there_and_positive(report: dict[str, Any]) -> None:
    again = json.loads(json.dumps(report, allow_nan=False))
    assert (again["artifact"], again["backend"], again["variant"]) == ("small", "native", "webgpu-f32")
    assert again["load"]["warm_s"] > 0
    assert again["load"]["compile_s"] > 0
    assert again["time_to_first_token_s"] > 0
    assert [row["tokens"] for row in again["prefill"]] == [32]
    assert [row["context"] for row in again["decode"]] == [32]
    for row in (*again["prefill"], *again["decode"]):
        assert row["tokens_per_second"] > 0
        assert row["runs"] >= 1
    assert set(again["counters"]) == COUNTERS
    assert all(value > 0 for value in again["counters"].values())
    assert again["bandwidth"]["bytes_per_second"] >= again["bandwidth"]["read_bytes_per_second"] > 1e7
    assert again["multiply_adds"]["f32_per_second"] > 1e7
    assert all(0 < row["multiply_add_share"] < 1 for row in again["prefill"])
    assert all(0 < row["bandwidth_share"] < 1 for row in again["decode"])
    assert again["machine"]["cpus"] >= 1


def test_kernels_have_times_and_bytes(gpu: Gpu, report: dict[str, Any], artifact: Path) -> None:
    if report["kernels"] is None:
        assert any("timestamp-query" in reason for reason in report["skipped"])
        return
    plan = load_artifact(artifact).plans["webgpu-f32"]
    assert set(report["kernels"]) == {"decode", f"prefill_{max(plan['prefill_chunks'])}"}
    for program, figures in report["kernels"].items():
        rows = figures["kernels"]
        assert sum(row["dispatches"] for row in rows) == len(plan["programs"][program])
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert sum(row["seconds"] for row in rows) == pytest.approx(figures["seconds"])
        assert figures["seconds"] > 0


def test_whole_programs_have_device_times_with_every_alternative(report: dict[str, Any], artifact: Path) -> None:
    if report["kernels"] is None:
        assert report["steps"] is report["sampling"] is None
        return
    plan = load_artifact(artifact).plans["webgpu-f32"]
    entrants = {("own", program) for program in plan["programs"] if program.startswith(("decode", "prefill"))}
    entrants |= {(other["name"], program) for other in plan["alternatives"] for program in other["programs"]}
    assert {(row["alternative"], row["program"]) for row in report["steps"]} == entrants
    assert all(row["seconds"] > 0 for row in report["steps"])
    assert set(report["sampling"]) == {"greedy", "top_p", "top_k_top_p"}
    assert all(seconds > 0 for seconds in report["sampling"].values())


def test_attention_reads_what_its_window_leaves(artifact: Path) -> None:
    plan = load_artifact(artifact).plans["webgpu-f32"]
    layers = SMALL["num_hidden_layers"]
    row = sum(buffer["bytes_per_position"] for buffer in plan["buffers"] if buffer["kind"] == "kv") // layers
    whole, windowed = (sum(bench_native.dispatch_bytes(plan, "decode", 50, 1, seen)) for seen in ((), (None, 16)))
    assert whole - windowed == (51 - 16) * row


def test_decode_moves_every_weight_once(artifact: Path) -> None:
    loaded = load_artifact(artifact)
    plan = loaded.plans["webgpu-f32"]
    moved = sum(bench_native.dispatch_bytes(plan, "decode", 10, 1))
    row = sum(buffer["bytes_per_position"] for buffer in plan["buffers"] if buffer["kind"] == "kv")
    logits = 4 * plan["vocab_size"]
    # The tied embedding is read once by the vocabulary projection, and one row of it by the embedding.
    expected = loaded.model["weight_bytes"] + 12 * row + logits
    assert expected <= moved <= expected + 4 * logits


def test_the_tables_name_every_kernel(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report)
    text = capsys.readouterr().out
    assert "tok/s" in text
    for figures in (report["kernels"] or {}).values():
        assert all(row["kernel"] in text for row in figures["kernels"])


def test_what_takes_too_long_is_left_out_with_the_reason(runtime: NativeRuntime) -> None:
    skipped: list[str] = []
    bench_native.decode_figures(runtime, 1e-9, skipped)
    assert skipped == ["decode at 32: a step takes more than 1e-09 s"]


def test_multiply_adds_of_halves_are_measured_where_there_are_any(gpu: Gpu) -> None:
    rates = bench_device.measure_device(gpu.adapter)["multiply_adds"]
    assert (rates["f16_per_second"] is not None) == gpu.f16
    assert all(rate > 1e7 for rate in rates.values() if rate is not None)


def test_a_loop_that_did_not_run_is_not_a_rate(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_device, "ROUNDS", 1)
    with pytest.raises(RuntimeError, match="the loop of multiply-adds of f32 ends at"):
        bench_device.measure_multiply_adds(gpu.device, "f32", 16)


def test_wrong_outputs_are_not_timed(runtime: NativeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = np.zeros(runtime.plan["vocab_size"], np.float32)
    monkeypatch.setattr(runtime, "logits", lambda ids: zeros)
    with pytest.raises(RuntimeError, match="not to be trusted"):
        bench_native.bench_native(runtime, 1.0)


def test_a_slow_run_is_measured_once() -> None:
    times = iter([0.3, 0.1, 0.2])
    assert bench_native.measure(lambda: next(times), 0.0) == bench_native.Timing(0.3, 1)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", ["llama-tiny", "phi-3-mini"])
def test_random_weights_are_valid_and_of_order_one(shape: str, scheme: str) -> None:
    model = config_from_huggingface(SHAPES[shape], 64)
    spec = next(s for s in weight_specs(model) if s.role == "attention_output" and s.layer == 0)
    tensors = dict(random_tensors(spec, SCHEMES[scheme]))
    described = {name: (np.dtype(dtype), shape) for name, dtype, shape in parameter_layout(spec, SCHEMES[scheme])}
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == described
    values = dequantize(spec, tensors, SCHEMES[scheme])
    assert values.std() * spec.shape[1] ** 0.5 == pytest.approx(1, rel=0.05)
    assert abs(values.mean()) * spec.shape[1] ** 0.5 < 0.06, (
        "half a step, where there is one more below zero than above"
    )


def test_the_byte_tokenizer_keeps_any_text() -> None:
    tokenizer = Tokenizer.from_str(byte_tokenizer().decode())
    text = "naïve café\n光 🙂  \t"
    encoded = tokenizer.encode(text)
    assert len(encoded.ids) == len(text.encode())
    assert tokenizer.decode(encoded.ids) == text
    assert tokenizer.token_to_id("</s>") == STOP_TOKEN


def test_a_shape_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(SHAPES, "llama-tiny", SMALL)
    first = shape_artifact("llama-tiny")
    made = (first / "model.json").stat().st_mtime_ns
    assert shape_artifact("llama-tiny") == first
    assert (first / "model.json").stat().st_mtime_ns == made
    assert set(load_artifact(first).plans) == set(VARIANTS)


def test_bad_input_is_refused(artifact: Path) -> None:
    with pytest.raises(WispError, match="there is no such shape"):
        choose_artifact(None, "llama-9000b", None, Silent())
    with pytest.raises(WispError, match="say what to measure"):
        choose_artifact(None, None, None, Silent())
    with pytest.raises(WispError, match="say what to measure"):
        choose_artifact(artifact, "llama-tiny", None, Silent())
    with pytest.raises(WispError, match="no such variant"):
        bench(artifact, variant="webgpu-f16")
    with pytest.raises(WispError, match="--quant is for --shape"):
        choose_artifact(artifact, None, "q8f16_1", Silent())
