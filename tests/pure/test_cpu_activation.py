"""Quantized activations and the norms of the CPU in wasmtime, against their numpy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tvm import tirx

from compiler.kernels import reference
from compiler.kernels.cpu import activation, norm
from compiler.kernels.cpu.activation import Layout
from compiler.kernels.shapes import Norm
from compiler.weights.storage import Storage
from tests.cpu_kernels import (
    RELAXED,
    STATE_WORDS,
    Arrays,
    Modules,
    assert_close,
    assert_untouched,
    poison,
    rows_in_steps,
    state,
)

EPSILON = 1e-2  # large enough to matter

# ------------------------------------------------------------------------------------------------ quantized activations

# Bits of the weights, columns that share a scale, columns.
SHAPES = [(4, 32, 8), (4, 32, 72), (8, 32, 104), (8, 32, 1024), (4, 32, 128), (4, 16, 72), (8, 16, 104)]
NORMS = {None: None, "f16": Norm(EPSILON, f16_weight=True), "f32": Norm(EPSILON, f16_weight=False)}
CHUNK = 7


def layout_of(bits: int, block: int, k: int) -> Layout:
    return Layout.of(Storage(bits, block, bias=False, zero_point=0), k)


def quantizer(bits: int, block: int, k: int, kind: str | None, chunk: int) -> tuple[str, tirx.PrimFunc]:
    name = f"quantize_{bits}_{block}_{k}_{kind}_{chunk}"
    return name, activation.quantize(name, layout_of(bits, block, k), chunk, NORMS[kind], STATE_WORDS)


@pytest.fixture(scope="module")
def quantizers() -> Modules:
    return Modules(dict(quantizer(*shape, kind, chunk) for shape in SHAPES for kind in NORMS for chunk in (1, CHUNK)))


def weights_of(rng: np.random.Generator, k: int, kind: str) -> NDArray[np.floating[Any]]:
    """A norm's weights, as f16 or f32."""
    weights: NDArray[np.floating[Any]] = rng.uniform(-1.5, 1.5, k).astype(np.float16 if kind == "f16" else np.float32)
    return weights


def activations(rng: np.random.Generator, k: int) -> NDArray[np.float32]:
    """Rows as they come, and such as hardly do."""
    x = rng.normal(0, 1, (6, k)).astype(np.float32)
    x[1] = 0
    x[2, rng.integers(k)] = 1e6  # an outlier: its group has no other step left
    x[3] *= np.float32(1e-30)
    x[4] = np.abs(x[4])
    x[5] *= np.float32(1e15)
    x[0, :8] = 0
    return x


def blank(chunk: int, layout: Layout) -> Arrays:
    return {
        "values": poison((chunk, layout.columns), "int16"),
        "scales": poison((chunk, layout.padded_blocks)),
        "sums": poison((chunk, layout.padded_blocks)),
    }


@pytest.mark.parametrize("relaxed", RELAXED)
@pytest.mark.parametrize(("bits", "block", "k"), SHAPES)
def test_quantize_is_its_twin(quantizers: Modules, bits: int, block: int, k: int, relaxed: bool) -> None:
    """To the last bit: rows of zeros, outliers, tiny and huge values; rows of padding stay as they were."""
    layout = layout_of(bits, block, k)
    x = activations(np.random.default_rng(k), k)
    twins = dict(zip(("values", "scales", "sums"), activation.quantize_rows(x, layout), strict=True))
    padded = np.ones((CHUNK, k), np.float32)
    padded[: len(x)] = x
    name, _ = quantizer(bits, block, k, None, CHUNK)
    arrays = {"x": padded, "state": state(0, len(x)), **blank(CHUNK, layout)}
    got = quantizers.run(name, arrays, relaxed)
    for key, twin in twins.items():
        np.testing.assert_array_equal(got[key][: len(x)], twin, err_msg=key)
        assert_untouched(got[key][len(x) :])
    assert relaxed or quantizers.same_in_pieces(name, arrays, got)
    name, _ = quantizer(bits, block, k, None, 1)
    for row in range(len(x)):
        single = quantizers.run(name, {"x": x[row], **blank(1, layout)}, relaxed)
        for key, twin in twins.items():
            np.testing.assert_array_equal(single[key][0], twin[row], err_msg=key)


@pytest.mark.parametrize(("bits", "block", "k"), SHAPES)
def test_quantized_activations_stand_for_the_row(quantizers: Modules, bits: int, block: int, k: int) -> None:
    """Within half a step of each block's largest value; the sums are those of the values."""
    layout = layout_of(bits, block, k)
    x = activations(np.random.default_rng(k + 1), k)
    name, _ = quantizer(bits, block, k, None, 1)
    for row in x:
        got = quantizers.run(name, {"x": row, **blank(1, layout)})
        stands_for = rows_in_steps(got["values"], got["scales"], layout)[0]
        largest = np.zeros(layout.columns)
        largest[:k] = np.abs(row)
        largest = largest.reshape(-1, block).max(axis=1)
        half_step = np.repeat(largest / 32767 / 2, block)[:k]
        assert (np.abs(stands_for - row) <= half_step * 1.01).all()
        padded = np.zeros(layout.columns)
        padded[:k] = stands_for
        want = padded.reshape(-1, block).sum(axis=1)
        sizes = np.abs(padded).reshape(-1, block).sum(axis=1)
        assert (np.abs(got["sums"][0, : layout.blocks] - want) <= 1e-6 * sizes).all()
        assert not got["sums"][0, layout.blocks :].any()
        assert not got["scales"][0, layout.blocks :].any()


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize(("bits", "block", "k"), SHAPES)
def test_quantize_of_a_norm(quantizers: Modules, bits: int, block: int, k: int, kind: str) -> None:
    """The norm in f32 may differ in the last bits: within a step of the twin's rows."""
    rng, layout = np.random.default_rng(k + 2), layout_of(bits, block, k)
    x = rng.normal(0, 3, (5, k)).astype(np.float32)
    x[1] = 0
    x[2] *= 1e-3  # where epsilon counts
    gamma = weights_of(rng, k, kind)
    want = reference.rms_norm(x, gamma, EPSILON)
    name, _ = quantizer(bits, block, k, kind, CHUNK)
    padded = np.ones((CHUNK, k), np.float32)
    padded[: len(x)] = x
    arrays = {"x": padded, "gamma": gamma, "state": state(0, len(x)), **blank(CHUNK, layout)}
    got = quantizers.run(name, arrays)
    stands_for = rows_in_steps(got["values"][: len(x)], got["scales"][: len(x)], layout)
    for row in range(len(x)):
        assert np.abs(stands_for[row] - want[row]).max() <= np.abs(want[row]).max() * (0.51 / 32767 + 1e-6)
        name, _ = quantizer(bits, block, k, kind, 1)
        single = quantizers.run(name, {"x": x[row], "gamma": gamma, **blank(1, layout)})
        for key in ("values", "scales", "sums"):
            np.testing.assert_array_equal(single[key][0], got[key][row])
            assert_untouched(got[key][len(x) :])


# ---------------------------------------------------------------------------------------------------------------- norms

NORM_SHAPES = [(1, 1, 136), (7, 3, 40), (5, 5, 1000)]


@pytest.fixture(scope="module")
def norms() -> Modules:
    functions = {}
    for chunk, _, k in NORM_SHAPES:
        for kind in ("f16", "f32"):
            given = NORMS[kind]
            assert given is not None
            for make in (norm.rms_norm, norm.layer_norm):
                name = f"{make.__name__}_{k}_{kind}"
                functions[name] = make(name, chunk, k, given, STATE_WORDS)
    return Modules(functions)


@pytest.mark.parametrize("relaxed", RELAXED)
@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize(("chunk", "length", "k"), NORM_SHAPES)
def test_norms(norms: Modules, chunk: int, length: int, k: int, kind: str, relaxed: bool) -> None:
    """RMS norm and layer norm; a chunk of one is a decode step, whose state has no valid length."""
    rng = np.random.default_rng(k)
    x = rng.normal(2, 3, (chunk, k)).astype(np.float32)
    x[0] *= np.float32(0.05)  # where epsilon counts
    gamma, beta = (weights_of(rng, k, kind) for _ in range(2))
    arrays = {"x": x, "gamma": gamma, "state": state(0, length if chunk > 1 else 0), "out": poison((chunk, k))}
    wants = {
        "rms_norm": reference.rms_norm(x[:length], gamma, EPSILON),
        "layer_norm": reference.layer_norm(x[:length], gamma, beta, EPSILON),
    }
    for make, want in wants.items():
        given = arrays | ({"beta": beta} if make == "layer_norm" else {})
        name = f"{make}_{k}_{kind}"
        out = norms.run(name, given, relaxed)["out"]
        for row in range(length):
            assert_close(out[row], want[row], 1e-6)
        assert_untouched(out[length:])
        assert relaxed or norms.same_in_pieces(name, given, {**given, "out": out})
