"""Token embedding, the rotation of a chunk's queries and keys, columns in another order: kernels for GPU and CPU.

A decode step puts cos/sin of its position into the state buffer, behind the header, once for all layers. The numpy
twins are `reference.embed` and `reference.rotate`; of `gather` it is numpy's own indexing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..weights.storage import PART, Storage
from .builder import Array, Expr, Kernel, all_of, ceil_div, div, f32, f32_to_bits, i32
from .cache import Cache
from .epilogue import STATE_HEADER
from .rope import RopePart, Rotation, bound_table, cos_sin, rope_words
from .weights import WordMatrix

THREADS = 64


@dataclass(frozen=True)
class Vocabulary:
    """Rows `[start, stop)` of the embedding, of k columns; they are multiplied by `factor`."""

    storage: Storage
    rows: tuple[int, int]
    k: int
    factor: float = 1.0


@dataclass(frozen=True)
class Table:
    """The rotary table: frequencies of all layers, and positions."""

    pairs: int
    context: int


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
    name: str, part: Vocabulary, rope: Table, state_words: int, kernel_type: type[Kernel] = Kernel
) -> tirx.PrimFunc:
    """Decode: x = embedding[token] for tokens of the part.

    The part that holds row 0 also stores cos/sin of the position.

    Bindings: weights, [scales], [rope], state (written by the first part where there is a rope), out.
    """
    (start, stop), k = part.rows, part.k
    pairs = rope.pairs
    with kernel_type(name) as kernel:
        matrix = WordMatrix(kernel, part.storage, stop - start, k)
        table = kernel.buffer("rope", rope_words(pairs, rope.context), "float32") if start == 0 and pairs else None
        state = kernel.buffer("state", state_words, "uint32")
        out = kernel.buffer("out", k // 4, "float32x4")
        blocks = ceil_div(max(k // PART, pairs if table else 0), THREADS)
        block, _ = kernel.grid(blocks)
        index = kernel.let(block * THREADS + kernel.threads(THREADS))
        token = kernel.let(i32(state[1]))
        with kernel.when(all_of([token >= start, token < stop, index < k // PART])):
            _copy_row(kernel, matrix, kernel.let(token - start), index, out, 0, part.factor)
        if table:
            with kernel.when(index < pairs):
                cos, sin = cos_sin(kernel, table, kernel.let(i32(state[0])), index, pairs, rope.context)
                state[STATE_HEADER + 2 * index] = f32_to_bits(cos)
                state[STATE_HEADER + 2 * index + 1] = f32_to_bits(sin)
    return kernel.function


def embed_chunk(name: str, part: Vocabulary, chunk: int, kernel_type: type[Kernel] = Kernel) -> tirx.PrimFunc:
    """Prefill: x[r] = embedding[input_ids[r]] for ids of the part.

    Bindings: input_ids, weights, [scales], out.
    """
    (start, stop), k = part.rows, part.k
    with kernel_type(name) as kernel:
        ids = kernel.buffer("input_ids", chunk, "uint32")
        matrix = WordMatrix(kernel, part.storage, stop - start, k)
        out = kernel.buffer("out", chunk * (k // 4), "float32x4")
        block, row = kernel.grid(ceil_div(k // PART, THREADS), chunk)
        index = kernel.let(block * THREADS + kernel.threads(THREADS))
        token = kernel.let(i32(ids[row]))
        with kernel.when(all_of([token >= start, token < stop, index < k // PART])):
            _copy_row(kernel, matrix, kernel.let(token - start), index, out, row, part.factor)
    return kernel.function


def gather(name: str, k: int, chunk: int, kernel_type: type[Kernel] = Kernel) -> tirx.PrimFunc:
    """out[r, c] = x[r, order[c]]: activations in the order of the columns of a matrix.

    Bindings: x (f32 `[chunk, k]`), order (`[k]`), out.
    """
    with kernel_type(name) as kernel:
        x = kernel.buffer("x", chunk * k, "float32")
        order = kernel.buffer("order", k, "uint32")
        out = kernel.buffer("out", chunk * k, "float32")
        block, row = kernel.grid(ceil_div(k, THREADS), chunk)
        index = kernel.let(block * THREADS + kernel.threads(THREADS))
        with kernel.when(True if k % THREADS == 0 else index < k):
            column = kernel.let(i32(tirx.min(order[index], T.uint32(k - 1))))  # which an artifact may say wrong
            out[row * k + index] = x[row * k + column]
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
        rotation = Rotation(kernel, cache, part, state, table, kept, query)
        block, row = kernel.grid(ceil_div(units, THREADS), chunk)
        unit = kernel.let(block * THREADS + kernel.threads(THREADS))
        with kernel.when(all_of([unit < units, row < i32(state[2])])):
            pair = head, _, first, second = tuple(kernel.let(value) for value in heads.pair(unit))
            source = kernel.let(row * heads.rows + head * heads.size)
            values = qkv[source + first], qkv[source + second]
            rotation.store(row, pair, values)
    return kernel.function
