"""LoRA adapters: what PEFT merges and what streams through the compiler are the same; what does not fit is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.cli import main
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.sources.lora import Adapter, open_adapter
from compiler.sources.open import open_checkpoint
from compiler.sources.weights import stored_tensors
from compiler.weights.quantize import dequantize
from compiler.weights.schemes import SCHEMES
from tests.checkpoints import make_llama, make_phi3

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

LLAMA_PARTS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PHI3_PARTS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def train(base: Path, directory: Path, **fields: Any) -> tuple[Path, Path]:
    """A random adapter of `base` as PEFT saves it, and the checkpoint that PEFT makes of both."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fields))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    adapter, merged = directory / "adapter", directory / "merged"
    adapted.save_pretrained(adapter)
    adapted.merge_and_unload().save_pretrained(merged)
    return adapter, merged


def check(base: Path, adapter: Path) -> Adapter:
    """Holds an adapter against a checkpoint, as a build does."""
    opened, model = open_adapter(adapter), config_from_huggingface(open_checkpoint(base).config, 64)
    opened.check(weight_specs(model), tied=model.tie_word_embeddings)
    return opened


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama") / "base")


@pytest.fixture(scope="module")
def trained(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter of two projections in each layer, and PEFT's merge."""
    return train(llama, tmp_path_factory.mktemp("trained"), r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])


@pytest.fixture
def copy(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    """An adapter to break."""
    directory = tmp_path / "adapter"
    directory.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (directory / name).write_bytes((trained[0] / name).read_bytes())
    return directory


# ----------------------------------------------------------------------------------------------------- PEFT's own merge

CASES: dict[str, tuple[Callable[..., Path], dict[str, Any], dict[str, Any]]] = {
    "two projections": (make_llama, {}, {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "all, by rank": (
        make_llama,
        {},
        {
            "r": 8,
            "lora_alpha": 16,
            "target_modules": LLAMA_PARTS,
            "rank_pattern": {"layers.0.mlp.up_proj": 3, "k_proj": 2},
            "alpha_pattern": {"^model.layers.1.self_attn.o_proj": 5, "down_proj": 1},
        },
    ),
    "rank-stabilized": (
        make_llama,
        {},
        {
            "r": 16,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": r".*layers\.1\..*(q_proj|gate_proj)",
            "rank_pattern": {"gate_proj": 5},
        },
    ),
    "rank by an expression": (
        make_llama,
        {},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "up_proj"],
            "rank_pattern": {r"model\.layers\.[1-9]+\..*_proj": 2, "up_proj": 3},
        },
    ),
    "embedding and head": (
        make_llama,
        {"tie_word_embeddings": False},
        {"r": 4, "lora_alpha": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    ),
    "fused": (make_phi3, {}, {"r": 4, "lora_alpha": 8, "target_modules": [*PHI3_PARTS, "lm_head"]}),
    "fused, one layer": (
        make_phi3,
        {},
        {
            "r": 6,
            "lora_alpha": 3,
            "use_rslora": True,
            "target_modules": PHI3_PARTS,
            "layers_to_transform": [1],
            "init_lora_weights": "gaussian",
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_merge_is_pefts(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape, fields = CASES[case]
    base = make(tmp_path / "base", **shape)
    adapter_directory, merged_directory = train(base, tmp_path, **fields)
    adapter = check(base, adapter_directory)
    source, merged = open_checkpoint(base), open_checkpoint(merged_directory)
    config = config_from_huggingface(source.config, 64)
    # Blocks that end within a source, so that offsets into B count.
    monkeypatch.setattr("compiler.sources.huggingface.BLOCK_ELEMENTS", 50 * config.hidden_size)
    changed = []
    for spec in weight_specs(config):
        for scheme in (SCHEMES["q0f32"], SCHEMES["q4f16_1"]):
            ours = dict(stored_tensors(source, spec, scheme, adapter))
            theirs = dict(stored_tensors(merged, spec, scheme))
            got, expected = dequantize(spec, ours, scheme), dequantize(spec, theirs, scheme)
            if scheme.group_size == 0 or spec.kind == "vector":
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
                before = dequantize(spec, dict(stored_tensors(source, spec, scheme)), scheme)
                changed += [spec.name] if (got != before).any() else []
                continue
            step = theirs[f"{spec.name}.q_scale"].astype(np.float32).max()
            assert np.abs(got - expected).max() <= 1.001 * step
            assert (np.abs(got - expected) > 1e-3 * step).mean() < 1e-3, "only ties of rounding may differ"
    adapted = [spec.name for spec in weight_specs(config) if any(s in adapter.modules for s in spec.sources)]
    assert changed == adapted


def test_a_build_merges_and_says_so(
    llama: Path, trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--quant", "q0f32", "--context", "32", "--variants", "webgpu-f32", "-o", str(out)]
    assert main(["compile", str(llama), "--lora", str(trained[0]), *options]) == 0
    assert "merged adapter adapter (rank 4, 4 matrices" in capsys.readouterr().err
    artifact = load_artifact(out)
    described = artifact.model["source"]["adapter"]
    assert (described["id"], described["base"], described["rank"], described["alpha"]) == ("adapter", "base", 4, 8)
    assert main(["inspect", str(out)]) == 0
    assert "from base with the adapter adapter" in capsys.readouterr().out
    merged = open_checkpoint(trained[1])
    down = artifact.tensor("model.layers.1.mlp.down_proj.weight")
    np.testing.assert_allclose(down, merged.read("model.layers.1.mlp.down_proj.weight"), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ bad input


def edit_config(**fields: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


DOWN = "base_model.model.model.layers.0.mlp.down_proj"
FOREIGN = "base_model.model.model.layers.7.mlp.down_proj"

BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "DoRA": (edit_config(use_dora=True), "use_dora.*merge_and_unload"),
    "biases": (edit_config(bias="all"), "'bias'"),
    "LoRA bias": (edit_config(lora_bias=True), "lora_bias"),
    "transposed": (edit_config(fan_in_fan_out=True), "fan_in_fan_out"),
    "whole modules": (edit_config(modules_to_save=["lm_head"]), "modules_to_save.*lm_head"),
    "trained tokens": (edit_config(trainable_token_indices=[1]), "trainable_token_indices"),
    "PiSSA": (edit_config(init_lora_weights="pissa_niter_4"), "init_lora_weights.*pissa"),
    "another method": (edit_config(peft_type="IA3"), "peft_type.*IA3.*LORA"),
    "an unknown field": (edit_config(use_something_new=True), "use_something_new"),
    "an unknown field that is off": (edit_config(use_something_new=False), "use_something_new.*remove it"),
    "no rank": (edit_config(r=0), "'r'"),
    "no alpha": (edit_config(lora_alpha="8"), "lora_alpha"),
    "a bad pattern": (edit_config(rank_pattern={"(": 3}), r"rank_pattern.*\("),
    "a pattern that backtracks": (edit_config(alpha_pattern={"((.*)*)*!": 3}), "alpha_pattern cannot be used.*limits"),
    "a bad rank": (edit_config(rank_pattern={"down_proj": -1}), "rank_pattern.*-1"),
    "another rank": (edit_config(r=8), r"down_proj\.lora_A\.weight \[4, 352\] instead of \[8, 352\]"),
    "a target without tensors": (
        edit_config(target_modules=["q_proj", "down_proj", "v_proj"]),
        r"2 missing: model\.layers\.0\.self_attn\.v_proj, model\.layers\.1",
    ),
    "half a pair": (
        edit_tensors(lambda t: t.pop(f"{DOWN}.lora_B.weight")),
        r"1 missing: model\.layers\.0\.mlp\.down_proj\.lora_B",
    ),
    "another shape": (
        edit_tensors(lambda t: t.update({f"{DOWN}.lora_B.weight": torch.zeros(191, 4)})),
        r"lora_B\.weight \[191, 4\] instead of \[192, 4\].*trained on",
    ),
    "no such module": (
        edit_tensors(
            lambda t: t.update(
                {f"{FOREIGN}.lora_{half}.weight": t[f"{DOWN}.lora_{half}.weight"].clone() for half in "AB"}
            )
        ),
        r"1 of no matrix of the network: model\.layers\.7\.mlp\.down_proj",
    ),
    "a magnitude": (
        edit_tensors(lambda t: t.update({f"{DOWN}.lora_magnitude_vector": torch.zeros(192)})),
        r"not LoRA's.*lora_magnitude_vector",
    ),
    "integers": (
        edit_tensors(lambda t: t.update({f"{DOWN}.lora_A.weight": torch.zeros(4, 352, dtype=torch.int8)})),
        "lora_A.weight I8",
    ),
    "no tensors": (edit_tensors(lambda t: t.clear()), "holds no tensors"),
    "a pickle": (
        lambda d: (d / "adapter_model.safetensors").rename(d / "adapter_model.bin"),
        r"adapter_model\.bin.*adapter_model\.safetensors",
    ),
    "half a file": (
        lambda d: (d / "adapter_model.safetensors").write_bytes((d / "adapter_model.safetensors").read_bytes()[:-9]),
        r"adapter_model\.safetensors is damaged",
    ),
    "no configuration": (lambda d: (d / "adapter_config.json").unlink(), "no adapter_config.json"),
    "no JSON": (lambda d: (d / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    "no object": (lambda d: (d / "adapter_config.json").write_text("[]"), "adapter_config.json is not usable"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_plain_lora_or_does_not_fit_is_refused(case: str, llama: Path, copy: Path) -> None:
    damage, message = BAD[case]
    check(llama, copy)
    damage(copy)
    with pytest.raises(WispError, match=message) as error:
        check(llama, copy)
    assert "\n" not in str(error.value)


def test_another_base_is_refused_and_nothing_is_written(copy: Path, tmp_path: Path) -> None:
    other = make_llama(tmp_path / "other", hidden_size=128, num_attention_heads=2)
    with pytest.raises(WispError, match=r"does not fit the checkpoint.*\[4, 192\] instead of \[4, 128\].*trained on"):
        build(resolve_config(str(other), lora=copy, output=tmp_path / "out", context=32, variants=["webgpu-f32"]))
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("stated", "described"),
    [("org/model", "org/model"), ("/home/me/model/", "model"), ("C:\\me\\model", "model"), ("", None), (None, None)],
)
def test_no_path_gets_into_an_artifact(stated: str | None, described: str | None, copy: Path) -> None:
    edit_config(base_model_name_or_path=stated)(copy)
    assert open_adapter(copy).described()["base"] == described


def test_a_tied_head_is_not_adapted_alone(llama: Path, copy: Path) -> None:
    tensors = {"lora_A": torch.zeros(4, 192), "lora_B": torch.zeros(331, 4)}
    save_file(
        {f"base_model.model.lm_head.{half}.weight": t for half, t in tensors.items()},
        copy / "adapter_model.safetensors",
    )
    edit_config(target_modules=["lm_head"])(copy)
    with pytest.raises(WispError, match=r"ties together: got lm_head.*untie"):
        check(llama, copy)


def test_nothing_to_merge_into(llama: Path, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(WispError, match="no weights to merge"):
        resolve_config(str(llama), lora=copy, weights="none")
    with pytest.raises(WispError, match="is not an adapter"):
        open_adapter(tmp_path / "nowhere")
