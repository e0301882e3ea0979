"""Checkpoints of AWQ, GPTQ, compressed-tensors and MLX: their values are kept; what is odd is refused."""

import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.check.parity import check
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.models.base import WeightSpec
from compiler.sources import packed as packed_module
from compiler.sources.mlc.checkpoint import MlcCheckpoint
from compiler.sources.open import open_checkpoint
from compiler.sources.packed import PackedCheckpoint
from compiler.weights.choice import AUTO, choose_scheme
from compiler.weights.quantize import dequantize
from compiler.weights.schemes import ORDERED, SCHEMES
from tests.checkpoints import make_llama
from tests.packed_files import KINDS, Tensors, compressed_config, write


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of float16 whose columns are whole groups of 128, and whose rows are whole words."""
    path = tmp_path_factory.mktemp("floats") / "model"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    return make_llama(path, dtype="float16", head_dim=32, tie_word_embeddings=True, **sizes)


def opened(path: Path) -> tuple[PackedCheckpoint, tuple[WeightSpec, ...]]:
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, PackedCheckpoint)
    model = config_from_huggingface(checkpoint.config, 64)
    specs = weight_specs(model)
    checkpoint.check_weights(specs, tied=model.tie_word_embeddings)
    return checkpoint, specs


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_kept(tmp_path: Path, floats: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are unpacked a few at a time, which do not fill a word of those that hold eight."""
    monkeypatch.setattr(packed_module, "UNPACKED_ELEMENTS", 128 * 13)
    values = write(floats, tmp_path / "model", kind)
    _, _, _, scheme_name, exact = KINDS[kind]
    checkpoint, specs = opened(tmp_path / "model")
    held = {(s.role, s.layer): checkpoint.held(s) for s in specs if s.kind == "matrix"}
    scheme = choose_scheme(AUTO, {}, held)
    assert scheme.name == scheme_name
    for spec in specs:
        expected = np.concatenate([values[source] for source in spec.sources])
        np.testing.assert_allclose(np.concatenate(list(checkpoint.blocks(spec))), expected, rtol=1e-5, atol=1e-7)
        if spec.kind == "vector":
            continue
        found = held[spec.role, spec.layer]
        assert found is not None
        if spec.role == "embedding" and not kind.startswith("mlx"):
            assert (found.scheme.name, found.exact) == ("q0f16", True), "floats stay floats"
            continue
        assert (found.scheme.name, found.exact) == (scheme_name, exact)
        stored = checkpoint.stored(spec, scheme)
        assert stored is not None
        # Only bfloat16 scales are rounded.
        bound = (1e-6 if exact else 2.0**-11) * 2 * np.abs(expected).max()
        np.testing.assert_allclose(dequantize(spec, dict(stored), scheme), expected, rtol=0, atol=bound)
        start = spec.source_rows[0] - 3
        np.testing.assert_allclose(checkpoint.read(spec.sources[0], start, start + 2), expected[start : start + 2],
                                   rtol=1e-5, atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("kind", ["awq-128", "gptq-8", "compressed", "mlx"])
def test_an_artifact_computes_what_the_checkpoint_says(tmp_path: Path, floats: Path, kind: str) -> None:
    write(floats, tmp_path / "model", kind)
    config = resolve_config(str(tmp_path / "model"), output=tmp_path / "out", context=64, variants=["wasm-simd"])
    report = check(build(config), str(tmp_path / "model"), tokens=16)
    assert report["failures"] == []
    assert report["quantization_error"]["max_error"] < 3e-3, "norms and biases are rounded to 16 bits"
    values = load_artifact(tmp_path / "out").model["source_values"]
    assert values["requantized"] == 0
    assert values["exact"] == 9


OF_LAYER = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def strew(path: Path, kind: str, suffix: str, stems: Sequence[str]) -> dict[str, NDArray]:
    """Puts matrices in act-order: the groups of some columns are others now. Returns their values, by stem.

    Matrices of one layer that read the same have one order.
    """
    checkpoint, _ = opened(path)
    group, values, tensors = KINDS[kind][2], dict[str, NDArray](), Tensors()
    for stem in stems:
        rows, columns = checkpoint.tensors[f"{stem}.weight"].shape
        read = stem.rsplit(".", 2)[0] + ("" if "down" in stem or "o_proj" in stem else "both")
        index = np.random.default_rng(zlib.crc32(read.encode())).permutation(np.arange(columns) // group)
        groups = checkpoint._groups(stem, 0, rows)
        bias = 0 if groups.bias is None else groups.bias[:, index]
        values[stem] = groups.q * groups.scale[:, index] + bias
        tensors[f"{stem}.{suffix}"] = index.astype(np.int32)
    changed(path, lambda t: t.update(tensors))
    return values


def test_matrices_in_act_order_are_kept(tmp_path: Path, floats: Path) -> None:
    """All of a layer, fused ones too: columns of a group lie side by side, and the network gathers what they read."""
    write(floats, tmp_path / "model", "gptq")
    stems = [f"model.layers.1.{name}" for name in OF_LAYER]
    values = strew(tmp_path / "model", "gptq", "g_idx", stems)
    again, specs = opened(tmp_path / "model")
    config = resolve_config(str(tmp_path / "model"), output=tmp_path / "out", context=64, variants=["wasm-simd"])
    artifact = load_artifact(build(config))
    matrices = [spec for spec in specs if spec.layer == 1 and spec.kind == "matrix"]
    assert len(matrices) == 4
    for spec in matrices:
        expected = np.concatenate([values[source.removesuffix(".weight")] for source in spec.sources])
        np.testing.assert_allclose(np.concatenate(list(again.blocks(spec))), expected, rtol=1e-5, atol=1e-7)
        stored = {name: artifact.tensor(name) for name in artifact.tensors if name.startswith(f"{spec.name}.")}
        assert f"{spec.name}.q_order" in stored
        np.testing.assert_allclose(dequantize(spec, stored, ORDERED["q4zf16_g64_act"]), expected, rtol=1e-6, atol=1e-8)
    found = artifact.model["source_values"]
    assert (found["requantized"], found["rounded"]) == (0, 0)
    assert found["formats"]["GPTQ in act-order"] == 4
    report = check(tmp_path / "out", str(tmp_path / "model"), tokens=16)
    assert report["failures"] == []
    assert report["quantization_error"]["max_error"] < 3e-3
    # An artifact is a source as well.
    source = open_checkpoint(tmp_path / "out")
    assert isinstance(source, MlcCheckpoint)
    source.check_weights(specs, tied=True)
    for spec in specs:
        taken = source.stored(spec, source.scheme)
        assert taken is not None
        assert all(np.array_equal(tensor, artifact.tensor(name)) for name, tensor in taken)


def test_a_symmetric_matrix_in_act_order_is_kept(tmp_path: Path, floats: Path) -> None:
    """Its one zero point is every group's."""
    write(floats, tmp_path / "model", "compressed")
    values = strew(tmp_path / "model", "compressed", "weight_g_idx", [DOWN])
    checkpoint, specs = opened(tmp_path / "model")
    (down,) = (spec for spec in specs if spec.sources == (f"{DOWN}.weight",))
    held = checkpoint.held(down)
    assert held is not None
    assert (held.scheme.name, held.exact) == ("q4zf16_g128_act", True)
    stored = checkpoint.stored(down, held.scheme)
    assert stored is not None
    np.testing.assert_allclose(dequantize(down, dict(stored), held.scheme), values[DOWN], rtol=1e-6, atol=1e-8)


def test_an_order_that_makes_no_groups_is_refused_by_name(tmp_path: Path, floats: Path) -> None:
    """Parts of a fused matrix in orders of their own, and groups of other sizes; a named scheme quantizes again."""
    write(floats, tmp_path / "model", "gptq")
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    up = "model.layers.0.mlp.up_proj"
    values = strew(tmp_path / "model", "gptq", "g_idx", [up])
    changed(tmp_path / "other", lambda t: t[f"{DOWN}.g_idx"].__setitem__(0, 1))
    for model, named in (("model", rf"gate_up_proj.*gate_proj, {up} in act-order"), ("other", r"layers\.1\.mlp\.down")):
        with pytest.raises(WispError, match=rf"the columns of .*{named}.*--quant q8f16_1"):
            build(resolve_config(str(tmp_path / model), output=tmp_path / "out", context=64, variants=["wasm-simd"]))
    config = resolve_config(str(tmp_path / "model"), quantization="q8f16_1", output=tmp_path / "out", context=64)
    artifact = load_artifact(build(replace(config, variants=("wasm-simd",))))
    assert artifact.model["source_values"]["requantized"] > 0
    _, specs = opened(tmp_path / "model")
    (spec,) = (spec for spec in specs if f"{up}.weight" in spec.sources)
    stored = {name: artifact.tensor(name) for name in artifact.tensors if name.startswith(f"{spec.name}.")}
    found = dequantize(spec, stored, SCHEMES["q8f16_1"])[spec.source_rows[0] :]
    assert np.square(found - values[up]).sum() < 1e-4 * np.square(values[up]).sum()


def test_zero_biases_of_a_network_without_any_say_nothing(tmp_path: Path, floats: Path) -> None:
    write(floats, tmp_path / "model", "gptq")
    changed(tmp_path / "model", lambda t: t.update({f"{DOWN}.bias": np.zeros(128, np.float16)}))
    opened(tmp_path / "model")
    changed(tmp_path / "model", lambda t: t.update({f"{DOWN}.bias": np.full(128, 1e-3, np.float16)}))
    with pytest.raises(WispError, match=rf"unexpected: {DOWN}\.bias"):
        opened(tmp_path / "model")


# ------------------------------------------------------------------------------------------------------------- refusals


def changed(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def keep(path: Path) -> None:
    """What a compilation does: opens, checks, and takes every matrix as it is held."""
    checkpoint, specs = opened(path)
    for spec in specs:
        held = checkpoint.held(spec)
        if held is not None:
            checkpoint.stored(spec, held.scheme)


DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        (
            "awq",
            lambda t: t.update({f"{DOWN}.qzeros": t[f"{DOWN}.qzeros"][:-1]}),
            r"qzeros I32 \[7, 16\] instead of I32 \[8",
        ),
        ("awq", lambda t: t.pop(f"{DOWN}.qzeros"), rf"no {DOWN}\.qzeros"),
        ("gptq", lambda t: t.update({f"{DOWN}.qzeros": t[f"{DOWN}.qzeros"][:, :-1].copy()}), r"qzeros I32 \[4, 15\]"),
        ("gptq", lambda t: t.update({f"{DOWN}.scales": t[f"{DOWN}.scales"][:, :-8].copy()}), r"scales F16 \[4, 120\]"),
        (
            "gptq",
            lambda t: t.update({f"{DOWN}.qweight": t[f"{DOWN}.qweight"][:-8]}),
            r"qzeros I32 .4, 16. instead",
        ),
        ("gptq", lambda t: t[f"{DOWN}.scales"].__setitem__((0, 0), np.nan), rf"'{DOWN}' holds NaN.*{DOWN}\.scales"),
        (
            "gptq",
            lambda t: t[f"{DOWN}.g_idx"].__setitem__(5, 4),
            rf"column of {DOWN} .*0 to 4.*256 numbers from 0 to 3",
        ),
        ("gptq", lambda t: t[f"{DOWN}.g_idx"].__setitem__(5, -1), rf"column of {DOWN} .*-1 to 3"),
        ("gptq", lambda t: t.update({f"{DOWN}.g_idx": np.zeros(255, np.int32)}), r"shape \[255\]"),
        ("gptq", lambda t: t.update({f"{DOWN}.g_idx": np.zeros(0, np.int32)}), r"shape \[0\]"),
        ("gptq-v2", lambda t: t.pop(f"{DOWN}.g_idx"), r"no g_idx.*order of their activations"),
        ("compressed", lambda t: t[f"{DOWN}.weight_shape"].__setitem__(1, 250), r"shape of .*down_proj.*250"),
        ("compressed", lambda t: t.update({f"{DOWN}.weight_g_idx": np.full(256, 2, np.int32)}), r"2 to 2.*from 0 to 1"),
        ("compressed-8", lambda t: t.pop(f"{DOWN}.weight_zero_point"), r"no .*down_proj\.weight_zero_point"),
        ("mlx", lambda t: t.update({f"{DOWN}.biases": t[f"{DOWN}.biases"][:, :-1].copy()}), r"biases F16 \[128, 3\]"),
        ("mlx", lambda t: t[f"{DOWN}.biases"].__setitem__((3, 1), np.inf), r"holds NaN or infinity"),
        ("mlx", lambda t: t.pop("model.norm.weight"), r"missing: model\.norm\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, floats: Path, kind: str, change: Callable[[Tensors], object], named: str
) -> None:
    write(floats, tmp_path / "model", kind)
    changed(tmp_path / "model", change)
    with pytest.raises(WispError, match=named):
        keep(tmp_path / "model")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"quant_method": "awq", "bits": 3, "group_size": 128}, r"field 'bits'.*got 3.*expected 4"),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 48},
            r"field 'group_size'.*got 48.*expected 32, 64, 128 or -1",
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}, r"'version'.*gemv.*gemm"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": False}, r"'zero_point'"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, r"field 'bits'.*got 3.*expected 4 or 8"),
        ({"quant_method": "gptq", "bits": 4}, r"field 'group_size'.*got nothing"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}, r"marlin.*gptq_v2"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "is_marlin_format": True}, r"'is_marlin_format'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"x": {}}}, r"'dynamic' is not supported"),
        (compressed_config(num_bits=3), r"weights field 'num_bits'.*got 3"),
        (compressed_config(type="float"), r"weights field 'type'.*float"),
        (compressed_config(strategy="tensor"), r"weights field 'strategy'.*tensor"),
        ({**compressed_config(), "format": "float-quantized"}, r"'format'.*float-quantized.*pack-quantized"),
        ({**compressed_config(), "kv_cache_scheme": {"num_bits": 8}}, r"'kv_cache_scheme'"),
        ({"quant_method": "compressed-tensors"}, r"'config_groups'.*one group"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, r"'fp8': 8-bit floats.*compile the bfloat16"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"'bitsandbytes': codebooks.*compile the bfloat16"),
        ({"quant_method": "exl2", "bits": 4.5}, r"'exl2'.*ExLlamaV2"),
        ({"quant_method": "hoax"}, r"quantized in a way that is not supported.*got 'hoax'"),
        ({"bits": 4}, r"quantized in a way that is not supported"),
        (["awq"], r"quantized in a way that is not supported"),
    ],
)
def test_a_format_that_is_not_supported_is_refused_by_name(
    tmp_path: Path, floats: Path, fields: Any, named: str
) -> None:
    shutil.copytree(floats, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "quantization_config": fields}))
    with pytest.raises(WispError, match=named):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"group_size": 64, "bits": 3}, r"quantization field 'bits'.*got 3"),
        ({"group_size": 16, "bits": 4}, r"quantization field 'group_size'.*got 16"),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, r"'mode'.*mxfp4.*affine"),
        ({"group_size": 64, "bits": 4, "model.layers.0.mlp.up_proj": {"bits": 8}}, r"'model.layers.0.mlp.up_proj'"),
    ],
)
def test_mlx_with_other_numbers_is_refused(tmp_path: Path, floats: Path, fields: Any, named: str) -> None:
    shutil.copytree(floats, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "quantization": fields}))
    with pytest.raises(WispError, match=named):
        open_checkpoint(tmp_path / "model")


def test_a_configuration_without_packed_tensors_is_refused(tmp_path: Path, floats: Path) -> None:
    shutil.copytree(floats, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    fields = KINDS["awq"][1]
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(WispError, match=r"holds no matrix in AWQ.*NAME\.qweight"):
        opened(tmp_path / "model")
