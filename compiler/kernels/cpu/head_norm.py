"""What needs whole heads on the CPU, an item a head of a row: head norms, and caches of 8 bits.

The bindings are those of `webgpu/head_norm.py`; the numpy twins are `reference.rms_norm`, `reference.rotate` and
`reference.in_8_bits`.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, ceil_div, div, f32, f32_to_bits, i32, lane, mod, select
from ..cache import Q8_STEPS, Cache, Heads
from ..rope import ROPE_BLOCK, RopePart, bound_table
from ..shapes import Norm
from .builder import CpuKernel, convert, load, max_lanes, splat, store, sum_lanes
from .norm import weight4


def normalize_rotate_chunk(
    name: str,
    cache: Cache,
    chunk: int,
    norm: Norm | None,
    state_words: int,
    part: RopePart | None = None,
    whole: bool = False,
) -> tirx.PrimFunc:
    """Normalize and rotate queries and keys, keep queries, append the rest to the cache; a chunk of 1 serves decode.

    Bindings: qkv, [query gamma, key gamma (f16 ones as `uint16`), with a norm], state, [rope], cache, query.
    """
    heads = cache.heads
    size = heads.size
    with CpuKernel(name) as kernel:
        qkv = kernel.buffer("qkv", chunk * heads.rows, "float32")
        gammas = [] if norm is None else _bound_gammas(kernel, heads, norm, whole)
        state = kernel.buffer("state", state_words, "uint32")
        table = bound_table(kernel, cache, part)
        rows = cache.bind(kernel)
        query = kernel.buffer("query", chunk * heads.query * size, "float32")
        head, row = kernel.grid(heads.query + 2 * heads.key_value, chunk)
        values = kernel.scratch(size)
        with kernel.when(True if chunk == 1 else row < i32(state[2])):
            source = kernel.let(row * heads.rows + head * size)
            position = kernel.let(i32(state[0]) + row)
            line = kernel.let(position * cache.row_words)

            def turned(which: int) -> None:
                """A query (0) or key (1) into `values`: those from a head on share a norm's weight."""
                first, stop = heads.normalized[which]
                span = (kernel.let(row * heads.rows + first * size), (stop - first) * size) if whole else (source, size)
                factor = None if norm is None else _rms_factor(kernel, qkv, *span, norm)
                with kernel.loop(size // 4) as four:
                    value = load(qkv, source + four * 4, 4)
                    if norm is not None and factor is not None:
                        at = (head - first) * size + four * 4 if whole else four * 4
                        value = value * factor * weight4(kernel, gammas[which], at, norm.f16_weight)
                    store(values, four * 4, value)
                if table is not None:
                    _rotate(kernel, values, table, position, cache, part)

            with T.If(head < heads.query):
                with T.Then():
                    turned(0)
                    _put(kernel, cache, values, query, kernel.let((row * heads.query + head) * size))
                with T.Else():
                    stored = kernel.let(head - heads.query)
                    with T.If(stored < heads.key_value):
                        with T.Then():
                            turned(1)
                            _put_key(kernel, cache, values, rows, line, stored)
                        with T.Else():
                            _put_value(kernel, cache, (qkv, source), values, rows, line, stored)
    return kernel.function


def _put_key(kernel: CpuKernel, cache: Cache, values: Array, rows: Array, line: Expr, head: Expr) -> None:
    """A key of head `head` into the row that begins at `line`."""
    if cache.bytes:
        _put_bytes(kernel, cache, values, rows, line, (head, 0))
    else:
        _put(kernel, cache, values, rows, line + head * cache.head_words)


def _bound_gammas(kernel: CpuKernel, heads: Heads, norm: Norm, whole: bool) -> list[Array]:
    """The next bindings: the weights of the queries' norm and of the keys', of a head or, `whole`, of all."""
    weight = "uint16" if norm.f16_weight else "float32"
    counts = (heads.query, heads.key_value) if whole else (1, 1)
    names = ("query_gamma", "key_gamma")
    return [kernel.buffer(n, heads.size * count, weight) for n, count in zip(names, counts, strict=True)]


def _put_bytes(
    kernel: CpuKernel, cache: Cache, values: Array, rows: Array, line: Expr, which: tuple[Expr, int]
) -> None:
    """A key or value into the row that begins at `line`, in 8 bits; `which` is (key_value head, 0 or 1 for a value)."""
    size, (kv_head, of_value) = cache.heads.size, which
    most = kernel.registers(1, "float32x4")
    most[0] = splat(f32(0.0))
    with kernel.loop(size // 4) as four:
        value = kernel.let(load(values, four * 4, 4))
        most[0] = tirx.max(most[0], tirx.max(value, splat(f32(0.0)) - value))
    top = kernel.let(max_lanes(most[0]))
    parts = kernel.let(select(top > f32(0.0), f32(1.0) / top, f32(0.0)))
    base = kernel.let(line + (kv_head + of_value * cache.heads.key_value) * cache.head_words)
    with kernel.loop(cache.head_words) as word:
        scaled = load(values, word * 4, 4) * splat(parts) * splat(f32(float(Q8_STEPS)))
        # From 1 to 255, so that what is cut off is below; 128 more than is meant, which is their highest bit.
        steps = kernel.let(convert(scaled + splat(f32(128.5)), "uint32"))
        byte = [T.shift_left(lane(steps, i), T.uint32(8 * i)) for i in range(4)]
        packed = T.bitwise_or(T.bitwise_or(byte[0], byte[1]), T.bitwise_or(byte[2], byte[3]))
        rows[base + word] = T.bitwise_xor(packed, T.uint32(0x80808080))
    rows[line + cache.scales + 2 * kv_head + of_value] = f32_to_bits(top)


def _put(kernel: CpuKernel, cache: Cache, values: Array, target: Array, base: Expr) -> None:
    """A query or a key to where it belongs, in the cache's order."""
    if cache.halves:
        _put_pairs(kernel, values, target, base, cache.heads)
        return
    with kernel.loop(cache.heads.size // 4) as four:
        store(target, base + four * 4, load(values, four * 4, 4))


def _put_value(
    kernel: CpuKernel,
    cache: Cache,
    bound: tuple[Array, Expr],
    values: Array,
    rows: Array,
    line: Expr,
    stored: Expr,
) -> None:
    """A head's value, at `source` of qkv (`bound`), into the row that begins at `line`; `values` is scratch.

    It is the head `stored` of the row, behind the keys.
    """
    qkv, source = bound
    if cache.bytes:
        with kernel.loop(cache.heads.size // 4) as four:
            store(values, four * 4, load(qkv, source + four * 4, 4))
        _put_bytes(kernel, cache, values, rows, line, (stored - cache.heads.key_value, 1))
        return
    kept = kernel.let(line + stored * cache.head_words)
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
