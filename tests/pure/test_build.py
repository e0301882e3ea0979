"""The pipeline on tiny checkpoints: what lands in the artifact, and what is refused before anything is written."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import compiler.build
from compiler.artifact.inspect import summarize
from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.config import BuildConfig, resolve_config
from compiler.errors import WispError
from compiler.incremental import build_if_stale
from compiler.kernels.webgpu.tuning import ALTERNATIVES
from compiler.models import config_from_huggingface, weight_specs
from compiler.sources.open import open_checkpoint
from compiler.target.variants import VARIANTS
from compiler.weights.quantize import dequantize
from compiler.weights.schemes import SCHEMES
from tests.checkpoints import CHAT_TEMPLATE, make_llama, make_phi3
from tests.lowering import builds_lower_once

RECIPES = Path(__file__).resolve().parent.parent.parent / "configs"
VARIANT = ["webgpu-f32"]  # one is enough where kernels do not matter


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("checkpoint") / "tiny-llama", dtype="bfloat16")


@pytest.fixture(scope="module")
def built(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In MLC's scheme, which is named; as a user builds it, with alternatives."""
    output = tmp_path_factory.mktemp("built") / "out"
    with builds_lower_once(alternatives=True):
        return build(resolve_config(str(llama), output=output, quantization="q4f16_1"))


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    directory = tmp_path / "copy"
    directory.mkdir()
    for file in llama.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def config_of(source: Path, output: Path, **arguments: Any) -> BuildConfig:
    return resolve_config(str(source), output=output, variants=VARIANT, context=64, **arguments)


def test_the_manifest(built: Path, llama: Path) -> None:
    model = json.loads((built / "model.json").read_text())
    assert (model["id"], model["format_version"]) == ("tiny-llama", 1)
    assert model["source"] == {"kind": "directory", "id": "tiny-llama", "revision": None}
    assert model["architecture"]["model_type"] == "llama"
    assert (model["context"], model["quantization"]) == (512, "q4f16_1")
    assert (model["bos_token_id"], model["stop_token_ids"]) == (1, [2, 6])
    assert model["chat_template"] == CHAT_TEMPLATE
    assert model["tokenizer"] == ["tokenizer.json", "tokenizer_config.json"]
    assert (built / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    assert [v["name"] for v in model["variants"]] == list(VARIANTS)
    assert {f"webgpu-f32/{a.name}.wgsl" for a in ALTERNATIVES["webgpu-f32"]} <= set(model["files"])
    parameters = sum(math.prod(info.shape) for info in open_checkpoint(llama).tensors.values())
    assert model["parameters"] == parameters, "a tied head once"
    assert str(llama.parent) not in (built / "model.json").read_text(), "no path of this machine"


def test_the_artifact_is_valid_and_holds_the_weights(built: Path, llama: Path) -> None:
    artifact, checkpoint = load_artifact(built), open_checkpoint(llama)
    scheme = SCHEMES["q4f16_1"]
    for spec in weight_specs(config_from_huggingface(checkpoint.config, 512)):
        stored = {name: artifact.tensor(name) for name in artifact.tensors if name.startswith(spec.name)}
        original = np.concatenate([checkpoint.read(source) for source in spec.sources])
        error = np.abs(dequantize(spec, stored, scheme) - original)
        assert error.max() <= np.abs(original).max() / 7 * 2  # a searched scale may clip by up to two steps
        assert np.square(error).mean() <= 0.015 * np.square(original).mean()


def test_what_mlc_reads(built: Path) -> None:
    config = json.loads((built / "mlc-chat-config.json").read_text())
    assert (config["model_type"], config["quantization"]) == ("llama", "q4f16_1")
    assert config["model_config"]["num_key_value_heads"] == 1
    assert config["model_config"]["position_embedding_base"] == 10000.0
    assert config["eos_token_id"] == [2, 6]


def test_the_summary(built: Path) -> None:
    summary = summarize(load_artifact(built))
    assert summary["id"] == "tiny-llama"
    assert summary["kv_bytes_per_token"] == 2 * 2 * 64 * 2, "layers x (key, value) x heads x float16"
    assert set(summary["variants"]["webgpu-f32"]) >= {
        "dispatches_per_token",
        "prefill_dispatches",
        "activation_bytes",
        "required_features",
        "required_limits",
    }


@pytest.mark.parametrize("scheme", ["q4f16_1", "q8f16_1", "q0f16", "q0f32", "q4af16_g16", "q8af16_g128"])
def test_every_scheme_and_a_head_of_its_own(tmp_path: Path, scheme: str) -> None:
    source = make_phi3(tmp_path / "phi")
    artifact = load_artifact(build(config_of(source, tmp_path / "out", quantization=scheme)))
    assert any(name.startswith("lm_head") for name in artifact.tensors)
    assert artifact.model["weight_bytes"] == sum(part.bytes for t in artifact.tensors.values() for part in t.parts)


def test_a_build_is_reproducible(llama: Path, tmp_path: Path) -> None:
    one, two = (build(config_of(llama, tmp_path / name)) for name in ("one", "two"))
    assert (one / "model.json").read_bytes() == (two / "model.json").read_bytes()


def test_without_weights_a_recipe_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    recipe = RECIPES / "llama-3.2-1b-instruct.toml"
    output = build(config_of(recipe, tmp_path / "out", weights="none"))
    artifact = load_artifact(output)
    assert artifact.model["weights"] is None
    assert artifact.tensors == {}
    assert artifact.model["stop_token_ids"] == [128001, 128008, 128009]
    assert not list(output.glob("*shard*"))
    assert not summarize(artifact)["has_weights"]


def test_a_recipe_has_to_describe_its_checkpoint(llama: Path, tmp_path: Path) -> None:
    fields = json.loads((llama / "config.json").read_text())
    table = "\n".join(
        f"{key} = {json.dumps(value)}" for key, value in fields.items() if isinstance(value, int | float | str | bool)
    )
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'source = "{llama}"\n[architecture]\n{table}\n')
    build(config_of(recipe, tmp_path / "out"))
    recipe.write_text(recipe.read_text().replace("intermediate_size = 352", "intermediate_size = 360"))
    with pytest.raises(WispError, match=r"intermediate_size 360.*intermediate_size 352"):
        build(config_of(recipe, tmp_path / "out"))


def test_dump_writes_every_stage(llama: Path, tmp_path: Path) -> None:
    build(config_of(llama, tmp_path / "out", dump=tmp_path / "dump"))
    names = sorted(file.name for file in (tmp_path / "dump" / "webgpu-f32").iterdir())
    assert names[0].startswith("00_")
    assert any(name.endswith("plan.json") for name in names)
    assert any(name.endswith("kernels.wgsl") for name in names)


# -------------------------------------------------------------------------------------------------------------- refused


def set_nan(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][5, 7] = math.nan
    save_file(tensors, directory / "model.safetensors")


def drop_norm(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors | {"more": torch.zeros(1)}, directory / "model.safetensors")


def edit(directory: Path, name: str, **fields: Any) -> None:
    value = json.loads((directory / name).read_text())
    (directory / name).write_text(json.dumps(value | fields))


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("architecture", lambda d: edit(d, "config.json", model_type="mamba"), "the architecture 'mamba' is not supported"),
    ("field", lambda d: edit(d, "config.json", hidden_act="gelu"), "hidden_act"),
    ("tensors", drop_norm, r"1 missing: model\.norm\.weight; 1 unexpected: more"),
    ("truncated", lambda d: (d / "model.safetensors").write_bytes(b"\x10" * 64), r"model\.safetensors is damaged"),
    ("NaN", set_nan, r"mlp\.down_proj' holds NaN"),
    ("tokenizer", lambda d: (d / "tokenizer.json").unlink(), r"no tokenizer\.json"),
    ("vocabulary", lambda d: edit(d, "tokenizer.json", added_tokens=[{"id": 331, "content": "<x>"}]), "'<x>'"),
    ("end token", lambda d: edit(d, "generation_config.json", eos_token_id=331), "id 331"),
    ("sampling", lambda d: edit(d, "generation_config.json", top_p=3), "top_p"),
]


@pytest.mark.parametrize(("damage", "named"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_and_nothing_is_written(
    copy: Path, tmp_path: Path, damage: Callable[[Path], object], named: str
) -> None:
    damage(copy)
    with pytest.raises(WispError, match=named) as caught:
        build(config_of(copy, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_context_that_does_not_fit_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(WispError, match="--context 512"):
        build(resolve_config(str(llama), output=tmp_path / "out", context=513))


def test_a_disk_without_room_is_refused_early(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(WispError, match=r"no room.*1000 bytes free"):
        build(config_of(llama, tmp_path / "out"))


# ------------------------------------------------------------------------------------------------------ only when stale


def test_a_second_build_does_nothing_until_something_changes(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[BuildConfig] = []

    def counted(config: BuildConfig, report: object = None) -> Path:
        calls.append(config)
        return build(config)

    monkeypatch.setattr(compiler.build, "build", counted)
    config = config_of(copy, tmp_path / "out")
    build_if_stale(config)
    build_if_stale(config)
    assert len(calls) == 1
    edit(copy, "generation_config.json", temperature=0.5)
    build_if_stale(config)
    assert len(calls) == 2
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text("{}")
    build_if_stale(config)
    assert len(calls) == 3, "files that lie deeper count"
    (config.output / "model.json").unlink()
    for file in (path for path in config.output.rglob("*") if path.is_file()):
        file.unlink()
    for directory in config.output.iterdir():
        directory.rmdir()
    build_if_stale(config)
    build_if_stale(config)
    assert len(calls) == 4
    assert load_artifact(config.output).model["generation"]["temperature"] == 0.5
