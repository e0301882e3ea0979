"""The smoke test of a compile: what model.json says that the model computes, and models that are refused for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import compiler.runtime.wasmtime
from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.check.smoke import OTHERS, PROMPT_TOKENS, TOP, prompt_ids, summary
from compiler.cli import main
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.runtime.wasmtime import WasmRuntime, open_wasm_variant
from tests.checkpoints import make_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("checkpoint") / "tiny-llama", dtype="bfloat16")


@pytest.fixture(scope="module")
def built(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the CPU's kernels and nothing else."""
    return compiled(llama, tmp_path_factory.mktemp("built") / "out", "wasm-simd")


def compiled(source: Path, output: Path, variant: str, **arguments: Any) -> Path:
    return build(resolve_config(str(source), output=output, variants=[variant], context=64, **arguments))


def smoke_of(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "model.json").read_text())["smoke"]


def stated(smoke: dict[str, Any]) -> dict[int, float]:
    return dict(smoke["top"] + smoke["others"])


def test_the_artifact_says_what_the_cpu_computes(built: Path) -> None:
    smoke = smoke_of(built)
    logits = open_wasm_variant(load_artifact(built), "wasm-simd").logits(smoke["ids"])
    assert smoke["ids"] == [41, 124, 206, 289], "the middles of the quarters of 331"
    assert [token for token, _ in smoke["top"]] == np.argsort(-logits)[:TOP].tolist()
    assert smoke["scale"] == pytest.approx(np.abs(logits).max(), rel=1e-5)
    for token, logit in stated(smoke).items():
        assert logit == pytest.approx(logits[token], rel=1e-5)


def test_without_kernels_of_the_cpu_the_reference_says_the_same(built: Path, llama: Path, tmp_path: Path) -> None:
    cpu, reference = smoke_of(built), smoke_of(compiled(llama, tmp_path / "out", "webgpu-f32"))
    assert reference["ids"] == cpu["ids"]
    assert stated(reference) == pytest.approx(stated(cpu), abs=1e-3 * cpu["scale"])


def test_an_artifact_compiled_again_says_the_same(built: Path, tmp_path: Path) -> None:
    assert smoke_of(compiled(built, tmp_path / "again", "wasm-simd")) == smoke_of(built)


def test_without_weights_there_is_nothing_to_run(llama: Path, tmp_path: Path) -> None:
    output = compiled(llama, tmp_path / "out", "wasm-simd", weights="none")
    assert "smoke" not in json.loads((output / "model.json").read_text())


def test_a_model_larger_than_the_memory_of_webassembly(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = load_artifact(built)
    plan, module = artifact.plans["wasm-simd"], (built / "wasm-simd/kernels.wasm").read_bytes()
    weights = sum(b["bytes"] for b in plan["buffers"] if b["kind"] == "weight")
    others = sum(b["bytes"] for b in plan["buffers"] if b["kind"] != "weight")
    monkeypatch.setattr(compiler.runtime.wasmtime, "LIMIT", others + weights // 2)
    asked: list[str] = []

    def read_rows(name: str, start: int, stop: int) -> bytes:
        asked.append(name)
        return artifact.tensor(name, start, stop).tobytes()

    with pytest.raises(WispError, match="does not fit"):
        WasmRuntime(plan, module, read_rows, artifact.constants())
    runtime = WasmRuntime(plan, module, read_rows, artifact.constants(), positions=PROMPT_TOKENS, resident=False)
    asked.clear()
    smoke = smoke_of(built)
    logits = runtime.logits(smoke["ids"])
    assert stated(smoke) == pytest.approx({token: logits[token] for token in stated(smoke)}, rel=1e-5)
    assert set(asked) == {b["name"] for b in plan["buffers"] if b["kind"] == "weight"}
    assert max(asked.count(name) for name in asked) <= 3, "once for each program, twice where the head is tied"


def test_prompts_of_small_vocabularies_and_contexts() -> None:
    assert prompt_ids(1, 64) == (0, 0, 0, 0)
    assert prompt_ids(128256, 64) == (16032, 48096, 80160, 112224)
    assert prompt_ids(8, 2) == (1, 3)
    few = summary((0,), np.array([1.0, -3.0, 2.0], np.float32))
    assert (few.top, few.others, few.scale) == (((2, 2.0), (0, 1.0), (1, -3.0)), (), 3.0)
    many = summary((0,), np.arange(100, dtype=np.float32))
    assert len(many.top) == TOP
    assert not {token for token, _ in many.top} & {token for token, _ in many.others}
    assert OTHERS - 1 <= len(many.others) <= OTHERS


# -------------------------------------------------------------------------------------------------------------- refused


def edited(source: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a checkpoint with its tensors changed."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(target / "model.safetensors")
    changed = {name: change(name, tensor.float()) for name, tensor in tensors.items()}
    save_file(changed, target / "model.safetensors")
    return target


def explosive(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Finite weights whose products in the second layer are not."""
    scales = {"layers.1.mlp.down_proj": 1e5, "layers.1.mlp": 1e5, "layers.1.post_attention": 2e4}
    return tensor * next((scale for part, scale in scales.items() if part in name), 1.0)


def silent(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor) if name == "model.norm.weight" else tensor


REFUSED = [
    (explosive, r"model\.layers\.1\.mlp\.down_proj reaches"),
    (silent, r"all the same.*model\.norm\.weight is all zero"),
]


@pytest.mark.parametrize("variant", ["wasm-simd", "webgpu-f32"])
@pytest.mark.parametrize(("change", "named"), REFUSED, ids=["overflow", "silence"])
def test_a_model_that_computes_nothing_is_refused(
    llama: Path,
    tmp_path: Path,
    change: Callable[[str, torch.Tensor], torch.Tensor],
    named: str,
    variant: str,
) -> None:
    source = edited(llama, tmp_path / "edited", change)
    with pytest.raises(WispError, match=named) as caught:
        compiled(source, tmp_path / "out", variant)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["edited"]


def test_the_command_line_says_so_in_one_line(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = edited(llama, tmp_path / "edited", silent)
    arguments = ["compile", str(source), "-o", str(tmp_path / "out"), "--context", "64", "--variants", "webgpu-f32"]
    assert main(arguments) == 2
    assert "the compiled model computes nothing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
