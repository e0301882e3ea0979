"""RMS norms of queries and keys before their rotation, a workgroup a head.

The rotation itself is `kernels/rope.py`'s. The numpy twins are `reference.rms_norm` and `reference.rotate`.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, Kernel, all_of, ceil_div, f32, i32, select
from ..cache import Cache, Heads
from ..rope import RopePart, Rotation, bound_table
from ..shapes import Norm
from .norm import total

THREADS = 64


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
    heads, half, size = cache.heads, cache.heads.size // 2, cache.heads.size
    with Kernel(name) as kernel:
        qkv = kernel.buffer("qkv", chunk * heads.rows, "float32")
        gammas = _bound_gammas(kernel, heads, norm, whole)
        state = kernel.buffer("state", state_words, "uint32")
        table = bound_table(kernel, cache, part)
        kept = cache.bind(kernel)
        query = kernel.buffer("query", chunk * heads.query * size, "float32")
        rotation = Rotation(kernel, cache, part, state, table, kept, query)
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

            mean = total(kernel, partial, THREADS, thread, span, square) / f32(span if whole else float(size))
            factor = kernel.let(T.rsqrt(mean + f32(norm.epsilon)))

            def scaled(index: Expr) -> Expr:
                """An element of the head, normalized where the head is a query or a key."""
                value = kernel.registers()
                value[0] = qkv[source + index]
                for gamma, (start, stop) in zip(gammas, heads.normalized, strict=True):
                    with kernel.when(all_of([head >= start, head < stop])):
                        place = index + (head - start) * size if whole else index
                        weight = kernel.f16(gamma, place) if norm.f16_weight else gamma[place]
                        value[0] = value[0] * factor * weight
                return value[0]

            with kernel.loop(ceil_div(half, THREADS)) as step:
                unit = kernel.let(step * THREADS + thread)
                with kernel.when(unit < half):
                    pair = _, _, first, second = tuple(kernel.let(v) for v in heads.pair(head * half + unit))
                    values = scaled(first), scaled(second)
                    rotation.store(row, pair, values)
    return kernel.function


def _bound_gammas(kernel: Kernel, heads: Heads, norm: Norm, whole: bool) -> list[Array]:
    """The next bindings: the weights of the queries' norm and of the keys', of a head or, `whole`, of all."""
    gammas = []
    for label, count in (("query_gamma", heads.query), ("key_gamma", heads.key_value)):
        length = heads.size * count if whole else heads.size
        dtype = "uint32" if norm.f16_weight else "float32"
        gammas.append(kernel.buffer(label, ceil_div(length, 2) if norm.f16_weight else length, dtype))
    return gammas
