"""Prefill in integers: activations in two planes of 8 bits, four products an instruction (`dot4I8Packed`).

A row of activations is quantized in the blocks in which the weights are walked: `x = scale * v`, v a whole number up to
127 * 128 in size, kept as `128 * high + low`, both of which fit 8 bits. (One plane alone is too coarse: it moves logits
by 1 to 2 % of the largest.) Weights stay as they are stored: `w = weight_scale * q + offset`, so a block adds
`scale * (weight_scale * sum(q v) + offset * sum(v))`, and the sums are exact. Needs WGSL's language feature
`packed_4x8_integer_dot_product`.

Quantized rows are `[blocks, parts, 4 words]`: of 8 columns the high planes, then the low ones, in the order in which
weights of so many bits unpack into words. Beside them `[blocks, 2]` floats: scale and `sum(v)`. The numpy twin is
`reference.matmul`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...weights.storage import PART, Storage
from ..builder import Array, Expr, Kernel, call, ceil_div, codebook_words, dot, f32, i32, lane
from ..shapes import MatrixShape, Norm
from ..weights import Matrix, load_vector4
from .norm import total
from .tiles import Tile, Tiling, clear

LANGUAGE_FEATURES = ("packed_4x8_integer_dot_product",)
THREADS = 64
HALF = 128  # of the low plane
LARGEST = 127 * HALF


@dataclass(frozen=True)
class Rows:
    """The shape of quantized rows of k columns: what is alike in the matrices that they are multiplied with."""

    k: int
    bits: int  # of the matrix: of 4 it unpacks into even and odd columns
    block: int  # columns that share a scale

    @classmethod
    def of(cls, storage: Storage, k: int) -> Rows:
        return cls(k, storage.place_bits, storage.block)

    @property
    def blocks(self) -> int:
        return ceil_div(self.k, self.block)

    @property
    def parts(self) -> int:
        """Parts of 8 columns of a block."""
        return self.block // PART

    def shapes(self, chunk: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Words (uint32) and scales (float32) of a chunk."""
        return (chunk, self.blocks * self.parts * 4), (chunk, self.blocks * 2)


def quantize(name: str, rows: Rows, chunk: int, norm: Norm | None, state_words: int) -> tirx.PrimFunc:
    """The rows of a chunk, through RMS norm first when there is one, quantized.

    Bindings: x (f32 x4), [gamma], state, words, scales. Padding rows are skipped.
    """
    k = rows.k
    vectors, blocks = k // 4, rows.blocks
    with Kernel(name) as kernel:
        x = kernel.buffer("x", chunk * vectors, "float32x4")
        gamma = kernel.buffer("gamma", vectors, "uint32x2" if norm.f16_weight else "float32x4") if norm else None
        state = kernel.buffer("state", state_words, "uint32")
        words = kernel.buffer("words", chunk * blocks * rows.parts * 4, "uint32")
        scales = kernel.buffer("scales", chunk * blocks * 2, "float32")
        row, _ = kernel.grid(chunk)
        thread = kernel.threads(THREADS)
        partial = kernel.shared(THREADS) if norm else None
        with kernel.when(row < i32(state[2])):
            factor: Expr = f32(1.0)
            if norm and partial:

                def square(index: Expr) -> Expr:
                    value = kernel.let(x[row * vectors + index])
                    return dot(value, value)

                squares = total(kernel, partial, THREADS, thread, vectors, square)
                factor = kernel.let(T.rsqrt(squares / f32(float(k)) + f32(norm.epsilon)))

            def load(index: Expr) -> Expr:
                value = x[row * vectors + index]
                return value * load_vector4(gamma, norm.f16_weight, index) if norm and gamma else value

            with kernel.loop(ceil_div(blocks, THREADS)) as step:
                index = kernel.let(step * THREADS + thread)
                with kernel.when(index < blocks):
                    first = kernel.let(index * (rows.block // 4))
                    size = _largest(kernel, rows, load, first)
                    steps = kernel.let(tirx.Select(size > f32(0.0), f32(float(LARGEST)) / size, f32(0.0)))
                    place = row * blocks + index
                    total_of_steps = _store_planes(kernel, rows, load, first, steps, (words, place))
                    place = kernel.let(place * 2)
                    scales[place] = size * factor * f32(1.0 / LARGEST)
                    scales[place + 1] = dot(total_of_steps, T.broadcast(f32(1.0), 4))
    return kernel.function


def _largest(kernel: Kernel, rows: Rows, load: Callable[[Expr], Expr], first: Expr) -> Expr:
    """The largest magnitude of the block whose vectors begin at `first`."""
    largest = kernel.registers(1, "float32x4")
    largest[0] = T.broadcast(f32(0.0), 4)
    count: Expr = rows.block // 4
    if rows.k % rows.block:
        count = kernel.let(tirx.min(count, rows.k // 4 - first))
    with kernel.loop(count) as i:
        magnitude = call("float32x4", "abs", kernel.let(load(first + i)))
        largest[0] = call("float32x4", "max", largest[0], magnitude)
    most = kernel.let(largest[0])
    pairs = [tirx.max(lane(most, 2 * i), lane(most, 2 * i + 1)) for i in range(2)]
    return kernel.let(tirx.max(pairs[0], pairs[1]))


def _store_planes(
    kernel: Kernel, rows: Rows, load: Callable[[Expr], Expr], first: Expr, steps: Expr, target: tuple[Array, Expr]
) -> Expr:
    """The block's whole numbers, `steps` a unit, as words of both planes into block `target`; their sum, four lanes."""
    words, place = target
    zeros = T.broadcast(f32(0.0), 4)
    sums = kernel.registers(1, "float32x4")
    sums[0] = zeros
    with kernel.loop(rows.parts) as part:
        planes: list[Expr] = []
        for half in range(2):
            vector = kernel.let(first + part * 2 + half)
            value = kernel.registers(1, "float32x4")
            value[0] = zeros
            with kernel.when(True if rows.k % rows.block == 0 else vector < rows.k // 4):
                value[0] = call("float32x4", "round", load(vector) * T.broadcast(steps, 4))
            sums[0] = sums[0] + value[0]
            high = kernel.let(call("float32x4", "round", value[0] * T.broadcast(f32(1.0 / HALF), 4)))
            low = value[0] - high * T.broadcast(f32(float(HALF)), 4)
            planes += [_pack(kernel, high), _pack(kernel, low)]
        base = kernel.let((place * rows.parts + part) * 4)
        for plane in range(2):
            for i, word in enumerate(_ordered(kernel, rows.bits, planes[plane], planes[plane + 2])):
                words[base + plane * 2 + i] = word
    return sums[0]


def _pack(kernel: Kernel, value: Expr) -> Expr:
    """Four whole numbers up to 127 in size as a word: `pack4x8snorm` multiplies by 127 and rounds."""
    return kernel.let(call("uint32", "pack4x8snorm", value * T.broadcast(f32(1.0 / 127.0), 4)))


def _ordered(kernel: Kernel, bits: int, first: Expr, second: Expr) -> Sequence[Expr]:
    """The words of columns 0..3 and 4..7 in the order of `_weights`: 4 bits unpack into even and odd columns."""
    if bits == 8:
        return first, second

    def gather(shift: int) -> Expr:
        bytes_of = [kernel.let(_byte(word, shift + 16 * i)) for word in (first, second) for i in range(2)]
        value = bytes_of[0]
        for i, byte in enumerate(bytes_of[1:], 1):
            value = tirx.bitwise_or(value, tirx.shift_left(byte, T.uint32(8 * i)))
        return kernel.let(value)

    return gather(0), gather(8)


def _byte(word: Expr, shift: int) -> Expr:
    return tirx.bitwise_and(tirx.shift_right(word, T.uint32(shift)) if shift else word, T.uint32(255))


def _weights(kernel: Kernel, matrix: Matrix, loaded: Sequence[Expr], step: Expr) -> Sequence[Expr]:
    """The 8 stored integers of a part as two words of four signed bytes; those of 8 bits less 128."""
    words = matrix.words_at(loaded, step)
    if matrix.storage.high_bits:
        return words
    if matrix.storage.bits == 8:
        return [kernel.let(tirx.bitwise_xor(word, T.uint32(0x80808080))) for word in words]
    if matrix.storage.codebook:
        table, odd = codebook_words(matrix.storage.codebook), tirx.shift_right(words[0], T.uint32(4))
        return [kernel.let(call("uint32", "wisp_coded_bytes", word, table)) for word in (words[0], odd)]
    low = T.uint32(0x0F0F0F0F)
    odd = tirx.bitwise_and(tirx.shift_right(words[0], T.uint32(4)), low)
    return kernel.let(tirx.bitwise_and(words[0], low)), kernel.let(odd)


def _line(kernel: Kernel, matrix: Matrix, row: Expr, block: Expr) -> tuple[Expr, Expr]:
    """Scale and offset of the integers that `_weights` gives."""
    assert matrix.factors is not None
    storage = matrix.storage
    scale, bias = matrix.factors.of_block(row, block)
    missing = (HALF if storage.bits == 8 else 0) - storage.zero_point
    offset = kernel.let(scale * f32(float(missing))) if missing else None
    if bias is None or offset is None:
        only = offset if bias is None else bias
        return scale, f32(0.0) if only is None else only
    return scale, kernel.let(offset + bias)


def matmul(name: str, shape: MatrixShape, tiling: Tiling) -> tirx.PrimFunc:
    """Build the product of quantized rows.

    Bindings: words, their scales, weights, their scales, state, then what the epilogue declares.
    """
    blocks, parts = shape.storage.blocks(shape.k), shape.storage.parts
    with Kernel(name) as kernel:
        words = kernel.buffer("words", shape.chunk * blocks * parts, "uint32x4")
        row_scales = kernel.buffer("row_scales", shape.chunk * blocks, "float32x2")
        matrix = Matrix(kernel, shape.storage, shape.rows, shape.k)
        tile = Tile(kernel, shape, tiling)
        with kernel.when(tile.inside):
            columns = tile.columns()
            x_rows = [kernel.let(tile.row(r) * blocks) for r in range(tiling.tile_rows)]
            sums, totals = tile.registers(), tile.registers("int32")
            clear(sums)
            with kernel.loop(blocks) as block:
                clear(totals, T.int32(0))
                loaded = [matrix.load(row, block) for row in columns]
                with kernel.loop(parts) as step:
                    weights = [_weights(kernel, matrix, elements, step) for elements in loaded]
                    for base, row_totals in zip(x_rows, totals, strict=True):
                        v = kernel.let(words[(base + block) * parts + step])
                        for (a, b), total in zip(weights, row_totals, strict=True):
                            high = _dot4(a, lane(v, 0)) + _dot4(b, lane(v, 1))
                            low = _dot4(a, lane(v, 2)) + _dot4(b, lane(v, 3))
                            total[0] = total[0] + high * T.int32(HALF) + low
                lines = [_line(kernel, matrix, row, block) for row in columns]
                for base, row_totals, row_sums in zip(x_rows, totals, sums, strict=True):
                    own = kernel.let(row_scales[base + block])
                    for (scale, offset), total, register in zip(lines, row_totals, row_sums, strict=True):
                        value = f32(total[0]) * scale + lane(own, 1) * offset
                        register[0] = register[0] + value * lane(own, 0)
            tile.store(sums)
    return kernel.function


def _dot4(a: Expr, b: Expr) -> Expr:
    return call("int32", "dot4I8Packed", a, b)
