"""Token embedding, and the rotary table.

Rotary angles come from a table the compiler computes in f64: cos/sin of `256 a x f` and of `b x f` for every frequency
f, so that position `256 a + b` needs one complex product and no `sin` of a large argument (WGSL promises little
there). A decode step puts cos/sin of its position into the state buffer, behind the header, once for all layers.

The numpy twins are `reference.embed` and `reference.rotate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import (
    Array,
    Expr,
    Kernel,
    all_of,
    ceil_div,
    div,
    f32,
    f32_to_bits,
    i32,
    mod,
    select,
)
from compiler.kernels.cache import Cache
from compiler.kernels.epilogue import STATE_HEADER
from compiler.kernels.webgpu.matvec import Norm
from compiler.kernels.webgpu.norm import total
from compiler.kernels.weights import WordMatrix
from compiler.weights.storage import PART, Storage

ROPE_BLOCK = 256  # positions of the fine table
THREADS = 64


@dataclass(frozen=True)
class RopePart:
    """Where a layer's pairs stand among the `pairs` of a table that holds the frequencies of all layers."""

    first: int
    pairs: int


def rope_table(inv_freq: np.ndarray, scaling: float | np.ndarray, context: int) -> np.ndarray:
    """The two-level table: f32 `[ceil(context/256) + 256, len(inv_freq), 2]`, coarse rows first, then fine ones.

    `scaling` multiplies cos and sin (longrope's attention factor), of all frequencies or of each its own, and stands in
    the coarse rows.
    """
    coarse = np.arange(ceil_div(context, ROPE_BLOCK))[:, None] * ROPE_BLOCK * inv_freq.astype(np.float64)
    fine = np.arange(ROPE_BLOCK)[:, None] * inv_freq.astype(np.float64)
    rows = [np.stack([np.cos(angle), np.sin(angle)], axis=-1) for angle in (coarse, fine)]
    return np.concatenate([rows[0] * np.reshape(scaling, (-1, 1)), rows[1]]).astype(np.float32)


def rope_words(pairs: int, context: int) -> int:
    """Length of the table in f32 words."""
    return (ceil_div(context, ROPE_BLOCK) + ROPE_BLOCK) * pairs * 2


def _cos_sin(kernel: Kernel, table: Array, position: Expr, pair: Expr, pairs: int, context: int) -> tuple[Expr, Expr]:
    coarse = kernel.let((div(position, ROPE_BLOCK) * pairs + pair) * 2)
    fine = kernel.let(((mod(position, ROPE_BLOCK) + ceil_div(context, ROPE_BLOCK)) * pairs + pair) * 2)
    ca, sa = kernel.let(table[coarse]), kernel.let(table[coarse + 1])
    cb, sb = kernel.let(table[fine]), kernel.let(table[fine + 1])
    return kernel.let(ca * cb - sa * sb), kernel.let(sa * cb + ca * sb)


def _copy_row(
    kernel: Kernel, matrix: WordMatrix, row: Expr, part: Expr, out: Array, out_row: Expr, factor: float
) -> None:
    """Dequantize one part of an embedding row into the activations, times `factor`."""
    values = matrix.part(row, part)
    if matrix.factors:
        scale, offset = matrix.factors.line(row, div(part, matrix.storage.parts))
        values = values[0] * scale + offset, values[1] * scale + offset
    if factor != 1:
        values = values[0] * T.broadcast(f32(factor), 4), values[1] * T.broadcast(f32(factor), 4)
    base = out_row * (matrix.k // 4) + part * 2
    out[base], out[base + 1] = values


def embed_token(
    name: str,
    storage: Storage,
    rows: tuple[int, int],
    k: int,
    pairs: int,
    context: int,
    state_words: int,
    kernel_type: type[Kernel] = Kernel,
    factor: float = 1.0,
) -> tirx.PrimFunc:
    """Decode: x = factor * embedding[token] for tokens in `rows`.

    The part that holds row 0 also stores cos/sin of the position.

    Bindings: weights, [scales], [rope], state (written by the first part), out.
    """
    start, stop = rows
    with kernel_type(name) as kernel:
        matrix = WordMatrix(kernel, storage, stop - start, k)
        table = kernel.buffer("rope", rope_words(pairs, context), "float32") if start == 0 else None
        state = kernel.buffer("state", state_words, "uint32")
        out = kernel.buffer("out", k // 4, "float32x4")
        blocks = ceil_div(max(k // PART, pairs if table else 0), THREADS)
        block, _ = kernel.grid(blocks)
        index = kernel.let(block * THREADS + kernel.threads(THREADS))
        token = kernel.let(i32(state[1]))
        with kernel.when(all_of([token >= start, token < stop, index < k // PART])):
            _copy_row(kernel, matrix, kernel.let(token - start), index, out, 0, factor)
        if table:
            with kernel.when(index < pairs):
                cos, sin = _cos_sin(kernel, table, kernel.let(i32(state[0])), index, pairs, context)
                state[STATE_HEADER + 2 * index] = f32_to_bits(cos)
                state[STATE_HEADER + 2 * index + 1] = f32_to_bits(sin)
    return kernel.function


def embed_chunk(
    name: str,
    storage: Storage,
    chunk: int,
    rows: tuple[int, int],
    k: int,
    kernel_type: type[Kernel] = Kernel,
    factor: float = 1.0,
) -> tirx.PrimFunc:
    """Prefill: x[r] = factor * embedding[input_ids[r]] for ids in `rows`.

    Bindings: input_ids, weights, [scales], out.
    """
    start, stop = rows
    with kernel_type(name) as kernel:
        ids = kernel.buffer("input_ids", chunk, "uint32")
        matrix = WordMatrix(kernel, storage, stop - start, k)
        out = kernel.buffer("out", chunk * (k // 4), "float32x4")
        block, row = kernel.grid(ceil_div(k // PART, THREADS), chunk)
        index = kernel.let(block * THREADS + kernel.threads(THREADS))
        token = kernel.let(i32(ids[row]))
        with kernel.when(all_of([token >= start, token < stop, index < k // PART])):
            _copy_row(kernel, matrix, kernel.let(token - start), index, out, row, factor)
    return kernel.function


def rotate_chunk(
    name: str,
    cache: Cache,
    chunk: int,
    state_words: int,
    kernel_type: type[Kernel] = Kernel,
    part: RopePart | None = None,
) -> tirx.PrimFunc:
    """Prefill: split the qkv product, rotate queries and keys, append keys and values to the cache.

    Bindings: qkv, state, [rope, where heads rotate], cache, query.
    """
    heads = cache.heads
    units = heads.rows // 2
    with kernel_type(name) as kernel:
        qkv = kernel.buffer("qkv", chunk * heads.rows, "float32")
        state = kernel.buffer("state", state_words, "uint32")
        table = bound_table(kernel, cache, part)
        kept = cache.bind(kernel)
        query = kernel.buffer("query", chunk * heads.query * heads.size, "float32")
        block, row = kernel.grid(ceil_div(units, THREADS), chunk)
        unit = kernel.let(block * THREADS + kernel.threads(THREADS))
        with kernel.when(all_of([unit < units, row < i32(state[2])])):
            pair = head, _, first, second = tuple(kernel.let(value) for value in heads.pair(unit))
            source = kernel.let(row * heads.rows + head * heads.size)
            values = qkv[source + first], qkv[source + second]
            _rotate_and_store(kernel, cache, part, state, table, kept, query, row, pair, values)
    return kernel.function


def bound_table(kernel: Kernel, cache: Cache, part: RopePart | None) -> Array | None:
    """The next binding: the rotary table, of the layer's own pairs or with it as a part; none where nothing rotates."""
    if not cache.heads.rotary:
        return None
    pairs = part.pairs if part is not None else cache.heads.rotary // 2
    return kernel.buffer("rope", rope_words(pairs, cache.context), "float32")


def _rotate_and_store(kernel, cache: Cache, part, state, table, kept, query, row, pair, values) -> None:  # type: ignore[no-untyped-def]
    """Rotate one pair of a head where it rotates, and put it where the head belongs."""
    heads, (head, i, _, _) = cache.heads, pair
    position = kernel.let(i32(state[0]) + row)
    a, b = kernel.registers(), kernel.registers()
    a[0], b[0] = values
    whole = heads.rotary == heads.size
    part = part or RopePart(0, heads.rotary // 2)
    if table is not None:
        with kernel.when(all_of([head < heads.query + heads.key_value, True if whole else i < heads.rotary // 2])):
            place = i + part.first if part.first else i
            cos, sin = _cos_sin(kernel, table, position, place, part.pairs, cache.context)
            x, y = kernel.let(a[0]), kernel.let(b[0])
            a[0] = x * cos - y * sin
            b[0] = y * cos + x * sin
    cache.store(kernel, kept, query, row, position, pair, (a[0], b[0]))


def normalize_rotate_chunk(
    name: str,
    cache: Cache,
    chunk: int,
    norm: Norm,
    state_words: int,
    part: RopePart | None = None,
    whole: bool = False,
) -> tirx.PrimFunc:
    """As `rotate_chunk`, with an RMS norm of each query and key head before the rotation; a chunk of 1 serves decode.

    With `whole` a norm is of all query heads together, and one of all key heads: every workgroup sums up their squares.

    Bindings: qkv, query gamma, key gamma, state, [rope, where heads rotate], cache, query.
    """
    heads = cache.heads
    half, size = heads.size // 2, heads.size
    gammas = []
    with Kernel(name) as kernel:
        qkv = kernel.buffer("qkv", chunk * heads.rows, "float32")
        for label, count in (("query_gamma", heads.query), ("key_gamma", heads.key_value)):
            length = size * count if whole else size
            dtype = "uint32" if norm.f16_weight else "float32"
            gammas.append(kernel.buffer(label, ceil_div(length, 2) if norm.f16_weight else length, dtype))
        state = kernel.buffer("state", state_words, "uint32")
        table = bound_table(kernel, cache, part)
        kept = cache.bind(kernel)
        query = kernel.buffer("query", chunk * heads.query * size, "float32")
        head, row = kernel.grid(heads.query + 2 * heads.key_value, chunk)
        thread = kernel.threads(THREADS)
        partial = kernel.shared(THREADS)
        with kernel.when(True if chunk == 1 else row < i32(state[2])):
            source = kernel.let(row * heads.rows + head * size)
            start, span = source, size
            if whole:
                asks = head < heads.query
                start = kernel.let(row * heads.rows + select(asks, 0, heads.query * size))
                span = kernel.let(select(asks, heads.query * size, heads.key_value * size))

            def square(index: Expr) -> Expr:
                value = kernel.let(qkv[start + index])
                return value * value

            squares = total(kernel, partial, THREADS, thread, span, square)
            mean = squares / f32(span if whole else float(size))
            factor = kernel.let(T.rsqrt(mean + f32(norm.epsilon)))

            def scaled(index: Expr) -> Expr:
                """An element of the head, normalized where the head is a query or a key."""
                value = kernel.registers()
                value[0] = qkv[source + index]
                for gamma, (start, stop) in zip(
                    gammas, ((0, heads.query), (heads.query, heads.query + heads.key_value)), strict=True
                ):
                    with kernel.when(all_of([head >= start, head < stop])):
                        place = index + (head - start) * size if whole else index
                        weight = gamma[place]
                        if norm.f16_weight:
                            weight = kernel.f16(gamma, place)
                        value[0] = value[0] * factor * weight
                return value[0]

            with kernel.loop(ceil_div(half, THREADS)) as step:
                unit = kernel.let(step * THREADS + thread)
                with kernel.when(unit < half):
                    pair = _, _, first, second = tuple(kernel.let(v) for v in heads.pair(head * half + unit))
                    values = scaled(first), scaled(second)
                    _rotate_and_store(kernel, cache, part, state, table, kept, query, row, pair, values)
    return kernel.function
