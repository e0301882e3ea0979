"""GGUF files as checkpoints: the numbers, names, rows and quantized tensors of the checkpoint they were made from."""

import json
import math
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from compiler.build import build
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.models.base import ModelConfig, WeightSpec
from compiler.sources import huggingface as checkpoint_module
from compiler.sources.gguf import GgufCheckpoint
from compiler.sources.open import open_checkpoint
from compiler.sources.protocol import Checkpoint
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.schemes import SCHEMES
from tests.checkpoints import FAMILIES, make_family, make_llama, make_phi3
from tests.ggml_blocks import BLOCKS
from tests.gguf_files import random_blocks, write_gguf

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
# Decimals that float32 does not hold, as in Phi-3's config.json.
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [round(1.08 + 1.37 * i, 2) for i in range(48)],
    "short_factor": [round(1.0 + 0.05 * i, 2) for i in range(48)],
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
# Families that are not read from GGUF.
WITHOUT_GGUF = (
    "stablelm",
    "stablelm-parallel",
    "exaone",
    "internlm2",
    "ministral3",
)
# Where GGUF says less than config.json: what llama.cpp knows by the architecture.
SAID: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3": {
        "num_hidden_layers": 6,
        "layer_types": None,
        "query_pre_attn_scalar": 40,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
        },
    },
    "smollm3": {"num_hidden_layers": 4, "no_rope_layers": None},
}
CHECKPOINTS: dict[str, Any] = {
    "llama": lambda path: make_llama(path),
    "llama-untied": lambda path: make_llama(
        path, num_attention_heads=4, num_key_value_heads=2, hidden_size=256, tie_word_embeddings=False
    ),
    "llama3-rope": lambda path: make_llama(path, rope_parameters=LLAMA3_ROPE),
    "llama-linear": lambda path: make_llama(
        path, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}
    ),
    "llama-yarn": lambda path: make_llama(path, rope_parameters=YARN),
    "llama-yarn-attn-factor": lambda path: make_llama(path, rope_parameters=YARN | {"attn_factor": 0.875}),
    "phi3": lambda path: make_phi3(path),
    "phi3-longrope": lambda path: make_phi3(path, rope_parameters=LONGROPE, max_position_embeddings=4096),
    "phi3-partial": lambda path: make_phi3(
        path, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
    ),
    **{
        name: lambda path, name=name: make_family(name, path, **SAID.get(name, {}))
        for name in FAMILIES
        if name not in WITHOUT_GGUF
    },
}


def weights(checkpoint: Checkpoint, spec: WeightSpec) -> np.ndarray:
    return np.concatenate(list(checkpoint.blocks(spec)))


def model_of(checkpoint: Checkpoint, context: int = 256) -> ModelConfig:
    return config_from_huggingface(checkpoint.config, context)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_gguf_file_is_the_checkpoint_it_was_made_from(tmp_path: Path, name: str) -> None:
    original = open_checkpoint(CHECKPOINTS[name](tmp_path / "original"))
    ours = open_checkpoint(write_gguf(tmp_path / "original", tmp_path / "model.gguf", Type.F32))
    for context in (256, 512):
        assert model_of(ours, context) == model_of(original, context)
    specs = weight_specs(model_of(ours))
    ours.check_weights(specs, tied=model_of(ours).tie_word_embeddings)
    for spec in specs:
        theirs = weights(original, spec)
        np.testing.assert_array_equal(weights(ours, spec), theirs, err_msg=spec.name)
        for scheme in (SCHEMES["q4f16_1"], SCHEMES["q0f32"]):
            expected = quantize(spec, theirs, scheme)
            found = quantize(spec, ours.blocks(spec), scheme, ours.source_scales(spec))
            for (key, array), (other, stored) in zip(expected, found, strict=True):
                assert key == other
                assert array.tobytes() == stored.tobytes(), key
    assert ours.bos_token_id == original.bos_token_id
    assert set(original.stop_token_ids) == set(ours.stop_token_ids)
    assert ours.chat_template == original.chat_template
    assert (ours.source.kind, ours.source.id, ours.source.revision) == ("gguf", "model.gguf", None)


@pytest.mark.parametrize(("dtype", "kind"), [("float16", Type.F16), ("bfloat16", Type.BF16)])
def test_half_precision_is_kept(tmp_path: Path, dtype: str, kind: Type) -> None:
    original = open_checkpoint(make_llama(tmp_path / "original", dtype=dtype))
    ours = open_checkpoint(write_gguf(tmp_path / "original", tmp_path / "model.gguf", kind))
    for spec in weight_specs(model_of(ours)):
        np.testing.assert_array_equal(weights(ours, spec), weights(original, spec))


def test_recommended_sampling_is_read(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_float32("general.sampling.temp", 0.6)
        writer.add_int32("general.sampling.top_k", 20)

    make_llama(tmp_path / "original")
    ours = open_checkpoint(write_gguf(tmp_path / "original", tmp_path / "model.gguf", metadata=add))
    assert ours.generation_config == {"temperature": 0.6, "top_k": 20}


def test_a_fused_phi_2_is_taken_apart(tmp_path: Path) -> None:
    """Files of before 2024 hold queries, keys and values in one tensor."""
    make_family("phi", tmp_path / "original", num_key_value_heads=4)
    file = write_gguf(tmp_path / "original", tmp_path / "model.gguf", Type.F32)
    plain = open_checkpoint(file)
    specs = weight_specs(model_of(plain))
    expected = {spec.name: weights(plain, spec) for spec in specs}
    old = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    for i in range(2):
        for end in ("weight", "bias"):
            parts = [old.pop(f"blk.{i}.attn_{part}.{end}") for part in "qkv"]
            old[f"blk.{i}.attn_qkv.{end}"] = np.concatenate(parts)
    rewrite(file, {}, old, keep=False)
    ours = open_checkpoint(file)
    ours.check_weights(specs, tied=False)
    for spec in specs:
        np.testing.assert_array_equal(weights(ours, spec), expected[spec.name], err_msg=spec.name)


# --------------------------------------------------------------------------------------------------------------- blocks


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama whose matrices all have whole blocks of 256 columns."""
    path = tmp_path_factory.mktemp("wide") / "original"
    return make_llama(path, hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2)


def wide_shapes(path: Path) -> dict[str, tuple[int, int]]:
    """The matrices of the GGUF file, by its names."""
    shapes = {"token_embd.weight": (331, 256)}
    for i in range(2):
        shapes |= {
            f"blk.{i}.attn_q.weight": (256, 256),
            f"blk.{i}.attn_k.weight": (128, 256),
            f"blk.{i}.attn_v.weight": (128, 256),
            f"blk.{i}.attn_output.weight": (256, 256),
            f"blk.{i}.ffn_gate.weight": (512, 256),
            f"blk.{i}.ffn_up.weight": (512, 256),
            f"blk.{i}.ffn_down.weight": (256, 512),
        }
    return shapes


def write_random(wide: Path, file: Path, kind: Type, change: Any = None) -> GgufCheckpoint:
    raw = {n: random_blocks(kind, *s, seed=i) for i, (n, s) in enumerate(wide_shapes(wide).items())}
    if change is not None:
        raw = {name: change(blocks) for name, blocks in raw.items()}
    write_gguf(wide, file, kinds=dict.fromkeys(raw, kind), raw=raw)
    return GgufCheckpoint(file)


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_blocks_equal_the_definition(tmp_path: Path, wide: Path, kind: Type) -> None:
    ours = write_random(wide, tmp_path / "model.gguf", kind)
    raw = random_blocks(kind, 256, 512, seed=7)  # blk.0.ffn_down.weight is the eighth
    size = gguf.GGML_QUANT_SIZES[kind][1]
    found = ours.read("model.layers.0.mlp.down_proj.weight", 100, 103)
    for row, bytes_of_row in zip(found, raw[100:103], strict=True):
        blocks = [bytes_of_row[i : i + size].tobytes() for i in range(0, len(bytes_of_row), size)]
        expected = [value for block in blocks for value in BLOCKS[kind](block)]
        # The definition computes in float64; a sum of products in float32 is off by a few roundings.
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
    for spec in weight_specs(model_of(ours)):
        quantize(spec, ours.blocks(spec), SCHEMES["q4f16_1"], ours.source_scales(spec))


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q6_K], ids=lambda kind: kind.name)
def test_any_rows_can_be_read(tmp_path: Path, wide: Path, kind: Type) -> None:
    if kind in BLOCKS:
        ours = write_random(wide, tmp_path / "model.gguf", kind)
    else:
        ours = GgufCheckpoint(write_gguf(wide, tmp_path / "model.gguf", kind))
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "input_layernorm"):
        name = f"model.layers.1.{name}.weight"
        whole = ours.read(name)
        for start, stop in ((0, 1), (31, 33), (63, 65), (5, 127), (127, 128), (64, 64)):
            np.testing.assert_array_equal(ours.read(name, start, stop), whole[start:stop])


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path, wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "BLOCK_ELEMENTS", 1 << 13)
    ours = write_random(wide, tmp_path / "model.gguf", Type.Q8_0)
    (spec,) = [s for s in weight_specs(model_of(ours)) if s.role == "gate_up" and s.layer == 0]
    tracemalloc.start()
    total = sum(block.size for block in ours.blocks(spec))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == math.prod(spec.shape)
    assert peak < total * 4 / 2


# ---------------------------------------------------------------------------------------------- values that can be kept


def scales_of(ours: Checkpoint, spec: WeightSpec, start: int, stop: int, first: int = 0) -> np.ndarray:
    """The source's own scales of some rows, which have to be there."""
    scales = ours.source_scales(spec, first)
    found = None if scales is None else scales(start, stop)
    assert found is not None
    return found


def without_least(least: int) -> Any:
    """Random Q8_0 blocks without the one value that the symmetric scheme does not have."""

    def change(raw: np.ndarray) -> np.ndarray:
        blocks = raw.reshape(raw.shape[0], -1, 34)
        blocks[:, :, 2:] = np.where(blocks[:, :, 2:] == least, 0, blocks[:, :, 2:])
        return blocks.reshape(raw.shape)

    return change


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q5_0, Type.Q8_0], ids=lambda kind: kind.name)
def test_q8f16_1_keeps_their_values(tmp_path: Path, wide: Path, kind: Type) -> None:
    change = without_least(0x80) if kind == Type.Q8_0 else None
    ours, scheme = write_random(wide, tmp_path / "model.gguf", kind, change), SCHEMES["q8f16_1"]
    for spec in weight_specs(model_of(ours)):
        if spec.kind == "matrix":
            stored = dict(quantize(spec, ours.blocks(spec), scheme, ours.source_scales(spec)))
            np.testing.assert_array_equal(dequantize(spec, stored, scheme), weights(ours, spec), err_msg=spec.name)
            plain = dict(quantize(spec, ours.blocks(spec), scheme))
            assert (dequantize(spec, plain, scheme) != weights(ours, spec)).any(), "the test would pass without scales"


def test_q4f16_1_keeps_q4_0_groups_without_minus_eight(tmp_path: Path, wide: Path) -> None:
    def change(raw: np.ndarray) -> np.ndarray:
        """Every other row gets no element of -8 (bits 0)."""
        blocks = raw.reshape(raw.shape[0], -1, 18)
        bits = blocks[::2, :, 2:]
        bits |= np.where(bits & 15 == 0, 1, 0).astype(np.uint8) | np.where(bits >> 4 == 0, 16, 0).astype(np.uint8)
        return blocks.reshape(raw.shape)

    ours, scheme = write_random(wide, tmp_path / "model.gguf", Type.Q4_0, change), SCHEMES["q4f16_1"]
    for spec in weight_specs(model_of(ours)):
        if spec.kind != "matrix":
            continue
        values = weights(ours, spec)
        stored = dict(quantize(spec, ours.blocks(spec), scheme, ours.source_scales(spec)))
        plain = dict(quantize(spec, values, scheme))
        groups = values.reshape(spec.shape[0], -1, 32)
        scales = scales_of(ours, spec, 0, spec.shape[0]).astype(np.float32)
        kept = np.abs(groups / scales[:, :, None]).max(axis=2) < 7.5
        assert 0.3 < kept.mean() < 0.7
        restored = dequantize(spec, stored, scheme).reshape(groups.shape)
        np.testing.assert_array_equal(restored[kept], groups[kept])
        by_rule = dequantize(spec, plain, scheme).reshape(groups.shape)
        np.testing.assert_array_equal(restored[~kept], by_rule[~kept])


def test_scales_of_fused_matrices_follow_their_rows(tmp_path: Path, wide: Path) -> None:
    """Queries in Q8_0, keys in F16, values in Q4_0: each row has its own scales, zeros where there are none."""
    kinds = {"blk.0.attn_q.weight": Type.Q8_0, "blk.0.attn_v.weight": Type.Q4_0}
    ours = GgufCheckpoint(write_gguf(wide, tmp_path / "model.gguf", kinds=kinds))
    specs = {(s.role, s.layer): s for s in weight_specs(model_of(ours))}
    whole = scales_of(ours, specs["qkv", 0], 0, 512)
    assert (whole[:256] > 0).all()
    assert (whole[256:384] == 0).all()
    assert (whole[384:] > 0).all()
    np.testing.assert_array_equal(scales_of(ours, specs["qkv", 0], 200, 400), whole[200:400])
    np.testing.assert_array_equal(scales_of(ours, specs["qkv", 0], 0, 200, first=200), whole[200:400])
    assert ours.source_scales(specs["qkv", 1]) is None
    assert ours.source_scales(specs["input_norm", 0]) is None


def test_a_quantized_file_is_near_its_original(tmp_path: Path, wide: Path) -> None:
    original = open_checkpoint(wide)
    for kind, step in ((Type.Q8_0, 1 / 127), (Type.Q5_0, 1 / 16), (Type.Q4_1, 1 / 7)):
        ours = GgufCheckpoint(write_gguf(wide, tmp_path / f"{kind.name}.gguf", kind))
        for spec in weight_specs(model_of(ours)):
            theirs = weights(original, spec)
            np.testing.assert_allclose(weights(ours, spec), theirs, atol=np.abs(theirs).max() * step)


# ------------------------------------------------------------------------------------------------------------- refusals


def open_and_check(file: Path) -> None:
    """What a compilation does before it reads weights."""
    opened = open_checkpoint(file)
    model = model_of(opened)
    opened.check_weights(weight_specs(model), tied=model.tie_word_embeddings)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("general.architecture", "gpt2", r"'gpt2'.*'llama' or 'phi3'"),
        ("general.type", "adapter", r"general\.type.*'adapter'"),
        ("llama.block_count", None, r"llama\.block_count.*got nothing"),
        ("llama.block_count", "two", r"llama\.block_count.*'two'"),
        ("llama.block_count", 3, r"do not match its metadata.*missing.*layers\.2"),
        ("llama.block_count", 1, r"do not match its metadata.*unexpected.*layers\.1"),
        ("llama.vocab_size", 330, r"llama\.vocab_size.*got 330.*expected 331"),
        ("llama.embedding_length", 64, r"of another shape"),
        ("llama.embedding_length", 0, r"embedding_length.*from 1"),
        ("llama.attention.head_count", 5, r"rows in 5 heads|divisor"),
        ("llama.attention.head_count", 0, r"head_count.*from 1"),
        ("llama.attention.head_count", [3, 1], r"one whole number for all layers"),
        ("llama.attention.value_length", 32, r"value_length"),
        ("llama.attention.layer_norm_rms_epsilon", None, r"layer_norm_rms_epsilon.*got nothing"),
        ("llama.attention.layer_norm_rms_epsilon", math.nan, r"layer_norm_rms_epsilon.*a number from"),
        ("llama.rope.scaling.type", "spiral", r"'spiral'.*'none', 'linear', 'yarn' or 'longrope'"),
        ("llama.rope.scaling.type", "longrope", r"lacks a rope tensor"),
        ("llama.rope.scaling.attn_factor", 1.5, r"attn_factor"),
        ("llama.rope.dimension_count", 32, r"partial_rotary_factor"),
        ("llama.expert_count", 8, r"llama\.expert_count = 8"),
        ("llama.logit_scale", 0.5, r"llama\.logit_scale = 0\.5"),
        ("llama.attention.causal", False, r"causal"),
    ],
)
def test_a_network_that_is_not_supported_is_refused(tmp_path: Path, key: str, value: Any, named: str) -> None:
    make_llama(tmp_path / "original")
    file = write_gguf(tmp_path / "original", tmp_path / "model.gguf", Type.F32)
    rewrite(file, {key: value})
    with pytest.raises(WispError, match=named):
        open_and_check(file)


def rewrite(
    file: Path, change: dict[str, Any], tensors: dict[str, np.ndarray] | None = None, keep: bool = True
) -> None:
    """Writes a file again with some metadata changed (None: taken away) and tensors added, or only these."""
    old = gguf.GGUFReader(file)
    fields = {name: field for name, field in old.fields.items() if not name.startswith("GGUF.")}
    writer = gguf.GGUFWriter(file.with_suffix(".new"), "llama")
    writer.kv_data[0].clear()
    for name, field in fields.items():
        if name not in change:
            kind, sub = field.types[0], field.types[-1]
            writer.add_key_value(
                name, field.contents(), kind, sub_type=sub if kind == gguf.GGUFValueType.ARRAY else None
            )
    for name, value in change.items():
        if value is not None:
            writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    for tensor in old.tensors if keep else ():
        writer.add_tensor(tensor.name, tensor.data)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shutil.move(file.with_suffix(".new"), file)


def test_rope_divisors_that_are_not_llamas_are_refused(tmp_path: Path) -> None:
    make_llama(tmp_path / "original")
    for factors, named in (
        (np.linspace(1, 9, 32, dtype=np.float32), "is not supported.*divisors up to 9"),
        (np.ones(31, np.float32), "is not usable.*31 numbers.*32 divisors"),
        (np.zeros(32, np.float32), "is not usable"),
    ):
        file = write_gguf(tmp_path / "original", tmp_path / "model.gguf", Type.F32)
        rewrite(file, {}, {"rope_freqs.weight": factors})
        with pytest.raises(WispError, match=named):
            open_checkpoint(file)


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    make_llama(tmp_path / "original")
    file = write_gguf(tmp_path / "original", tmp_path / "model.gguf", Type.F32)
    rewrite(file, {}, {"blk.0.attn_sinks.weight": np.ones(3, np.float32)})
    with pytest.raises(WispError, match=r"unexpected: blk\.0\.attn_sinks\.weight"):
        open_and_check(file)


def test_values_that_are_not_finite_are_refused(tmp_path: Path, wide: Path) -> None:
    def change(raw: np.ndarray) -> np.ndarray:
        raw[0, :2] = 0xFF  # a NaN for the first scale
        return raw

    ours = write_random(wide, tmp_path / "model.gguf", Type.Q8_0, change)
    spec = weight_specs(model_of(ours))[0]
    with pytest.raises(WispError, match="NaN or infinity"):
        quantize(spec, ours.blocks(spec), SCHEMES["q4f16_1"], ours.source_scales(spec))


# ------------------------------------------------------------------------------------------------------------- artifact


def test_a_file_alone_becomes_an_artifact(tmp_path: Path) -> None:
    """Compiled without anything beside it, it gives the artifact of the checkpoint it was made from, but its source."""
    make_phi3(tmp_path / "original")
    alone = tmp_path / "alone"
    alone.mkdir()
    file = write_gguf(tmp_path / "original", alone / "Phi-3-mini-q4.gguf", Type.F32)
    built = {}
    for name, source in (("gguf", file), ("original", tmp_path / "original")):
        output = tmp_path / "artifacts" / name
        config = resolve_config(str(source), output=output, context=64, variants=["webgpu-f32"], identifier="same")
        built[name] = build(config)
    assert resolve_config(str(file)).id == "phi-3-mini-q4"
    models = {name: json.loads((path / "model.json").read_text()) for name, path in built.items()}
    assert models["gguf"]["source"] == {"kind": "gguf", "id": "Phi-3-mini-q4.gguf", "revision": None}
    for key in ("architecture", "weight_bytes", "bos_token_id", "stop_token_ids", "chat_template", "variants"):
        assert models["gguf"][key] == models["original"][key], key
    for name in ("tensor-cache.json", "params_shard_0.bin", "constants.bin", "webgpu-f32/plan.json"):
        assert (built["gguf"] / name).read_bytes() == (built["original"] / name).read_bytes(), name
    assert sorted(models["gguf"]["tokenizer"]) == ["tokenizer.json", "tokenizer_config.json"]


def test_a_file_in_parts_is_the_whole_file(tmp_path: Path) -> None:
    source = make_llama(tmp_path / "llama")
    whole = open_checkpoint(write_gguf(source, tmp_path / "whole.gguf"))
    first = write_gguf(source, tmp_path / "cut.gguf", tensors_a_part=4)
    parts = sorted(tmp_path.glob("cut-*.gguf"))
    assert first == parts[0]
    assert len(parts) > 3
    cut = open_checkpoint(first)
    assert cut.tensors.keys() == whole.tensors.keys()
    for name in whole.tensors:
        np.testing.assert_array_equal(cut.read(name), whole.read(name))
    assert cut.config == whole.config
    assert resolve_config(str(first)).id == "cut"
    with pytest.raises(WispError, match=r"several parts.*got part 1 of .*the first one"):
        open_checkpoint(parts[1])
    parts[1].rename(tmp_path / "away")
    with pytest.raises(WispError, match=rf"{parts[1].name} cannot be read.*No such file"):
        open_checkpoint(first)
    shutil.copy(parts[2], parts[1])
    with pytest.raises(WispError, match=rf"{parts[1].name} is damaged.*not part 1 of"):
        open_checkpoint(first)
