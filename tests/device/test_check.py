"""`wisp check` on small random checkpoints: passes on what was compiled from them, fails on what was not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.check.parity import BOUNDS, check, exit_status, print_report
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.sources import weights as source_weights
from compiler.target.variants import VARIANTS
from compiler.weights import quantize
from tests.checkpoints import make_family, make_llama, make_phi3
from tests.conftest import ROOT
from tests.device.harness import Gpu

FIGURES = {"max_error", "mean_error", "kl_mean", "kl_max", "top1_agreement", "top1_breaks"}


def compiled(checkpoint: Path, output: Path, **options: Any) -> Path:
    named = {"quantization": "q4f16_1", **options}  # whose weights can be compared bit for bit
    return build(resolve_config(str(checkpoint), output=output, identifier="small", context=96, **named))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def artifact(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(llama, tmp_path_factory.mktemp("out") / "small")


@pytest.fixture(scope="module")
def report(gpu: Gpu, llama: Path, artifact: Path) -> dict[str, Any]:
    return check(artifact, str(llama), tokens=24)


def test_an_artifact_passes_against_its_checkpoint(report: dict[str, Any]) -> None:
    assert report["passed"]
    assert report["failures"] == []
    assert exit_status(report) == 0
    assert report["weights"]["differing"] == []
    assert [v["name"] for v in report["variants"]] == list(VARIANTS)
    status = {variant["name"]: variant["status"] for variant in report["variants"]}
    assert status["webgpu-f32"] == status["wasm-simd"] == "passed", "every adapter can, and every machine"
    for variant in report["variants"]:
        if variant["status"] == "skipped":
            assert variant["reason"]
            continue
        assert variant["bound"] == BOUNDS["float16"], "that of its KV cache"
        assert 0 < variant["max_error"] < variant["bound"]
        assert set(variant["prefill_max_error"]) == {"9", "17", "24", "65"}


def test_the_report_is_json_with_every_figure(report: dict[str, Any]) -> None:
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["tokens"] == 24
    assert again["text"] == "built-in"
    assert again["quantization"] == "q4f16_1"
    assert set(again["quantization_error"]) == FIGURES
    assert again["quantization_error"]["max_error"] > BOUNDS["float16"]
    assert set(again["perplexity"]) == {"source", "stored"}
    for variant in again["variants"]:
        if variant["status"] != "skipped":
            assert variant.keys() >= FIGURES | {"bound", "perplexity", "against_source", "failures"}
            assert variant["perplexity"] == pytest.approx(again["perplexity"]["stored"], rel=0.05)


def test_the_table_names_every_variant(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report)
    text = capsys.readouterr().out
    assert all(variant["name"] in text and variant["status"] in text for variant in report["variants"])


def test_phi3_and_unquantized_weights_pass(gpu: Gpu, tmp_path: Path) -> None:
    checkpoint = make_phi3(tmp_path / "phi3")
    output = compiled(checkpoint, tmp_path / "small", quantization="q0f32", variants=["webgpu-f32"])
    report = check(output, str(checkpoint), tokens=20)
    assert report["passed"], report["failures"]
    assert report["quantization_error"]["max_error"] == 0.0


@pytest.mark.parametrize("family", ["mistral", "phi", "qwen3"])
def test_other_families_pass(gpu: Gpu, family: str, tmp_path: Path) -> None:
    checkpoint = make_family(family, tmp_path / "checkpoint")
    output = compiled(checkpoint, tmp_path / "small", variants=["webgpu-f32"])
    report = check(output, str(checkpoint), tokens=32)
    assert report["passed"], report["failures"]


def test_weights_of_another_seed_fail(gpu: Gpu, artifact: Path, tmp_path: Path) -> None:
    other = make_llama(tmp_path, seed=1)
    report = check(artifact, str(other), tokens=8, variants=["webgpu-f32"])
    assert not report["passed"]
    assert "stored tensors are not those of the checkpoint" in report["failures"][0]
    assert "model.embed_tokens.q_weight" in report["weights"]["differing"]
    # The kernels compute what is stored all the same.
    assert report["variants"][0]["status"] == "passed"


def test_one_altered_scale_fails(gpu: Gpu, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard whose checksums are right but whose content is not what the checkpoint says."""

    def altered(spec: Any, *arguments: Any) -> list[tuple[str, Any]]:
        tensors = quantize.quantize(spec, *arguments)
        if spec.role == "down" and spec.layer == 1:
            _, scales = tensors[1]
            scales[3, 2] = np.float16(float(scales[3, 2]) * 1.01)
        return tensors

    with monkeypatch.context() as patch:
        patch.setattr(source_weights, "quantize", altered)
        output = compiled(llama, tmp_path / "small", variants=["webgpu-f32"])
    report = check(output, str(llama), tokens=8)
    assert report["weights"]["differing"] == ["model.layers.1.mlp.down_proj.q_scale"]
    assert exit_status(report) == 1


def test_quantized_weights_as_the_reference_cost_nothing(gpu: Gpu, artifact: Path) -> None:
    report = check(artifact, str(artifact), tokens=8, variants=["webgpu-f32"])
    assert report["passed"], report["failures"]
    assert report["quantization_error"]["max_error"] == 0.0


def test_a_merged_adapter_is_part_of_the_reference(gpu: Gpu, llama: Path, tmp_path: Path) -> None:
    adapter, rng = tmp_path / "adapter", np.random.default_rng(0)
    adapter.mkdir()
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["o_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    stem = "base_model.model.model.layers.{}.self_attn.o_proj.lora_{}.weight"
    shapes = {"A": (2, 192), "B": (192, 2)}
    tensors = {
        stem.format(layer, half): rng.normal(0, 0.3, shape).astype(np.float32)
        for layer in (0, 1)
        for half, shape in shapes.items()
    }
    save_file(tensors, adapter / "adapter_model.safetensors")
    output = compiled(llama, tmp_path / "small", variants=["webgpu-f32"], lora=adapter)
    report = check(output, str(llama), tokens=8, lora=adapter)
    assert report["passed"], report["failures"]
    differing = check(output, str(llama), tokens=8)["weights"]["differing"]
    assert differing == [
        f"model.layers.{i}.self_attn.o_proj.{part}" for i in (0, 1) for part in ("q_weight", "q_scale")
    ]


def test_a_wrong_kernel_fails_by_its_bound(gpu: Gpu, llama: Path, artifact: Path, tmp_path: Path) -> None:
    """The rotary table of another base: the weights agree, the arithmetic does not."""
    other = make_llama(tmp_path / "other", rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
    report = check(artifact, str(other), tokens=16, variants=["webgpu-f32"])
    assert report["weights"]["differing"] == []
    assert report["variants"][0]["status"] == "failed"
    assert any("logit error" in failure for failure in report["failures"])


def test_the_command_says_failed_and_leaves_with_status_1(gpu: Gpu, artifact: Path, tmp_path: Path) -> None:
    other = make_llama(tmp_path, seed=2)
    command = [sys.executable, "-m", "compiler.cli", "check", str(artifact), "--reference", str(other)]
    done = subprocess.run(
        [*command, "--tokens", "4", "--variants", "webgpu-f32", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "FAILED: bound" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["passed"] is False


def test_a_text_of_ones_own(gpu: Gpu, llama: Path, artifact: Path, tmp_path: Path) -> None:
    text = tmp_path / "poem.txt"
    text.write_text("the wind and the water")
    report = check(artifact, str(llama), text=text, variants=["webgpu-f32"])
    assert report["text"] == "poem.txt"
    assert 2 <= report["tokens"] < 24


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"num_hidden_layers": 1}, "num_hidden_layers 2"), ({"vocab_size": 340}, "vocab_size 331")],
)
def test_another_network_is_refused(artifact: Path, tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    other = make_llama(tmp_path, **overrides)
    with pytest.raises(WispError, match=message):
        check(artifact, str(other))


def test_bad_input_is_refused(llama: Path, artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(WispError, match="no such variant"):
        check(artifact, str(llama), variants=["webgpu-f64"])
    with pytest.raises(WispError, match=r"cannot be read.*nothing\.txt"):
        check(artifact, str(llama), text=tmp_path / "nothing.txt")
    with pytest.raises(WispError, match="too little to compare"):
        check(artifact, str(llama), tokens=1)
    bare = compiled(llama, tmp_path / "small", weights="none", variants=["webgpu-f32"])
    assert load_artifact(bare).model["weights"] is None
    with pytest.raises(WispError, match="holds no weights"):
        check(bare, str(llama))
