"""Products of the CPU in wasmtime against their numpy twins: every scheme, epilogue and odd size, in any pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray
from tvm import tirx

from compiler.bench.shapes import random_tensors
from compiler.kernels import epilogue, reference
from compiler.kernels.cache import Cache, Heads
from compiler.kernels.cpu import activation, products
from compiler.kernels.cpu.activation import Layout
from compiler.kernels.epilogue import STATE_HEADER, Declare, HalfRows, OneRow, PairRows, UnitRows
from compiler.kernels.shapes import MatrixShape
from compiler.models.base import WeightSpec, matrix
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.schemes import CODED, SCHEMES, STORED
from tests.cpu_kernels import (
    RELAXED,
    STATE_WORDS,
    TOLERANCE,
    Arrays,
    Modules,
    assert_close,
    assert_untouched,
    poison,
    rows_in_steps,
    state,
)

# Whose kernels differ from others' by a number that makes no difference to what is tested.
LEFT_OUT = ("q4zf16_g64", "q4zf16_g128", "q8zf16_g32", "q8zf16_g64")
SCHEME_NAMES = tuple(name for name in SCHEMES | CODED if name not in LEFT_OUT)
MLC = ("q4f16_1", "q8f16_1", "q0f16", "q0f32")
# Of the largest wanted element, against activations that are not quantized to 16 bits; measured: 2e-5.
QUANTIZED_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Stored:
    """A matrix: what the kernel binds and what it stands for, (rows, K)."""

    arrays: Arrays
    values: NDArray[np.float32] = field(repr=False)


def stored_matrix(rng: np.random.Generator, scheme: str, rows: int, columns: int) -> Stored:
    """Random weights; the scales of a few groups are negative, zero or subnormal, which no quantizer writes."""
    spec: WeightSpec = matrix("m", columns, {"m": rows}, "lm_head")
    if STORED[scheme].codebook:
        tensors = dict(random_tensors(spec, STORED[scheme]))
    else:
        tensors = dict(quantize(spec, rng.normal(0, 1, (rows, columns)).astype(np.float32), STORED[scheme]))
    names = list(tensors)
    if len(names) == 2:
        scales = tensors[names[1]].copy()
        places = rng.permutation(scales.size)[: scales.size // (16 if STORED[scheme].bias else 2)]
        odd = np.array([0.0, -0.0, 2.0**-24, -3 * 2.0**-24, 2.0**-14], np.float16)
        scales.reshape(-1)[places[1::2]] = np.resize(odd, len(places[1::2]))
        scales.reshape(-1)[places[::2]] *= np.float16(-1)
        tensors[names[1]] = scales
    arrays = dict(zip(("weights", "weight_scales"), tensors.values(), strict=False))
    return Stored(arrays, dequantize(spec, tensors, STORED[scheme]))


def operands(scheme: str, x: NDArray[np.float32]) -> tuple[Arrays, NDArray[np.float64]]:
    """What a product reads for the rows x, (T, K), and the rows that it stands for."""
    if not STORED[scheme].group_size:
        return {"x": x}, x.astype(np.float64)
    layout = Layout.of(STORED[scheme].storage, x.shape[1])
    twins = activation.quantize_rows(x, layout)
    return dict(zip(("values", "scales", "sums"), twins, strict=True)), rows_in_steps(twins[0], twins[1], layout)


# ------------------------------------------------------------------------------------------------------------- products

Kind = str  # store, residual, gated, gelu, gated_bias, store_bias


@dataclass(frozen=True)
class Case:
    """A product: `units` output units of `kind`; a chunk of 1 is a mat-vec."""

    kind: Kind
    chunk: int
    length: int
    units: int
    k: int

    @property
    def rows(self) -> int:
        return self.units * (2 if self.kind.startswith("gated") else 1)

    @property
    def biased(self) -> bool:
        return self.kind == "gelu" or self.kind.endswith("_bias")

    def name(self, scheme: str) -> str:
        return f"{self.kind}_{self.chunk}_{self.units}_{self.k}_{scheme}"

    @property
    def unit_rows(self) -> UnitRows:
        return HalfRows(self.units) if self.kind.startswith("gated") else OneRow()

    def declare(self, scheme: str) -> Declare:
        make: dict[str, Callable[[int, int], Declare]] = {
            "store": epilogue.Store,
            "residual": epilogue.StoreResidual,
            "gated": epilogue.StoreGated,
            "gelu": epilogue.StoreGelu,
        }
        declare = make[self.kind.removesuffix("_bias")](self.chunk, self.units)
        f16 = STORED[scheme].float_dtype == "float16"
        return epilogue.WithBias(declare, self.rows, self.unit_rows, f16) if self.biased else declare

    def function(self, scheme: str) -> tirx.PrimFunc:
        declare, storage = self.declare(scheme), STORED[scheme].storage
        units = (self.units, self.unit_rows)
        shape = MatrixShape(storage, self.chunk, self.rows, self.k, *units, declare, STATE_WORDS)
        return (products.matvec if self.chunk == 1 else products.matmul)(self.name(scheme), shape)


CASES = (
    Case("store", 1, 1, 1, 8),  # one unit, a quarter of a group
    Case("store", 1, 1, 1003, 72),  # units that fill no item, three groups, the last of one part
    Case("store_bias", 1, 1, 37, 128),  # one block of groups
    Case("residual", 1, 1, 64, 1048),  # blocks, a group behind them, partial
    Case("gated", 1, 1, 101, 104),
    Case("gelu", 1, 1, 51, 264),
    Case("store", 16, 16, 48, 136),
    Case("store", 9, 1, 7, 40),  # a chunk of no whole tile, one token of it
    Case("residual", 37, 21, 101, 72),
    Case("gated_bias", 33, 33, 33, 160),
    Case("gelu", 18, 8, 16, 256),
)
# Of the rows of the table besides MLC's: groups that are whole and cut short, blocks behind those taken by fours.
RAGGED = (
    Case("store_bias", 1, 1, 9, 8),
    Case("store", 1, 1, 11, 328),
    Case("gated", 1, 1, 33, 384),
    Case("residual", 9, 9, 10, 216),
)
RUNS = [(case, scheme) for scheme in SCHEME_NAMES for case in (CASES if scheme in MLC else RAGGED)]


@pytest.fixture(scope="module")
def kernels() -> Modules:
    functions = [case.function(scheme) for case, scheme in RUNS]
    functions += [qkv(name, scheme) for name, scheme in QKV_CASES]
    return Modules({str(function.attrs["wisp.name"]): function for function in functions})


def expected(case: Case, sums: NDArray[np.float64], arrays: Arrays) -> NDArray[np.float64]:
    if case.biased:
        sums = sums + arrays["bias"][: case.rows].astype(np.float64)
    match case.kind.removesuffix("_bias"):
        case "residual":
            return sums + arrays["residual"].astype(np.float64)
        case "gated":
            return reference.gated(sums)
        case "gelu":
            return reference.gelu(sums)
    return sums


@pytest.mark.parametrize(("case", "scheme"), RUNS, ids=[case.name(scheme) for case, scheme in RUNS])
def test_products(kernels: Modules, case: Case, scheme: str) -> None:
    """Every scheme and epilogue, odd sizes; rows of padding stay as they were; any pieces give the same bytes."""
    rng = np.random.default_rng(case.k)
    weight = stored_matrix(rng, scheme, case.rows, case.k)
    x = rng.normal(0.3, 1, (case.chunk, case.k)).astype(
        np.float32
    )  # rows of padding are numbers too: none may be stored
    x[case.length // 2] *= 20  # where activation functions saturate
    arrays, stands_for = operands(scheme, x)
    arrays |= {**weight.arrays, "out": poison((case.chunk, case.units))}
    if case.chunk > 1:
        arrays["state"] = state(3, case.length)
    if case.biased:
        bias = rng.normal(0, 2, case.rows).astype(STORED[scheme].float_dtype)
        arrays["bias"] = np.append(bias, poison(case.rows % 2, "float16")) if bias.itemsize == 2 else bias
    if case.kind == "residual":
        arrays["residual"] = rng.normal(0, 1, (case.chunk, case.units)).astype(np.float32)
    name = case.name(scheme)
    want = expected(case, stands_for @ weight.values.astype(np.float64).T, arrays)
    from_x = expected(case, reference.matmul(x, weight.values), arrays)
    for relaxed in RELAXED:
        out = kernels.run(name, arrays, relaxed)["out"]
        for row in range(case.length):
            # Affine integers count from 0: most of what they sum up to goes with the bias again.
            assert_close(out[row], want[row], 2 * TOLERANCE if STORED[scheme].bias else TOLERANCE)
            assert_close(out[row], from_x[row], QUANTIZED_TOLERANCE)
        assert_untouched(out[case.length :])
    assert kernels.same_in_pieces(name, arrays, kernels.run(name, arrays))


HEADS = {
    "mqa": Heads(3, 1, 64, 64),
    "gqa_partial": Heads(4, 2, 40, 24),  # 24 of 40 dimensions rotate
    "mha_partial": Heads(2, 2, 96, 72),
}
QKV_CASES = [("mqa", "q4f16_1"), ("gqa_partial", "q8f16_1"), ("mha_partial", "q0f16"), ("gqa_partial", "q0f32")]
QKV_COLUMNS, QKV_CONTEXT = 104, 10


def qkv(heads: str, scheme: str) -> tirx.PrimFunc:
    shape = HEADS[heads]
    declare = epilogue.StoreRotated(Cache(shape, QKV_CONTEXT, "float32"), STATE_WORDS)
    name = f"qkv_{heads}_{scheme}"
    storage = STORED[scheme].storage
    units = (shape.rows // 2, PairRows(shape))
    return products.matvec(name, MatrixShape(storage, 1, shape.rows, QKV_COLUMNS, *units, declare, STATE_WORDS))


@pytest.mark.parametrize(("heads", "scheme"), QKV_CASES)
def test_rotated_products(kernels: Modules, heads: str, scheme: str) -> None:
    """The qkv product of a decode step: units of two rows, queries apart, keys and values into the cache."""
    rng, shape, position = np.random.default_rng(4), HEADS[heads], 7
    weight = stored_matrix(rng, scheme, shape.rows, QKV_COLUMNS)
    arrays, stands_for = operands(scheme, rng.normal(0, 1, (1, QKV_COLUMNS)).astype(np.float32))
    angles = rng.uniform(0, 6, shape.rotary // 2)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    words = state(position)
    words[STATE_HEADER : STATE_HEADER + shape.rotary] = np.stack([cos, sin], axis=-1).reshape(-1).view(np.uint32)
    arrays |= {
        **weight.arrays,
        "state": words,
        "cache": poison((QKV_CONTEXT, 2 * shape.key_value * shape.size)),
        "query": poison(shape.query * shape.size),
    }
    name = f"qkv_{heads}_{scheme}"
    out = kernels.run(name, arrays)
    product = (stands_for @ weight.values.astype(np.float64).T).reshape(1, -1, shape.size)
    turning = shape.query + shape.key_value
    turned = reference.rotate(product[:, :turning], cos[None], sin[None])
    assert_close(out["query"], turned[:, : shape.query].reshape(-1))
    kept = np.concatenate([turned[:, shape.query :], product[:, turning:]], axis=1).reshape(-1)
    assert_close(out["cache"][position], kept)
    assert_untouched(np.delete(out["cache"], position, axis=0))
    assert kernels.same_in_pieces(name, arrays, out)


@pytest.mark.parametrize(("k", "scheme"), [(1048, "q4f16_1"), (1048, "q8f16_1"), (328, "q8af16_g128")])
def test_the_sum_of_a_block_does_not_overflow(kernels: Modules, k: int, scheme: str) -> None:
    """The largest steps times the largest weights, all of one sign: the most that 32 bits must hold."""
    case = next(c for c, s in RUNS if s == scheme and c.k == k)
    storage = STORED[scheme].storage
    # MLC's format has no fields of these values, but all that its bits can hold has to be right.
    weights = np.full(case.units * storage.words_per_row(k) * 4, 0xFF, np.uint8)
    x = np.full((1, k), 3.0, np.float32)
    arrays, stands_for = operands(scheme, x)
    arrays |= {
        "weights": weights,
        "weight_scales": np.full(case.units * storage.groups(k) * (2 if storage.bias else 1), 0.5, np.float16),
        "out": poison((1, case.units)),
    }
    if case.kind == "residual":
        arrays["residual"] = np.zeros((1, case.units), np.float32)
    out = kernels.run(case.name(scheme), arrays)["out"]
    value = (2**storage.bits - 1 - storage.zero_point) * 0.5 + (0.5 if storage.bias else 0)
    assert_close(out[0], np.full(case.units, stands_for.sum() * value))
