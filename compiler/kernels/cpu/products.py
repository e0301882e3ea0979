"""Products of activations and a weight matrix on the CPU: mat-vec for decode, tiled for prefill, epilogues fused.

Matrices of 4 and 8 bits are multiplied in integers, a block of at most 32 columns at a time, with activations of 16
bits (see `activation`): `i32x4.dot_i16x8_s` adds 8 products an instruction, 32 of them never overflow, and the sum of a
block becomes f32 and takes both scales. What zero point or bias add is the block's sum of activations, made once where
they are quantized. Unquantized matrices are multiplied in f32. Weights are read as MLC lays them out.

A unit is what the epilogue needs together (one matrix row or two; more rows side by side are slower than one after the
other). An item is a block of units: small ones in decode, larger ones in prefill, where a row of weights is
unpacked once for a tile of `TILE` tokens. The numpy twins are `reference.matvec` and `reference.matmul`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...weights.storage import LOW, Storage
from ..builder import Array, Expr, ceil_div, f32, i32
from ..shapes import MatrixShape
from .activation import Layout
from .builder import (
    CpuKernel,
    coded,
    constant,
    convert,
    dot_i16,
    f16_bits_to_f32,
    load,
    splat,
    sum_lanes,
    sum_lanes_of_four,
)

UNITS_PER_ITEM = 8  # of a mat-vec
TILE = 8  # tokens that share an unpacked block of weights
TILE_UNITS_PER_ITEM = 16
TOGETHER = 4  # blocks whose scales are converted together


class IntegerMatrix:
    """A matrix of 4 or 8 bits and the quantized activations it is multiplied with, bound to a kernel."""

    def __init__(self, kernel: CpuKernel, storage: Storage, chunk: int, rows: int, k: int) -> None:
        self.kernel = kernel
        self.storage = storage
        self.layout = layout = Layout.of(storage, k)
        self.values = kernel.buffer("values", chunk * layout.blocks * layout.vectors, "int16x8")
        self.scales = kernel.buffer("scales", chunk * layout.padded_blocks, "float32")
        self.sums = kernel.buffer("sums", chunk * layout.padded_blocks, "float32")
        words = storage.words(storage.block)
        # Elements in two pieces come from words that no vector is aligned to.
        # 16 bytes of a block of 32 unpack into planes of 4 bits; 8 bytes of one of 16 are widened.
        dtype, words_of = ("uint8x8", 2) if words == 2 else ("uint16x8" if storage.bits == 4 else "uint8x16", 4)
        if storage.high_bits:
            dtype, words_of = "uint32", 1
        self.per_block, self.per_row = words // words_of, storage.words_per_row(k) // words_of
        self.weights = kernel.buffer("weights", rows * self.per_row, dtype)
        self.groups = storage.groups(k)
        # A word holds a scale in its low half and the bias, or the zero point, in its high one.
        self.factors = kernel.buffer("weight_scales", rows * self.groups, "uint32" if storage.bias else "uint16")

    def unpack(self, row: Expr, block: Expr) -> list[Expr]:
        """The weights of a block in vectors of eight, in the order of the activations."""
        kernel, first = self.kernel, row * self.per_row + block * self.per_block
        if self.storage.high_bits:
            return self._joined(kernel.let(first))
        if self.storage.codebook:
            return self._coded(kernel.let(self.weights[first]))
        if self.storage.bits == 4 and self.layout.vectors == 4:
            words = kernel.let(self.weights[first])
            shifted = [words, *(T.shift_right(words, splat(T.uint16(4 * i), 8)) for i in (1, 2, 3))]
            fields = [T.bitwise_and(v, splat(T.uint16(15), 8)) for v in shifted[:3]] + shifted[3:]
            return [kernel.let(T.cast(field, "int16x8")) for field in fields]
        if self.storage.bits == 4:
            wide = kernel.let(T.cast(self.weights[first], "int16x8"))
            low = kernel.let(T.bitwise_and(wide, splat(T.int16(15), 8)))
            return [low, kernel.let(T.shift_right(wide, splat(T.int16(4), 8)))]
        parts = []
        for vector in range(self.per_block):
            data = kernel.let(self.weights[first + vector])
            for half in range(2):
                lanes = tirx.Shuffle([data], list(range(half * 8, half * 8 + 8)))
                parts.append(kernel.let(T.cast(lanes, "int16x8")))
        return parts

    def _coded(self, words: Expr) -> list[Expr]:
        """Elements of a block of 32 by a codebook: nibbles of even bytes, then of odd ones, are what planes are of."""
        kernel, eight = self.kernel, splat(T.int16(8), 8)
        nibbles = [T.bitwise_and(words, splat(T.uint16(0x0F0F), 8))]
        nibbles.append(T.bitwise_and(_shifted(words, -4), splat(T.uint16(0x0F0F), 8)))
        values = [coded(kernel, T.reinterpret("int8x16", four), self.storage.codebook) for four in nibbles]
        lanes = [kernel.let(T.reinterpret("int16x8", value)) for value in values]
        even = [kernel.let(T.shift_right(T.shift_left(lane, eight), eight)) for lane in lanes]
        return [*even, *(kernel.let(T.shift_right(lane, eight)) for lane in lanes)]

    def _joined(self, first: Expr) -> list[Expr]:
        """Elements in two pieces: the low halves of bytes begin those of half a block, the high ones the others."""
        kernel, storage = self.kernel, self.storage
        bits, size = storage.high_bits, 4 * storage.high_words  # bytes of the elements' high bits

        def everywhere(word: int, words: int) -> Expr:
            """So many words over and over, in lanes of 16 bits: shifts of bytes take more instructions."""
            loaded = kernel.let(load(self.weights, first + word, words) if words > 1 else self.weights[first + word])
            four = tirx.Shuffle([loaded] * (4 // words), list(range(4)))
            return kernel.let(T.reinterpret("uint16x8", four))

        def above(value: Expr, first: int) -> Expr:
            """The high bits of each byte's element in their place; bits of turn i stand at `first` + i * bits."""
            found: list[Expr] = []
            for turn in range(turns):
                lanes = [2 * lane // size % turns == turn for lane in range(8)]
                moved = _shifted(value, LOW - first - bits * turn)
                found.append(T.bitwise_and(moved, _constants([mask * taken for taken in lanes])))
            return functools.reduce(T.bitwise_or, found)

        low, high = everywhere(0, storage.low_words), everywhere(storage.low_words, storage.high_words)
        turns, mask, nibbles = LOW // bits, (2**bits - 1 << LOW) * 0x0101, splat(T.uint16(0x0F0F), 8)
        halves = (
            T.bitwise_or(T.bitwise_and(low, nibbles), above(high, 0)),
            T.bitwise_or(T.bitwise_and(_shifted(low, -LOW), nibbles), above(high, LOW)),
        )
        parts = []
        for half in halves:
            elements = kernel.let(T.reinterpret("uint8x16", half))
            for start in range(0, storage.block // 2, 8):
                eight = tirx.Shuffle([elements], list(range(start, start + 8)))
                parts.append(kernel.let(T.cast(eight, "int16x8")))
        return parts

    def dot(self, weights: Sequence[Expr], token: Expr, block: Expr) -> Expr:
        """The block's product with a token's steps, in four partial sums."""
        first = (token * self.layout.blocks + block) * self.layout.vectors
        products = [dot_i16(weight, self.values[first + i]) for i, weight in enumerate(weights)]
        pairs = [a + b for a, b in zip(products[::2], products[1::2], strict=True)]
        return functools.reduce(operator.add, pairs)

    def four(self, row: Expr, block: Expr) -> tuple[Expr, Expr]:
        """Scales of four blocks from `block` on, which divides by 4, and what their sums are multiplied with."""
        repeat = self.storage.blocks_per_group
        first, count = row * self.groups + tirx.truncdiv(block, repeat), TOGETHER // repeat
        if count == 1:
            return self._line(splat(self.factors[first]))
        bits = self.kernel.let(load(self.factors, first, count))
        if repeat > 1:
            bits = tirx.Shuffle([bits] * repeat, [i // repeat for i in range(TOGETHER)])
        return self._line(bits)

    def one(self, row: Expr, block: int) -> tuple[Expr, Expr]:
        """The same of one block, as scalars."""
        return self._line(self.factors[row * self.groups + block // self.storage.blocks_per_group])

    def _line(self, bits: Expr) -> tuple[Expr, Expr]:
        """Scale and offset, of which an element is `q * scale + offset`, from what is stored of them."""
        kernel, bits = self.kernel, self.kernel.let(bits)
        scale = f16_bits_to_f32(kernel, bits)
        if self.storage.bias:
            second = f16_bits_to_f32(kernel, T.shift_right(bits, constant(16, "uint32", bits)))
            if self.storage.zeros:
                second = kernel.let(second * scale * constant(-1.0, "float32", scale))
            return scale, second
        return scale, kernel.let(scale * constant(-float(self.storage.zero_point), "float32", scale))

    def walk(self, rows: Sequence[Expr], tokens: Sequence[Expr]) -> list[list[Expr]]:
        """The products of matrix rows and tokens: `[row][token]`, one number each."""
        kernel, layout = self.kernel, self.layout
        sums = [[kernel.registers(1, "float32x4") for _ in tokens] for _ in rows]
        for register in (register for row in sums for register in row):
            register[0] = splat(f32(0.0))
        with kernel.loop(layout.blocks // TOGETHER) as turn:
            block = kernel.let(turn * TOGETHER)
            for r, row in enumerate(rows):
                scale, offset = self.four(row, block)
                for t, token in enumerate(tokens):
                    activations = kernel.let(load(self.sums, token * layout.padded_blocks + block, TOGETHER))
                    sums[r][t][0] = sums[r][t][0] + offset * activations
                (self._at_once if len(tokens) == 1 else self._in_turn)(row, tokens, block, scale, sums[r])
        rest = [[f32(0.0) for _ in tokens] for _ in rows]
        for block in range(layout.blocks // TOGETHER * TOGETHER, layout.blocks):
            for r, row in enumerate(rows):
                scale, offset = self.one(row, block)
                weights = self.unpack(row, block)
                for t, token in enumerate(tokens):
                    place = token * layout.padded_blocks + block
                    factor = splat(kernel.let(self.scales[place] * scale))
                    sums[r][t][0] = sums[r][t][0] + convert(self.dot(weights, token, block), "float32") * factor
                    rest[r][t] = rest[r][t] + offset * self.sums[place]
        return [
            [kernel.let(sum_lanes(register[0]) + extra) for register, extra in zip(row, extras, strict=True)]
            for row, extras in zip(sums, rest, strict=True)
        ]

    def _factors(self, token: Expr, block: Expr, scale: Expr) -> Expr:
        """What the sums of steps and integers of four blocks are multiplied with."""
        return self.kernel.let(load(self.scales, token * self.layout.padded_blocks + block, TOGETHER) * scale)

    def _at_once(self, row: Expr, tokens: Sequence[Expr], block: Expr, scale: Expr, sums: Sequence[Array]) -> None:
        """Add the products of four blocks and a token, each a lane of a vector."""
        (token,), blocks = tokens, [block + i for i in range(TOGETHER)]
        products = [self.kernel.let(self.dot(self.unpack(row, each), token, each)) for each in blocks]
        joined = convert(sum_lanes_of_four(self.kernel, products), "float32")
        sums[0][0] = sums[0][0] + joined * self._factors(token, block, scale)

    def _in_turn(self, row: Expr, tokens: Sequence[Expr], block: Expr, scale: Expr, sums: Sequence[Array]) -> None:
        """Add the products of four blocks and some tokens: 32 columns at a time, whose weights fit into registers."""
        kernel, count = self.kernel, 4 // self.layout.vectors
        for first in range(0, TOGETHER, count):
            blocks = [block + first + i for i in range(count)]
            weights = [self.unpack(row, each) for each in blocks]
            for t, token in enumerate(tokens):
                products = [kernel.let(self.dot(w, token, each)) for w, each in zip(weights, blocks, strict=True)]
                if count == 2:  # two lanes each
                    products = [tirx.Shuffle(products, [0, 1, 4, 5]) + tirx.Shuffle(products, [2, 3, 6, 7])]
                lanes = [first + lane * count // 4 for lane in range(4)]
                factor = tirx.Shuffle([self._factors(token, block, scale)], lanes)
                sums[t][0] = sums[t][0] + convert(products[0], "float32") * factor


def _shifted(value: Expr, by: int) -> Expr:
    """Eight lanes of 16 bits shifted to the left, or to the right by a negative number."""
    shift = T.shift_left if by > 0 else T.shift_right
    return shift(value, splat(T.uint16(abs(by)), 8)) if by else value


def _constants(values: Sequence[int]) -> Expr:
    return tirx.Shuffle([T.uint16(value) for value in values], list(range(len(values))))


class FloatMatrix:
    """An unquantized matrix, f16 or f32, and f32 activations."""

    def __init__(self, kernel: CpuKernel, storage: Storage, chunk: int, rows: int, k: int) -> None:
        self.kernel = kernel
        self.k = k
        self.half = storage.bits == 16
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


def _matrix(kernel: CpuKernel, shape: MatrixShape) -> IntegerMatrix | FloatMatrix:
    kind = IntegerMatrix if shape.storage.group_size else FloatMatrix
    return kind(kernel, shape.storage, shape.chunk, shape.rows, shape.k)


def matvec(name: str, shape: MatrixShape) -> tirx.PrimFunc:
    """Build one row of activations times `[rows, k]^T`: a shape whose chunk is 1.

    Bindings: values, scales, sums (x alone when the matrix is not quantized), weights, [their factors], then what
    the shape's `declare` declares.
    """
    units = shape.units
    with CpuKernel(name) as kernel:
        matrix = _matrix(kernel, shape)
        epilogue = shape.declare(kernel)
        item, _ = kernel.grid(ceil_div(units, UNITS_PER_ITEM))
        with kernel.loop(UNITS_PER_ITEM) as step:
            unit = kernel.let(item * UNITS_PER_ITEM + step)
            with kernel.when(True if units % UNITS_PER_ITEM == 0 else unit < units):
                sums = matrix.walk([kernel.let(row) for row in shape.unit_rows(unit)], [0])
                epilogue(kernel, 0, unit, [values[0] for values in sums])
    return kernel.function


def matmul(name: str, shape: MatrixShape) -> tirx.PrimFunc:
    """Build `[chunk, k] x [rows, k]^T`; bindings as of `matvec`, with the state before what `declare` declares.

    Rows at or beyond the chunk's valid length are not stored.
    """
    chunk, units = shape.chunk, shape.units
    with CpuKernel(name) as kernel:
        matrix = _matrix(kernel, shape)
        state = kernel.buffer("state", shape.state_words, "uint32")
        epilogue = shape.declare(kernel)
        item, _ = kernel.grid(ceil_div(units, TILE_UNITS_PER_ITEM))
        length = kernel.let(i32(state[2]))
        with kernel.loop(tirx.truncdiv(length + (TILE - 1), TILE)) as tile, kernel.loop(TILE_UNITS_PER_ITEM) as step:
            unit = kernel.let(item * TILE_UNITS_PER_ITEM + step)
            with kernel.when(True if units % TILE_UNITS_PER_ITEM == 0 else unit < units):
                tokens = [kernel.let(tirx.min(tile * TILE + t, chunk - 1)) for t in range(TILE)]
                sums = [matrix.walk([kernel.let(row)], tokens)[0] for row in shape.unit_rows(unit)]
                for t in range(TILE):
                    token = kernel.let(tile * TILE + t)
                    with kernel.when(token < length):
                        epilogue(kernel, token, unit, [values[t] for values in sums])
    return kernel.function
