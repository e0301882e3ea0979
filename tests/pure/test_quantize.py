"""Packing against the slow twin, against MLC's rule written independently, and what the error may be."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from compiler.errors import WispError
from compiler.models.base import WeightSpec, matrix, vector
from compiler.weights.quantize import (
    dequantize,
    pack,
    parameter_layout,
    quantize,
    reference_dequantize_row,
    reference_quantize_row,
    split_pairs,
    unpack,
)
from compiler.weights.schemes import SCHEMES, Scheme, with_matrices

GROUPED = [scheme for scheme in SCHEMES.values() if scheme.group_size]


def spec_of(rows: int, columns: int) -> WeightSpec:
    return matrix("w", columns, {"source.weight": rows}, "down", 0)


def random(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(rows * columns).standard_normal((rows, columns)) * scale).astype(np.float32)


AFFINE = [scheme for scheme in GROUPED if scheme.bias]


def factors_of(stored: Mapping[str, np.ndarray], scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Scales, and biases or zero points; zeros in a symmetric scheme."""
    if scheme.bias:
        return split_pairs(stored["w.q_scale_zero" if scheme.zeros else "w.q_scale_bias"])
    return stored["w.q_scale"], np.zeros_like(stored["w.q_scale"])


@pytest.mark.parametrize("columns", [32, 64, 8, 40, 136])
@pytest.mark.parametrize("scheme", GROUPED, ids=lambda s: s.name)
def test_packing_equals_the_reference(scheme: Scheme, columns: int) -> None:
    weight = random(5, columns)
    weight[2] = 0
    weight[3, :8] *= 1e-6
    stored = dict(quantize(spec_of(5, columns), weight, scheme))
    for r in range(5):
        words, scales, biases = reference_quantize_row([float(v) for v in weight[r]], scheme)
        ours_scales, ours_biases = factors_of(stored, scheme)
        np.testing.assert_array_equal(ours_scales[r], np.array(scales, np.float16))
        np.testing.assert_array_equal(ours_biases[r], np.array(biases or np.zeros_like(scales), np.float16))
        # The twin divides in float64: an element may lie on the other side of a tie, one step away.
        ours = reference_dequantize_row(stored["w.q_weight"][r].tolist(), scales, biases, columns, scheme)
        theirs = reference_dequantize_row(words, scales, biases, columns, scheme)
        np.testing.assert_allclose(ours, theirs, atol=max(scales) * 1.0001, rtol=0)
        assert np.mean(stored["w.q_weight"][r] != np.array(words, np.uint32)) <= 0.05
        restored = dequantize(spec_of(5, columns), stored, scheme)
        np.testing.assert_allclose(restored[r], ours, rtol=1e-6, atol=1e-6 * np.abs(weight[r]).max())


def mlc_q4f16_1(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`GroupQuantize._quantize` of mlc_llm for q4f16_1, in its own order of operations, for whole groups."""
    rows, columns = weight.shape
    words, scales = np.zeros((rows, columns // 8), np.uint32), np.zeros((rows, columns // 32), np.float16)
    for r in range(rows):
        for g in range(columns // 32):
            group = weight[r, 32 * g : 32 * (g + 1)]
            scales[r, g] = np.float16(np.max(np.abs(group)) / 7)
            scaled = np.clip(np.round(group / np.float32(scales[r, g]) + 7), 0, 14).astype(np.uint32)
            for j in range(32):
                words[r, 4 * g + j // 8] |= scaled[j] << np.uint32(4 * (j % 8))
    return words, scales


def test_packing_follows_mlc() -> None:
    weight = random(16, 128)
    stored = dict(quantize(spec_of(16, 128), weight, SCHEMES["q4f16_1"]))
    words, scales = mlc_q4f16_1(weight)
    np.testing.assert_array_equal(stored["w.q_scale"], scales)
    np.testing.assert_array_equal(stored["w.q_weight"], words)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_the_error_is_at_most_half_a_step(scheme: Scheme) -> None:
    weight = random(64, 96, scale=0.05)
    spec = spec_of(64, 96)
    stored = dict(quantize(spec, weight, scheme))
    error = np.abs(dequantize(spec, stored, scheme) - weight)
    if scheme.group_size:
        # Half a step, and what rounding the scale to float16 (2^-11 relative) shifts the outermost element by.
        step, bias = (
            np.repeat(factor.astype(np.float32), scheme.group_size, axis=1)[:, :96]
            for factor in factors_of(stored, scheme)
        )
        # A whole zero point shifts the range by half a step besides.
        bound = step * (0.5 + 0.5 * scheme.zeros + max(scheme.zero_point, scheme.largest - scheme.zero_point) * 2**-11)
        assert (error <= bound + np.abs(bias) * (step if scheme.zeros else 1) * 2**-11 + 1e-9).all()
    elif scheme.bits == 16:
        np.testing.assert_allclose(error, 0, atol=np.abs(weight).max() * 2**-11)
    else:
        np.testing.assert_array_equal(error, 0)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
@pytest.mark.parametrize("columns", [8, 32, 200])
def test_the_layout_is_that_of_the_data(scheme: Scheme, columns: int) -> None:
    for spec in (spec_of(3, columns), vector("n.weight", columns, "n.weight", "input_norm", 0)):
        stored = quantize(spec, np.ones(spec.shape, np.float32), scheme)
        assert [(name, array.dtype.name, array.shape) for name, array in stored] == parameter_layout(spec, scheme)


def test_the_layout_of_the_format() -> None:
    spec = spec_of(10, 40)
    assert parameter_layout(spec, SCHEMES["q4f16_1"]) == [
        ("w.q_weight", "uint32", (10, 8)),
        ("w.q_scale", "float16", (10, 2)),
    ]
    assert parameter_layout(spec, SCHEMES["q8f16_1"])[0] == ("w.q_weight", "uint32", (10, 16))
    assert parameter_layout(spec, SCHEMES["q4af16_g16"]) == [
        ("w.q_weight", "uint32", (10, 6)),
        ("w.q_scale_bias", "float16", (10, 6)),
    ]
    assert parameter_layout(spec, SCHEMES["q8af16_g128"]) == [
        ("w.q_weight", "uint32", (10, 32)),
        ("w.q_scale_bias", "float16", (10, 2)),
    ]
    assert parameter_layout(spec, SCHEMES["q4zf16_g32"])[1] == ("w.q_scale_zero", "float16", (10, 4))
    assert parameter_layout(spec, SCHEMES["q0f16"]) == [("w.weight", "float16", (10, 40))]
    assert parameter_layout(spec, SCHEMES["q0f32"]) == [("w.weight", "float32", (10, 40))]


@pytest.mark.parametrize("scheme", GROUPED, ids=lambda s: s.name)
def test_zeros_and_padding_hold_the_zero_point(scheme: Scheme) -> None:
    spec = spec_of(2, 40)
    stored = dict(quantize(spec, np.zeros((2, 40), np.float32), scheme))
    q = np.full((1, scheme.group_size), scheme.zero_point, np.uint8)
    np.testing.assert_array_equal(stored["w.q_weight"], np.tile(pack(q, scheme), (2, scheme.groups(40))))
    assert all((factor == 0).all() for factor in factors_of(stored, scheme))
    stored = dict(quantize(spec, np.ones((2, 40), np.float32), scheme))
    assert (unpack(stored["w.q_weight"], scheme)[:, 40:] == scheme.zero_point).all()


@pytest.mark.parametrize("scheme", GROUPED, ids=lambda s: s.name)
def test_no_scale_is_a_float16_subnormal(scheme: Scheme) -> None:
    for size in (1e-7, 3e-5):
        weight = random(4, 64, scale=size)
        stored = dict(quantize(spec_of(4, 64), weight, scheme))
        scales, biases = factors_of(stored, scheme)
        assert (scales >= np.float16(2**-14)).all()
        assert ((np.abs(biases) >= np.float16(2**-14)) | (biases == 0)).all()
        assert np.abs(dequantize(spec_of(4, 64), stored, scheme) - weight).max() <= 2**-15 * 1.001


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_blocks_of_rows_give_the_same(scheme: Scheme) -> None:
    weight, spec = random(300, 40), spec_of(300, 40)
    whole = quantize(spec, weight, scheme)
    blocks = quantize(spec, iter([weight[:7], weight[7:200], weight[200:]]), scheme)
    for (name, array), (other_name, other) in zip(whole, blocks, strict=True):
        assert name == other_name
        np.testing.assert_array_equal(array, other)


def test_columns_that_do_not_fit_are_refused() -> None:
    for scheme in SCHEMES.values():
        with pytest.raises(WispError, match=r"'w'.*12 columns.*multiple of 8"):
            parameter_layout(spec_of(4, 12), scheme)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    weight = random(4, 32)
    weight[3, 5] = value
    for scheme in SCHEMES.values():
        with pytest.raises(WispError, match=r"'w' holds NaN or infinity.*source\.weight"):
            quantize(spec_of(4, 32), weight, scheme)


def test_what_float16_cannot_hold_is_refused() -> None:
    weight = np.full((1, 32), 1e5, np.float32)
    with pytest.raises(WispError, match="does not fit float16"):
        quantize(spec_of(1, 32), weight, SCHEMES["q0f16"])
    for scheme in GROUPED:
        for sign in (1, -1):
            with pytest.raises(WispError, match=f"too large for {scheme.name}"):
                quantize(spec_of(1, 32), weight * 1000 * sign, scheme)
        restored = dequantize(spec_of(1, 32), dict(quantize(spec_of(1, 32), weight, scheme)), scheme)
        # To half a step, where only whole steps of a scale are zero points.
        np.testing.assert_allclose(restored, weight, rtol=2**-6 if scheme.zeros else 2**-10)


def test_a_wrong_number_of_rows_is_refused() -> None:
    for rows in (3, 5):
        with pytest.raises(WispError, match="'w'"):
            quantize(spec_of(4, 32), random(rows, 32), SCHEMES["q4f16_1"])


@pytest.mark.parametrize("scheme", AFFINE, ids=lambda s: s.name)
def test_an_affine_grid_stays_exact(scheme: Scheme) -> None:
    """Groups that reach both ends of their range: scale, bias and every element are found again."""
    rng = np.random.default_rng(5)
    rows, groups = 6, 3
    scales = np.exp2(rng.integers(-9, -4, (rows, groups, 1))).astype(np.float32)
    biases = rng.integers(-20, 20, (rows, groups, 1)).astype(np.float32) * scales
    q = rng.integers(0, scheme.largest + 1, (rows, groups, scheme.group_size))
    q[..., 0], q[..., 1] = 0, scheme.largest
    columns = groups * scheme.group_size
    weight, spec = (q * scales + biases).astype(np.float32).reshape(rows, columns), spec_of(rows, columns)
    stored = dict(quantize(spec, weight, scheme))
    np.testing.assert_array_equal(dequantize(spec, stored, scheme), weight)
    np.testing.assert_array_equal(unpack(stored["w.q_weight"], scheme), q.reshape(rows, columns))
    np.testing.assert_array_equal(pack(q.astype(np.uint8).reshape(rows, columns), scheme), stored["w.q_weight"])


@pytest.mark.parametrize("scheme", AFFINE, ids=lambda s: s.name)
def test_padding_has_no_say_in_a_range(scheme: Scheme) -> None:
    """Weights far from zero, of which the last group is cut short."""
    columns = scheme.group_size + 8
    weight, spec = random(3, columns, 0.01) + np.float32(7), spec_of(3, columns)
    stored = dict(quantize(spec, weight, scheme))
    # A zero point is at most 2048 steps away.
    assert factors_of(stored, scheme)[0].max() < max(0.1 / scheme.largest, 7.1 / 2048 if scheme.zeros else 0)
    assert np.abs(dequantize(spec, stored, scheme) - weight).max() < 0.06 / scheme.largest + 7 * 2**-11


def test_each_matrix_may_have_a_scheme_of_its_own() -> None:
    base, other = SCHEMES["q4f16_1"], SCHEMES["q8af16_g64"]
    mixed = with_matrices(base, {("down", 1): other, ("lm_head", None): SCHEMES["q0f16"], ("qkv", 0): base})
    down = [matrix("w", 64, {"w": 4}, "down", layer) for layer in (0, 1)]
    assert [mixed.of(spec).name for spec in down] == ["q4f16_1", "q8af16_g64"]
    assert mixed.of(matrix("h", 64, {"h": 4}, "lm_head")).name == "q0f16"
    assert mixed.of(vector("n", 64, "n", "input_norm", 1)) is mixed
    assert [key for key, _ in mixed.exceptions] == [("down", 1), ("lm_head", None)]
    assert [name for name, _, _ in parameter_layout(down[1], mixed)] == ["w.q_weight", "w.q_scale_bias"]
    weight = random(4, 64)
    restored = dequantize(down[1], dict(quantize(down[1], weight, mixed)), mixed)
    assert np.abs(restored - weight).max() < 0.02
    assert with_matrices(base, {("qkv", 0): base}) == base
