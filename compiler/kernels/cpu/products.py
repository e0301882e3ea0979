"""Products of activations and a weight matrix on the CPU: mat-vec for decode, tiled for prefill, epilogues fused.

Matrices of 4 and 8 bits are multiplied in integers, 32 columns at a time, with activations of 16 bits (see
`activation`): `i32x4.dot_i16x8_s` adds 8 products an instruction, 32 of them never overflow, and the sum of a group
becomes f32 and takes both scales. Unquantized matrices are multiplied in f32. Weights are read as MLC lays them out.

A unit is what the epilogue needs together (one matrix row or two; more rows side by side are slower than one after the
other). An item is a block of units: small ones in decode, larger ones in prefill, where a row of weights is
unpacked once for a tile of `TILE` tokens. The numpy twins are `reference.matvec` and `reference.matmul`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import Array, Expr, ceil_div, f32, i32
from compiler.kernels.cpu.activation import Layout, layout_of
from compiler.kernels.cpu.builder import (
    CpuKernel,
    convert,
    dot_i16,
    f16_bits_to_f32,
    lane_splat,
    load,
    splat,
    sum_lanes,
)
from compiler.kernels.epilogue import Declare

UnitRows = Callable[[Expr], Sequence[Expr]]
UNITS_PER_ITEM = 8  # of a mat-vec
TILE = 8  # tokens that share an unpacked group of weights
TILE_UNITS_PER_ITEM = 16
BLOCK = 4  # groups whose scales are converted together


class IntegerMatrix:
    """A matrix of 4 or 8 bits and the quantized activations it is multiplied with, bound to a kernel."""

    def __init__(self, kernel: CpuKernel, scheme: str, chunk: int, rows: int, k: int) -> None:
        self.kernel = kernel
        self.layout: Layout = layout_of(scheme, k)
        self.vectors = 1 if scheme == "q4f16_1" else 2  # of 16 bytes, that hold the weights of a group
        groups, padded = self.layout.groups, self.layout.padded_groups
        self.values = kernel.buffer("values", chunk * groups * 4, "int16x8")
        self.scales = kernel.buffer("scales", chunk * padded, "float32")
        self.offsets = kernel.buffer("offsets", chunk * padded, "float32")
        self.weights = kernel.buffer(
            "weights", rows * groups * self.vectors, "uint16x8" if self.vectors == 1 else "uint8x16"
        )
        self.weight_scales = kernel.buffer("weight_scales", rows * groups, "uint16")

    def unpack(self, row: Expr, group: Expr) -> list[Expr]:
        """The weights of a group as four vectors of eight, in the order of the activations."""
        kernel, first = self.kernel, (row * self.layout.groups + group) * self.vectors
        if self.vectors == 1:
            words = kernel.let(self.weights[first])
            shifted = [words, *(T.shift_right(words, splat(T.uint16(4 * i), 8)) for i in (1, 2, 3))]
            fields = [T.bitwise_and(v, splat(T.uint16(15), 8)) for v in shifted[:3]] + shifted[3:]
            return [kernel.let(T.cast(field, "int16x8")) for field in fields]
        parts = []
        for vector in range(2):
            data = kernel.let(self.weights[first + vector])
            for half in range(2):
                lanes = tirx.Shuffle([data], list(range(half * 8, half * 8 + 8)))
                parts.append(kernel.let(T.cast(lanes, "int16x8")))
        return parts

    def dot(self, weights: Sequence[Expr], token: Expr, group: Expr) -> Expr:
        """The group's product with a token's steps, in four partial sums, as f32."""
        first = (token * self.layout.groups + group) * 4
        products = [dot_i16(weight, self.values[first + i]) for i, weight in enumerate(weights)]
        return convert((products[0] + products[1]) + (products[2] + products[3]), "float32")

    def walk(self, rows: Sequence[Expr], tokens: Sequence[Expr]) -> list[list[Expr]]:
        """The products of matrix rows and tokens: `[row][token]`, one number each."""
        kernel, layout = self.kernel, self.layout
        sums = [[kernel.registers(1, "float32x4") for _ in tokens] for _ in rows]
        for register in (register for row in sums for register in row):
            register[0] = splat(f32(0.0))

        def multiply(group: Expr, scales: Sequence[Expr]) -> None:
            weights = [self.unpack(row, group) for row in rows]
            for t, token in enumerate(tokens):
                step = kernel.let(splat(self.scales[token * layout.padded_groups + group]))
                for r in range(len(rows)):
                    product = self.dot(weights[r], token, group) * (step * scales[r])
                    sums[r][t][0] = sums[r][t][0] + product

        with kernel.loop(layout.groups // BLOCK) as block:
            group = kernel.let(block * BLOCK)
            four = [
                f16_bits_to_f32(kernel, load(self.weight_scales, row * layout.groups + group, BLOCK)) for row in rows
            ]
            for t, token in enumerate(tokens):
                offset = kernel.let(load(self.offsets, token * layout.padded_groups + group, BLOCK))
                for r in range(len(rows)):
                    sums[r][t][0] = sums[r][t][0] + four[r] * offset
            for i in range(BLOCK):
                multiply(group + i, [kernel.let(lane_splat(vector, i)) for vector in four])
        rest = [[f32(0.0) for _ in tokens] for _ in rows]
        for group in range(layout.groups // BLOCK * BLOCK, layout.groups):
            singles = [f16_bits_to_f32(kernel, self.weight_scales[row * layout.groups + group]) for row in rows]
            multiply(group, [splat(single) for single in singles])
            for r, single in enumerate(singles):
                for t, token in enumerate(tokens):
                    rest[r][t] = rest[r][t] + single * self.offsets[token * layout.padded_groups + group]
        return [
            [kernel.let(sum_lanes(register[0]) + extra) for register, extra in zip(row, extras, strict=True)]
            for row, extras in zip(sums, rest, strict=True)
        ]


class FloatMatrix:
    """An unquantized matrix, f16 or f32, and f32 activations."""

    def __init__(self, kernel: CpuKernel, scheme: str, chunk: int, rows: int, k: int) -> None:
        self.kernel = kernel
        self.k = k
        self.half = scheme == "q0f16"
        self.x = kernel.buffer("x", chunk * k, "float32")
        self.weights: Array = kernel.buffer("weights", rows * k, "uint16" if self.half else "float32")

    def walk(self, rows: Sequence[Expr], tokens: Sequence[Expr]) -> list[list[Expr]]:
        """The products of matrix rows and tokens: `[row][token]`, one number each."""
        kernel = self.kernel
        chains = 2 if len(tokens) == 1 else 1  # of additions, which would wait for each other
        sums = [[[kernel.registers(1, "float32x4") for _ in range(chains)] for _ in tokens] for _ in rows]
        for register in (register for row in sums for token in row for register in token):
            register[0] = splat(f32(0.0))
        with kernel.loop(self.k // (4 * chains)) as part:
            for chain in range(chains):
                column = kernel.let((part * chains + chain) * 4)
                weights = [kernel.let(load(self.weights, row * self.k + column, 4)) for row in rows]
                if self.half:
                    weights = [f16_bits_to_f32(kernel, weight) for weight in weights]
                for t, token in enumerate(tokens):
                    value = kernel.let(load(self.x, token * self.k + column, 4))
                    for r, weight in enumerate(weights):
                        sums[r][t][chain][0] = sums[r][t][chain][0] + weight * value
        totals = [[kernel.let(functools.reduce(operator.add, [c[0] for c in token])) for token in row] for row in sums]
        return [[kernel.let(sum_lanes(total)) for total in row] for row in totals]


def _matrix(kernel: CpuKernel, scheme: str, chunk: int, rows: int, k: int) -> IntegerMatrix | FloatMatrix:
    return (FloatMatrix if scheme.startswith("q0") else IntegerMatrix)(kernel, scheme, chunk, rows, k)


def matvec(
    name: str, scheme: str, rows: int, k: int, units: int, unit_rows: UnitRows, declare: Declare
) -> tirx.PrimFunc:
    """Build one row of activations times `[rows, k]^T` with `units` output units.

    Bindings: values, scales, offsets (x alone when the matrix is not quantized), weights, [weight scales], then what
    `declare` declares.
    """
    with CpuKernel(name) as kernel:
        matrix = _matrix(kernel, scheme, 1, rows, k)
        epilogue = declare(kernel)
        item, _ = kernel.grid(ceil_div(units, UNITS_PER_ITEM))
        with kernel.loop(UNITS_PER_ITEM) as step:
            unit = kernel.let(item * UNITS_PER_ITEM + step)
            with kernel.when(True if units % UNITS_PER_ITEM == 0 else unit < units):
                sums = matrix.walk([kernel.let(row) for row in unit_rows(unit)], [0])
                epilogue(kernel, 0, unit, [values[0] for values in sums])
    return kernel.function


def matmul(
    name: str,
    scheme: str,
    chunk: int,
    rows: int,
    k: int,
    units: int,
    unit_rows: UnitRows,
    declare: Declare,
    state_words: int,
) -> tirx.PrimFunc:
    """Build `[chunk, k] x [rows, k]^T`; bindings as of `matvec`, with the state before what `declare` declares.

    Rows at or beyond the chunk's valid length are not stored.
    """
    with CpuKernel(name) as kernel:
        matrix = _matrix(kernel, scheme, chunk, rows, k)
        state = kernel.buffer("state", state_words, "uint32")
        epilogue = declare(kernel)
        item, _ = kernel.grid(ceil_div(units, TILE_UNITS_PER_ITEM))
        length = kernel.let(i32(state[2]))
        with kernel.loop(tirx.truncdiv(length + (TILE - 1), TILE)) as tile, kernel.loop(TILE_UNITS_PER_ITEM) as step:
            unit = kernel.let(item * TILE_UNITS_PER_ITEM + step)
            with kernel.when(True if units % TILE_UNITS_PER_ITEM == 0 else unit < units):
                tokens = [kernel.let(tirx.min(tile * TILE + t, chunk - 1)) for t in range(TILE)]
                sums = [matrix.walk([kernel.let(row)], tokens)[0] for row in unit_rows(unit)]
                for t in range(TILE):
                    token = kernel.let(tile * TILE + t)
                    with kernel.when(token < length):
                        epilogue(kernel, token, unit, [values[t] for values in sums])
    return kernel.function
