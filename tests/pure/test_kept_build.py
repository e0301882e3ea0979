"""Compiling what is quantized already: kept from the file to the logits; what is requantized is measured."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

from compiler.artifact.inspect import inspect
from compiler.artifact.writer import Artifact, load_artifact
from compiler.build import build
from compiler.check.inputs import choose_ids
from compiler.check.parity import check
from compiler.cli import main
from compiler.config import resolve_config
from compiler.errors import WispError
from tests.checkpoints import make_llama
from tests.gguf_files import write_blocks

# Every type between them, in every role, alone and in fused matrices.
FILES: dict[str, tuple[Type, dict[str, Type]]] = {
    "k": (
        Type.Q4_K,
        {"token_embd": Type.Q6_K, "attn_v": Type.Q6_K, "0.ffn_down": Type.Q6_K, "0.attn_output": Type.Q5_K,
         "1.attn_output": Type.Q3_K, "1.ffn_gate": Type.Q2_K, "1.ffn_up": Type.Q3_K},
    ),
    "legacy": (
        Type.Q4_0,
        {"token_embd": Type.Q8_0, "0.attn_v": Type.Q4_1, "1.attn_q": Type.Q5_0, "1.attn_k": Type.Q5_1,
         "0.attn_output": Type.IQ4_NL, "1.attn_output": Type.IQ4_XS, "0.ffn_down": Type.Q5_1, "1.ffn_down": Type.F16,
         "1.ffn_gate": Type.Q5_0, "1.ffn_up": Type.Q8_0},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama whose matrices all have whole blocks of 256 columns."""
    path = tmp_path_factory.mktemp("wide") / "original"
    return make_llama(path, hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2)


@pytest.fixture(scope="module")
def files(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("files")
    return {name: write_blocks(wide, directory / f"{name}.gguf", *kinds) for name, kinds in FILES.items()}


@pytest.fixture(scope="module")
def artifacts(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("artifacts")
    return {name: compiled(file, directory / name) for name, file in files.items()}


def compiled(source: Path, output: Path, **options: Any) -> Path:
    return build(resolve_config(str(source), output=output, context=64, variants=["wasm-simd"], **options))


@pytest.mark.parametrize("name", FILES)
def test_the_kernels_compute_what_the_source_says(
    files: dict[str, Path], artifacts: dict[str, Path], name: str
) -> None:
    """Logits of the stored weights are those of a float forward of the source's own values, and the kernels' are."""
    report = check(artifacts[name], str(files[name]), tokens=16)
    assert report["failures"] == []
    assert report["quantization_error"]["max_error"] < 2e-3, "norms and the scales of K types are rounded to 16 bits"
    assert report["quantization_error"]["top1_agreement"] == 1


def test_a_small_kept_model_is_looked_at_for_longer(files: dict[str, Path], artifacts: dict[str, Path]) -> None:
    """As far as its context goes; the kernels for as long as ever."""
    report = check(artifacts["legacy"], str(files["legacy"]))
    assert (report["tokens"], report["evaluated_tokens"]) == (64, 64)
    assert choose_ids(longer(artifacts["legacy"], context=4096), None, None).evaluated == 512
    assert choose_ids(longer(artifacts["legacy"], context=4096, parameters=10**9), None, None).evaluated == 64
    assert choose_ids(longer(artifacts["legacy"], context=4096), 100, None).evaluated == 100


def longer(path: Path, **fields: int) -> Artifact:
    artifact = load_artifact(path)
    return replace(artifact, model={**artifact.model, **fields})


def test_each_matrix_has_its_own_scheme(artifacts: dict[str, Path]) -> None:
    model = load_artifact(artifacts["k"]).model
    assert model["quantization"] == "q4af16_g32"
    assert model["quantization_overrides"] == {"embedding": "q6f16_g16"}
    assert model["schemes"] == {
        "model.embed_tokens": "q6f16_g16",
        "model.layers.0.self_attn.qkv_proj": "q6af16_g16",
        "model.layers.0.self_attn.o_proj": "q5af16_g32",
        "model.layers.0.mlp.down_proj": "q6f16_g16",
        "model.layers.1.self_attn.qkv_proj": "q6af16_g16",
        "model.layers.1.self_attn.o_proj": "q4f16_g16",
        "model.layers.1.mlp.gate_up_proj": "q4af16_g16",
    }
    formats = {"Q2_K": 1, "Q3_K": 2, "Q4_K": 4, "Q5_K": 1, "Q6_K": 4}
    counts = {"exact": 0, "rounded": 9, "requantized": 0, "squared_error": 0.0}
    assert model["source_values"] == {"formats": formats, **counts}
    assert "scales" not in model, "nothing was quantized here"
    legacy = load_artifact(artifacts["legacy"]).model["source_values"]
    assert (legacy["exact"], legacy["rounded"], legacy["requantized"]) == (8, 1, 0), "IQ4_XS has scales of products"


def test_inspect_says_what_is_held_how(artifacts: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    summary = inspect(artifacts["k"])
    assert summary["schemes"]["model.layers.mlp.down_proj"] == {"q6f16_g16": 1, "q4af16_g32": 1}
    assert summary["schemes"]["model.embed_tokens"] == {"q6f16_g16": 1}
    assert summary["bits_per_weight"] == round(8 * summary["weight_bytes"] / summary["parameters"], 3)
    assert main(["inspect", str(artifacts["k"])]) == 0
    text = capsys.readouterr().out
    assert "Q2_K, Q3_K, Q4_K, Q5_K, Q6_K: 9 but for scales rounded to float16" in text
    assert "1 x q6f16_g16, 1 x q4af16_g32" in text


def test_an_artifact_of_kept_values_can_be_compiled_again(artifacts: dict[str, Path], tmp_path: Path) -> None:
    again, first = load_artifact(compiled(artifacts["k"], tmp_path / "again")), load_artifact(artifacts["k"])
    assert again.model["schemes"] == first.model["schemes"]
    assert again.model["source_values"]["exact"] == 9
    for name in first.tensors:
        assert again.tensor(name).tobytes() == first.tensor(name).tobytes(), name


def test_naming_a_scheme_says_what_it_costs(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--context", "64", "--variants", "webgpu-f32", "--scales", "absmax"]
    assert main(["compile", str(files["k"]), "--quant", "q4f16_1", "-o", str(tmp_path / "out"), *options]) == 0
    values = load_artifact(tmp_path / "out").model["source_values"]
    assert (values["exact"], values["rounded"], values["requantized"]) == (0, 0, 9)
    assert 1e-4 < values["squared_error"] < 0.1
    assert f"9 requantized, squared error {values['squared_error']:.2%} of the weights" in capsys.readouterr().err
    # Eight bits without a bias hold Q8_0, Q4_0, Q5_0 and IQ4 as they are, not Q4_1, Q5_1 and floats.
    eight = load_artifact(compiled(files["legacy"], tmp_path / "eight", quantization="q8f16_1", scales="absmax"))
    values = eight.model["source_values"]
    assert (values["exact"], values["rounded"], values["requantized"]) == (4, 1, 4)
    assert values["squared_error"] < 1e-4


def test_calibration_of_kept_values_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Some text.")
    with pytest.raises(WispError, match=r"values are kept.*--calibration with --quant auto.*name a scheme"):
        compiled(files["k"], tmp_path / "out", calibration=tmp_path / "text.txt")


def test_an_adapter_on_kept_values_takes_eight_bits_where_it_changes_them(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["down_proj"]})
    )
    rng = np.random.default_rng(0)
    save_file(
        {
            f"base_model.model.model.layers.{i}.mlp.down_proj.lora_{half}.weight": rng.normal(0, 0.1, shape).astype(
                "f4"
            )
            for i in range(2)
            for half, shape in (("A", (2, 512)), ("B", (256, 2)))
        },
        adapter / "adapter_model.safetensors",
    )
    options = ["--lora", str(adapter), "--scales", "absmax", "--context", "64", "--variants", "wasm-simd"]
    out = tmp_path / "out"
    assert main(["compile", str(files["legacy"]), "-o", str(out), *options]) == 0
    told = capsys.readouterr().err
    # 256 x 512 weights of 6 bits become ones of 8.5.
    assert "; quantized matrices that it changes, 1, are stored in q8f16_1: 40.0 KiB more than before" in told
    assert re.search(r"more than before, squared error \d(\.\d)?e-0[45] of the weights", told)
    model = load_artifact(out).model
    schemes = {name: model["schemes"].get(name, model["quantization"]) for name in (
        "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "model.layers.0.mlp.gate_up_proj",
    )}  # fmt: skip
    assert list(schemes.values()) == ["q8f16_1", "q0f16", "q4af16_g32"], "floats stay floats, others are kept"
    values = model["source_values"]
    assert (values["exact"], values["rounded"], values["requantized"]) == (6, 1, 0), "but those that are new"
    assert check(out, str(files["legacy"]), lora=adapter, tokens=8)["failures"] == []
