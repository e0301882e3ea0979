"""Values of a GGUF file in an artifact's words: the numbers that the `gguf` package reads, in whatever holds them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, quants
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.models.base import WeightSpec, matrix
from compiler.sources.gguf import GgufCheckpoint
from compiler.sources.gguf import checkpoint as gguf_module
from compiler.sources.gguf.repack import KINDS, decode_rows
from compiler.weights.kept import held_as, holds, pack_groups
from compiler.weights.quantize import dequantize, parameter_layout
from compiler.weights.schemes import CODED, SCHEMES, Scheme
from tests.checkpoints import make_llama
from tests.ggml_blocks import BLOCKS
from tests.gguf_files import blocks_of, random_blocks, write_blocks, write_gguf

# What float16 rounds off, of a normal number and of any.
ROUNDING, LEAST = 2.0**-11, 2.0**-25
# Which scheme each type is kept in.
EXPECTED = {
    Type.Q4_0: "q4af16_g32",
    Type.Q4_1: "q4af16_g32",
    Type.Q5_0: "q5f16_g32",
    Type.Q5_1: "q5af16_g32",
    Type.Q8_0: "q8f16_1",
    Type.Q2_K: "q4af16_g16",
    Type.Q3_K: "q4f16_g16",
    Type.Q4_K: "q4af16_g32",
    Type.Q5_K: "q5af16_g32",
    Type.Q6_K: "q6f16_g16",
    Type.IQ4_NL: "q4cf16_g32",
    Type.IQ4_XS: "q4cf16_g32",
    Type.IQ1_S: "q5f16_g32",
    Type.IQ1_M: "q6f16_g16",
    Type.IQ2_XXS: "q8f16_1",
    Type.IQ2_XS: "q8f16_g16",
    Type.IQ2_S: "q8f16_g16",
    Type.IQ3_XXS: "q8f16_1",
    Type.IQ3_S: "q5f16_g32",
    Type.TQ1_0: "q4af16_g128",
    Type.TQ2_0: "q4af16_g128",
    Type.MXFP4: "q5f16_g32",
}
EXACT = {Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.IQ4_NL, Type.TQ1_0, Type.TQ2_0}


def spec_of(rows: int, columns: int) -> WeightSpec:
    return matrix("w", columns, {"w.weight": rows}, "down", 0)


def packed_values(kind: Type, raw: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.float32]:
    """What the scheme's stored tensors stand for."""
    groups = decode_rows(raw, kind)
    spec = spec_of(*groups.q.shape)
    tensors = pack_groups(spec, KINDS[kind].steps, groups, scheme)
    layout = parameter_layout(spec, scheme)
    assert [(str(t.dtype), t.shape) for t in tensors] == [(dtype, shape) for _, dtype, shape in layout]
    return dequantize(spec, {name: t for (name, _, _), t in zip(layout, tensors, strict=True)}, scheme)


def assert_kept(kind: Type, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """The same numbers; of types whose scales are products, to the rounding of these."""
    if kind in EXACT:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def rounding(raw: NDArray[np.uint8], kind: Type) -> NDArray[np.float32]:
    """How far an element may move when its scale and its bias are rounded to float16."""
    groups, size = decode_rows(raw, kind), KINDS[kind].steps.group_size
    factors = [np.repeat(np.abs(f), size, axis=1) for f in (groups.scale, groups.bias) if f is not None]
    moved = np.abs(groups.q.astype(np.float32)) * (factors[0] * ROUNDING + LEAST)
    return (moved + (factors[1] * ROUNDING + LEAST if len(factors) > 1 else 0)).astype(np.float32)


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.name)
def test_every_scheme_that_holds_a_type_gives_its_values(kind: Type) -> None:
    raw = blocks_of(kind, 9, 512)
    expected = quants.dequantize(raw, kind)
    fitting = [scheme for scheme in (SCHEMES | CODED).values() if holds(scheme, KINDS[kind].steps)]
    assert EXPECTED[kind] in [scheme.name for scheme in fitting]
    for scheme in fitting:
        found = packed_values(kind, raw, scheme)
        assert_kept(kind, found, expected)
        # What makes a symmetric type affine is a power of two times the scale: it rounds alike, but for subnormal ones.
        bound = rounding(raw, kind) + 2 * KINDS[kind].steps.offset * LEAST + 1e-7 * np.abs(expected).max()
        np.testing.assert_array_less(np.abs(found - expected), bound)
    held = held_as([KINDS[kind].steps])
    assert held is not None
    assert (held.scheme.name, held.exact, held.formats) == (EXPECTED[kind], kind in EXACT, (kind.name,))


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_integers_are_those_of_the_definition(kind: Type) -> None:
    """q * scale + bias in float64 against ggml's C, element by element."""
    raw = blocks_of(kind, 2, 256, seed=3)
    groups, size = decode_rows(raw, kind), GGML_QUANT_SIZES[kind][1]
    assert groups.q.dtype == (np.int8 if KINDS[kind].steps.least < 0 else np.uint8)
    repeated = [np.repeat(f.astype(np.float64), KINDS[kind].steps.group_size, axis=1) for f in (groups.scale,)]
    values = groups.q * repeated[0]
    if groups.bias is not None:
        values = values + np.repeat(groups.bias.astype(np.float64), KINDS[kind].steps.group_size, axis=1)
    for row, found in zip(raw, values, strict=True):
        wanted = [v for i in range(0, len(row), size) for v in BLOCKS[kind](row[i : i + size].tobytes())]
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama whose matrices all have whole blocks of 256 columns."""
    path = tmp_path_factory.mktemp("wide") / "original"
    return make_llama(path, hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2)


def write(wide: Path, file: Path, kind: Type, kinds: Mapping[str, Type] | None = None) -> GgufCheckpoint:
    return GgufCheckpoint(write_blocks(wide, file, kind, kinds))


def specs_of(ours: GgufCheckpoint) -> dict[tuple[str, int | None], WeightSpec]:
    return {(s.role, s.layer): s for s in weight_specs(config_from_huggingface(ours.config, 64)) if s.kind == "matrix"}


def kept_values(ours: GgufCheckpoint, spec: WeightSpec) -> tuple[str, NDArray[np.float32]]:
    """The scheme that a matrix is held in, and what its stored tensors stand for."""
    held = ours.held(spec)
    assert held is not None
    stored = ours.stored(spec, held.scheme)
    assert stored is not None
    return held.scheme.name, dequantize(spec, dict(stored), held.scheme)


def read(ours: GgufCheckpoint, spec: WeightSpec) -> NDArray[np.float32]:
    return np.concatenate(list(ours.blocks(spec)))


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.name)
def test_a_file_of_each_type_is_kept(tmp_path: Path, wide: Path, kind: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of queries and keys move as a whole; a few rows are unpacked at a time, which end within a head."""
    monkeypatch.setattr(gguf_module, "REPACKED_ELEMENTS", 256 * 37)
    ours = write(wide, tmp_path / "model.gguf", kind)
    for spec in specs_of(ours).values():
        name, values = kept_values(ours, spec)
        assert name == EXPECTED[kind]
        assert_kept(kind, values, read(ours, spec))


@pytest.mark.parametrize(
    ("kind", "kinds", "scheme", "exact"),
    [
        (Type.Q4_K, {"attn_v": Type.Q6_K}, "q6af16_g16", False),  # Q4_K_M
        (Type.Q5_K, {"attn_v": Type.Q6_K}, "q6af16_g16", False),  # Q5_K_M
        (Type.Q3_K, {"attn_v": Type.Q5_K}, "q6af16_g16", False),  # Q3_K_L
        (Type.Q2_K, {"attn_v": Type.Q4_K}, "q4af16_g16", False),
        (Type.Q4_0, {"attn_v": Type.Q4_1}, "q4af16_g32", True),
        (Type.Q4_1, {"attn_k": Type.Q8_0, "attn_v": Type.Q5_1}, "q8af16_g32", True),
        (Type.Q8_0, {"attn_v": Type.Q6_K}, "q8f16_g16", False),
        (Type.Q5_0, {"attn_v": Type.IQ4_NL}, "q8f16_1", True),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_parts_of_a_fused_matrix_in_one_scheme_that_holds_all(
    tmp_path: Path, wide: Path, kind: Type, kinds: Mapping[str, Type], scheme: str, exact: bool
) -> None:
    ours = write(wide, tmp_path / "model.gguf", kind, kinds)
    specs = specs_of(ours)
    held = ours.held(specs["qkv", 1])
    assert held is not None
    assert (held.scheme.name, held.exact) == (scheme, exact)
    assert held.formats == tuple(dict.fromkeys(t.name for t in (kind, kinds.get("attn_k", kind), kinds["attn_v"])))
    _, values = kept_values(ours, specs["qkv", 1])
    expected = read(ours, specs["qkv", 1])
    for rows, own in (
        (slice(0, 256), kind),
        (slice(256, 384), kinds.get("attn_k", kind)),
        (slice(384, 512), kinds["attn_v"]),
    ):
        assert_kept(own, values[rows], expected[rows])
    assert kept_values(ours, specs["down", 0])[0] == EXPECTED[kind], "other matrices keep their own"


def test_floats_of_a_quantized_file_stay_floats(tmp_path: Path, wide: Path) -> None:
    kinds = {"token_embd": Type.F16, "blk.0.attn_v": Type.F32, "blk.1.ffn_down": Type.BF16}
    ours = write(wide, tmp_path / "model.gguf", Type.Q4_K, kinds)
    found = {key: ours.held(spec) for key, spec in specs_of(ours).items()}
    for key, exact in ((("embedding", None), True), (("qkv", 0), False), (("down", 1), False)):
        held = found[key]
        assert held is not None
        assert (held.scheme.name, held.exact) == ("q0f16", exact)
        assert ours.stored(specs_of(ours)[key], held.scheme) is None, "floats are not packed"
    rest = found["qkv", 1]
    assert rest is not None
    assert rest.scheme.name == "q4af16_g32"


def test_a_file_of_floats_holds_nothing_that_is_quantized(tmp_path: Path, wide: Path) -> None:
    ours = GgufCheckpoint(write_gguf(wide, tmp_path / "model.gguf", Type.F16))
    for spec in specs_of(ours).values():
        assert ours.held(spec) is None
        assert ours.stored(spec, SCHEMES["q8f16_1"]) is None


def test_minus_128_in_q8_0_takes_a_bias(tmp_path: Path, wide: Path) -> None:
    """The symmetric scheme has no -128; whoever wrote one keeps it all the same."""
    ours = GgufCheckpoint(
        write_gguf(
            wide,
            tmp_path / "model.gguf",
            Type.Q8_0,
            kinds={"blk.0.ffn_up.weight": Type.Q8_0},
            raw={"blk.0.ffn_up.weight": random_blocks(Type.Q8_0, 512, 256)},
        )
    )
    specs = specs_of(ours)
    for key, scheme in ((("gate_up", 0), "q8af16_g32"), (("gate_up", 1), "q8f16_1")):
        name, values = kept_values(ours, specs[key])
        assert name == scheme
        np.testing.assert_array_equal(values, read(ours, specs[key]))


def with_first_scale(wide: Path, file: Path, kind: Type, place: int, value: float) -> GgufCheckpoint:
    """Random blocks in blk.0.ffn_down, its first block with another float16 at `place`."""
    raw = blocks_of(kind, 256, 512)
    raw[0, place : place + 2] = np.array(value, "<f2").reshape(1).view(np.uint8)
    return GgufCheckpoint(
        write_gguf(wide, file, Type.Q8_0, kinds={"blk.0.ffn_down.weight": kind}, raw={"blk.0.ffn_down.weight": raw})
    )


@pytest.mark.parametrize(
    ("kind", "place", "value", "named"),
    [
        (Type.Q4_0, 0, 9000.0, r"a bias of weight 'model.layers.0.mlp.down_proj' does not fit float16.*got 72000"),
        (Type.Q4_K, 0, 65000.0, r"a scale of weight .* does not fit float16.*expected at most 65504"),
        (Type.Q4_K, 2, 65000.0, r"a bias of weight .* does not fit float16"),
        (Type.Q6_K, 208, 60000.0, r"a scale of weight .* does not fit float16"),
        (Type.Q8_0, 0, np.nan, r"holds NaN or infinity.*its tensors model.layers.0.mlp.down_proj.weight"),
        (Type.Q4_1, 2, -np.inf, r"holds NaN or infinity"),
    ],
)
def test_scales_that_float16_does_not_hold_are_refused(
    tmp_path: Path, wide: Path, kind: Type, place: int, value: float, named: str
) -> None:
    ours = with_first_scale(wide, tmp_path / "model.gguf", kind, place, value)
    with pytest.raises(WispError, match=named):
        kept_values(ours, specs_of(ours)["down", 0])


@pytest.mark.parametrize(("kind", "place"), [(Type.Q4_0, 0), (Type.Q4_1, 0), (Type.Q4_1, 2), (Type.Q8_0, 0)])
def test_subnormal_scales_are_kept(tmp_path: Path, wide: Path, kind: Type, place: int) -> None:
    ours = with_first_scale(wide, tmp_path / "model.gguf", kind, place, 3e-7)
    spec = specs_of(ours)["down", 0]
    np.testing.assert_array_equal(kept_values(ours, spec)[1], read(ours, spec))


def test_a_scheme_that_does_not_hold_the_values_takes_none(tmp_path: Path, wide: Path) -> None:
    ours = write(wide, tmp_path / "model.gguf", Type.Q4_1)
    spec = specs_of(ours)["down", 0]
    for scheme in SCHEMES.values():
        stored = ours.stored(spec, scheme)
        if scheme.bias and not scheme.zeros and scheme.group_size <= 32:
            assert stored is not None
            np.testing.assert_array_equal(dequantize(spec, dict(stored), scheme), read(ours, spec))
        else:
            assert stored is None, scheme.name
