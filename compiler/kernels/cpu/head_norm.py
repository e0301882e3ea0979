"""Head norms and rotation on the CPU: an item is a head of a row.

The bindings are those of `webgpu/head_norm.py`; the numpy twins are `reference.rms_norm` and
`reference.rotate`.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, ceil_div, div, f32, i32, mod
from ..cache import Cache, Heads
from ..rope import ROPE_BLOCK, RopePart, bound_table
from ..shapes import Norm
from .builder import CpuKernel, load, splat, store, sum_lanes
from .norm import weight4


def normalize_rotate_chunk(
    name: str,
    cache: Cache,
    chunk: int,
    norm: Norm,
    state_words: int,
    part: RopePart | None = None,
    whole: bool = False,
) -> tirx.PrimFunc:
    """Normalize and rotate queries and keys, keep queries, append the rest to the cache; a chunk of 1 serves decode.

    Bindings: qkv, query gamma, key gamma (f16 ones as `uint16`), state, [rope], cache, query.
    """
    heads = cache.heads
    size = heads.size
    weight = "uint16" if norm.f16_weight else "float32"
    with CpuKernel(name) as kernel:
        qkv = kernel.buffer("qkv", chunk * heads.rows, "float32")
        counts = (heads.query, heads.key_value) if whole else (1, 1)
        gammas = [kernel.buffer(n, size * c, weight) for n, c in zip(("query_gamma", "key_gamma"), counts, strict=True)]
        state = kernel.buffer("state", state_words, "uint32")
        table = bound_table(kernel, cache, part)
        rows = cache.bind(kernel)
        query = kernel.buffer("query", chunk * heads.query * size, "float32")
        head, row = kernel.grid(heads.query + 2 * heads.key_value, chunk)
        values = kernel.scratch(size)
        with kernel.when(True if chunk == 1 else row < i32(state[2])):
            source = kernel.let(row * heads.rows + head * size)
            position = kernel.let(i32(state[0]) + row)
            kept = kernel.let(position * cache.row_words + (head - heads.query) * (size // (2 if cache.halves else 1)))

            def turned(gamma: Array, first: int, count: int) -> None:
                """The head, which is one of `count` from `first` on that share a norm's weight."""
                start, span = (kernel.let(row * heads.rows + first * size), count * size) if whole else (source, size)
                factor = _rms_factor(kernel, qkv, start, span, norm)
                with kernel.loop(size // 4) as four:
                    value = load(qkv, source + four * 4, 4) * factor
                    at = (head - first) * size + four * 4 if whole else four * 4
                    store(values, four * 4, value * weight4(kernel, gamma, at, norm.f16_weight))
                if table is not None:
                    _rotate(kernel, values, table, position, cache, part)

            with T.If(head < heads.query):
                with T.Then():
                    turned(gammas[0], 0, heads.query)
                    _put(kernel, cache, values, query, kernel.let((row * heads.query + head) * size))
                with T.Else(), T.If(head < heads.query + heads.key_value):
                    with T.Then():
                        turned(gammas[1], heads.query, heads.key_value)
                        _put(kernel, cache, values, rows, kept)
                    with T.Else():
                        _put_values(kernel, cache, qkv, source, rows, kept)
    return kernel.function


def _put(kernel: CpuKernel, cache: Cache, values: Array, target: Array, base: Expr) -> None:
    """A query or a key to where it belongs, in the cache's order."""
    if cache.halves:
        _put_pairs(kernel, values, target, base, cache.heads)
        return
    with kernel.loop(cache.heads.size // 4) as four:
        store(target, base + four * 4, load(values, four * 4, 4))


def _put_values(kernel: CpuKernel, cache: Cache, qkv: Array, source: Expr, rows: Array, kept: Expr) -> None:
    """The values of a head, which stand at `source`, into the cache."""
    with kernel.loop(cache.heads.size // 4) as four:
        value = kernel.let(load(qkv, source + four * 4, 4))
        if cache.halves:
            pairs = (tirx.Shuffle([value], [i, i + 2]) for i in (0, 1))
            store(rows, kept + four * 2, kernel.pack_f16(*pairs))
        else:
            store(rows, kept + four * 4, value)


def _put_pairs(kernel: CpuKernel, values: Array, target: Array, base: Expr, heads: Heads) -> None:
    """A query as floats, or a key as words of f16, in the order of pairs: those that rotate, then those of the rest."""
    words = str(target.buffer.dtype) == "uint32"

    def put(first: Expr, apart: int, pair: Expr, lanes: int) -> None:
        both = [load(values, at, lanes) if lanes > 1 else values[at] for at in (first, first + apart)]
        a, b = (kernel.let(value) for value in both)
        if words:
            word = kernel.pack_f16(a, b)
            if lanes > 1:
                store(target, base + pair, word)
            else:
                target[base + pair] = word
        elif lanes > 1:
            store(target, base + pair * 2, tirx.Shuffle([a, b], [0, 4, 1, 5]))
            store(target, base + pair * 2 + 4, tirx.Shuffle([a, b], [2, 6, 3, 7]))
        else:
            target[base + pair * 2], target[base + pair * 2 + 1] = a, b

    for start, count in ((0, heads.rotary // 2), (heads.rotary, (heads.size - heads.rotary) // 2)):
        if count >= 4:
            with kernel.loop(count // 4) as four:
                put(kernel.let(start + four * 4), count, kernel.let(start // 2 + four * 4), 4)
        for i in range(count // 4 * 4, count):
            put(start + i, count, start // 2 + i, 1)


def _rms_factor(kernel: CpuKernel, x: Array, source: Expr, size: int, norm: Norm) -> Expr:
    """1 / the root mean square of `size` elements from `source` on, in four lanes."""
    squares = kernel.registers(1, "float32x4")
    squares[0] = splat(f32(0.0))
    with kernel.loop(size // 4) as part:
        value = kernel.let(load(x, source + part * 4, 4))
        squares[0] = squares[0] + value * value
    mean = sum_lanes(squares[0]) * f32(1.0 / size)
    return kernel.let(splat(f32(1.0) / T.sqrt(mean + f32(norm.epsilon))))


def _rotate(
    kernel: CpuKernel, values: Array, table: Array, position: Expr, cache: Cache, part: RopePart | None
) -> None:
    """Turn the pairs (i, i + pairs) of a head, four at a time, and those left over one by one."""
    pairs = cache.heads.rotary // 2
    part = part or RopePart(0, pairs)
    coarse = kernel.let(div(position, ROPE_BLOCK) * part.pairs * 2 + part.first * 2)
    row = mod(position, ROPE_BLOCK) + ceil_div(cache.context, ROPE_BLOCK)
    fine = kernel.let(row * part.pairs * 2 + part.first * 2)

    def cos_sin(base: Expr, lanes: int) -> tuple[Expr, Expr]:
        """cos and sin of consecutive pairs in a row of the table."""
        if lanes == 1:
            return kernel.let(table[base]), kernel.let(table[base + 1])
        both = [kernel.let(load(table, base + half, 4)) for half in (0, 4)]
        cos, sin = (kernel.let(tirx.Shuffle(both, [first, first + 2, first + 4, first + 6])) for first in (0, 1))
        return cos, sin

    def turn(i: Expr, lanes: int) -> None:
        (ca, sa), (cb, sb) = cos_sin(coarse + i * 2, lanes), cos_sin(fine + i * 2, lanes)
        cos, sin = kernel.let(ca * cb - sa * sb), kernel.let(sa * cb + ca * sb)
        x, y = (kernel.let(load(values, at, lanes) if lanes > 1 else values[at]) for at in (i, i + pairs))
        for at, value in ((i, x * cos - y * sin), (i + pairs, y * cos + x * sin)):
            if lanes > 1:
                store(values, at, value)
            else:
                values[at] = value

    if pairs >= 4:
        with kernel.loop(pairs // 4) as four:
            turn(kernel.let(four * 4), 4)
    for i in range(pairs // 4 * 4, pairs):
        turn(i, 1)
