"""What needs whole heads before the cache has them, a workgroup a head: RMS norms of queries and keys, and 8 bits.

The rotation itself is `kernels/rope.py`'s. The numpy twins are `reference.rms_norm`, `reference.rotate` and
`reference.in_8_bits`.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, Kernel, all_of, call, ceil_div, div, f32, f32_to_bits, i32, mod, select
from ..cache import Cache, Heads
from ..rope import RopePart, Rotation, bound_table
from ..shapes import Norm
from .norm import total

THREADS = 64


def normalize_rotate_chunk(
    name: str,
    cache: Cache,
    chunk: int,
    norm: Norm | None,
    state_words: int,
    part: RopePart | None = None,
    whole: bool = False,
) -> tirx.PrimFunc:
    """As `rotate_chunk`, for caches of 8 bits, too; with `norm` an RMS norm of each query and key head comes before.

    With `whole` a norm is of all query heads together, and one of all key heads: every workgroup sums up their squares.
    A chunk of 1 serves decode.

    Bindings: qkv, [query gamma, key gamma, with a norm], state, [rope, where heads rotate], cache, query.
    """
    heads, half, size = cache.heads, cache.heads.size // 2, cache.heads.size
    with Kernel(name) as kernel:
        qkv = kernel.buffer("qkv", chunk * heads.rows, "float32")
        gammas = [] if norm is None else _bound_gammas(kernel, heads, norm, whole)
        state = kernel.buffer("state", state_words, "uint32")
        table = bound_table(kernel, cache, part)
        kept = cache.bind(kernel)
        query = kernel.buffer("query", chunk * heads.query * size, "float32")
        rotation = Rotation(kernel, cache, part, state, table, kept, query)
        head, row = kernel.grid(heads.query + 2 * heads.key_value, chunk)
        thread = kernel.threads(THREADS)
        partial = kernel.shared(THREADS)
        turned = kernel.shared(size) if cache.bytes else None
        with kernel.when(True if chunk == 1 else row < i32(state[2])):
            scaled = _normalized(kernel, cache, (qkv, gammas), (norm, whole), (head, row, thread), partial)
            with kernel.loop(ceil_div(half, THREADS)) as step:
                unit = kernel.let(step * THREADS + thread)
                with kernel.when(unit < half):
                    pair = _, _, first, second = tuple(kernel.let(v) for v in heads.pair(head * half + unit))
                    values = scaled(first), scaled(second)
                    if turned is None:
                        rotation.store(row, pair, values)
                    else:
                        both = rotation.turn(rotation.position(row), pair, values)
                        turned[first], turned[second] = both
            if turned is not None:
                kernel.barrier()
                _store_whole(rotation, (head, row, thread), turned, partial)
    return kernel.function


def _normalized(
    kernel: Kernel,
    cache: Cache,
    bound: tuple[Array, list[Array]],
    normed: tuple[Norm | None, bool],
    place: tuple[Expr, Expr, Expr],
    partial: Array,
) -> Callable[[Expr], Expr]:
    """What gives an element of this workgroup's head, normalized where the head is a query or a key and has a norm.

    `bound` are qkv and the weights of the norms, `place` is (head, row, thread).
    """
    (qkv, gammas), (norm, whole), (head, row, thread) = bound, normed, place
    heads, size = cache.heads, cache.heads.size
    source = kernel.let(row * heads.rows + head * size)
    if norm is None:
        return lambda index: qkv[source + index]
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
        value = kernel.registers()
        value[0] = qkv[source + index]
        for gamma, (first, stop) in zip(gammas, heads.normalized, strict=True):
            with kernel.when(all_of([head >= first, head < stop])):
                at = index + (head - first) * size if whole else index
                weight = kernel.f16(gamma, at) if norm.f16_weight else gamma[at]
                value[0] = value[0] * factor * weight
        return value[0]

    return scaled


def _store_whole(rotation: Rotation, place: tuple[Expr, Expr, Expr], turned: Array, partial: Array) -> None:
    """A head that is in workgroup memory where it belongs: queries as they are, keys and values in 8 bits.

    `place` is (head, row, thread).
    """
    kernel, cache, heads, (head, row, thread) = rotation.kernel, rotation.cache, rotation.cache.heads, place
    with T.If(head < heads.query):
        with T.Then():
            base = kernel.let((row * heads.query + head) * heads.size)
            with kernel.loop(ceil_div(heads.size, THREADS)) as step:
                index = kernel.let(step * THREADS + thread)
                with kernel.when(index < heads.size):
                    rotation.query[base + index] = turned[index]
        with T.Else():
            top = _largest(kernel, partial, thread, turned)
            parts = kernel.let(select(top > f32(0.0), f32(1.0) / top, f32(0.0)))
            line = kernel.let(rotation.position(row) * cache.row_words)
            stored = kernel.let(head - heads.query)
            with kernel.loop(ceil_div(cache.head_words, THREADS)) as step:
                word = kernel.let(step * THREADS + thread)
                with kernel.when(word < cache.head_words):
                    four = tirx.Shuffle([kernel.let(turned[4 * word + i] * parts) for i in range(4)], [0, 1, 2, 3])
                    rotation.kept[line + stored * cache.head_words + word] = call("uint32", "pack4x8snorm", four)
            with kernel.when(thread == 0):
                scale = 2 * mod(stored, heads.key_value) + div(stored, heads.key_value)
                rotation.kept[line + cache.scales + scale] = f32_to_bits(top)


def _largest(kernel: Kernel, shared: Array, thread: Expr, values: Array) -> Expr:
    """The largest magnitude of the values, by all threads of a workgroup; each has a place in `shared`."""
    own = kernel.registers()
    own[0] = f32(0.0)
    with kernel.loop(ceil_div(values.length, THREADS)) as step:
        index = kernel.let(step * THREADS + thread)
        with kernel.when(index < values.length):
            value = kernel.let(values[index])
            own[0] = tirx.max(own[0], tirx.max(value, f32(0.0) - value))
    shared[thread] = own[0]
    kernel.barrier()
    largest = kernel.registers()
    largest[0] = f32(0.0)
    with kernel.loop(THREADS) as other:
        largest[0] = tirx.max(largest[0], shared[other])
    return kernel.let(largest[0])


def _bound_gammas(kernel: Kernel, heads: Heads, norm: Norm, whole: bool) -> list[Array]:
    """The next bindings: the weights of the queries' norm and of the keys', of a head or, `whole`, of all."""
    gammas = []
    for label, count in (("query_gamma", heads.query), ("key_gamma", heads.key_value)):
        length = heads.size * count if whole else heads.size
        dtype = "uint32" if norm.f16_weight else "float32"
        gammas.append(kernel.buffer(label, ceil_div(length, 2) if norm.f16_weight else length, dtype))
    return gammas
