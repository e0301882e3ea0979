"""Attention over the KV cache on the CPU: one kernel for decode and prefill, and the one that joins decode's splits.

An item holds queries that read the same keys: in decode the query heads of a KV head (and one of `splits` shares of
the positions), in prefill neighbouring rows of one head. It walks the used positions a block at a time, in three
passes: scores of every query, by tiles of two queries and four keys; the online softmax (Milakov and Gimelshein,
arXiv:1805.02867), four keys a vector; sums of the values, by tiles of two queries and four vectors, which stay in
registers over the block. The numpy twin is `reference.attention`; bindings and partial sums are those of
`kernels.webgpu.attention`.

Keys and values of 16 and of 8 bits are widened as `Rows` says, in the kernel, since WebAssembly has no f16; where
several tiles of queries read them, once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, ceil_div, div, f32, i32, lane, select
from ..cache import Heads
from ..shapes import AttentionShape
from .builder import CpuKernel, exp, load, max_lanes, splat, store, sum_lanes, sum_lanes_of_four
from .rows import Rows

TILE = 8  # keys that the passes round up to
BLOCK = 64  # keys of the three passes, a multiple of TILE
WIDTH = 4  # vectors of a head that a tile of the values has
MASKED = -1.0e30  # score of a key that a query does not see
LOWEST = -1.0e29  # maximum of a query that has seen no key yet: above MASKED, so that such a key weighs nothing
NEGLIGIBLE = -64.0  # e^this is nothing beside 1, and products with it are not subnormal, which CPUs are slow at
MOST_QUERIES = 16  # of an item
MOST_FLOATS = 4096  # of an item's queries: they and their sums stand on the stack
ITEMS = 8  # of a decode step: one a thread
POSITIONS_PER_SPLIT = 256


def splits_for(heads: Heads, context: int) -> int:
    """Shares of the positions in decode, so that every thread has an item; 1 where the KV heads suffice."""
    wanted = ceil_div(ITEMS, heads.query // queries_of_item(heads, 1))
    return max(1, min(wanted, context // POSITIONS_PER_SPLIT))


def queries_of_item(heads: Heads, chunk: int) -> int:
    """Queries that an item holds: many for speed, fewer where too few items would come of it.

    In decode they are heads, and divide those of a KV head; in prefill they are rows.
    """
    most = max(1, min(MOST_QUERIES, MOST_FLOATS // heads.size))
    if chunk == 1:
        shared = heads.query // heads.key_value
        return max(queries for queries in range(1, most + 1) if shared % queries == 0)
    return min(chunk, most if heads.query * chunk >= 16 * MOST_QUERIES and heads.size <= 128 else most // 2)


@dataclass(frozen=True)
class _Item:
    """What an item works on: queries, and the keys `[start, stop)` of a KV head."""

    shape: AttentionShape
    queries: int
    count: Expr  # queries there are: all of them, or fewer in the last rows of a chunk
    kv_head: Expr
    start: Expr
    stop: Expr
    limit: Expr  # first key that query 0 does not see; each row of prefill sees one more

    @property
    def size(self) -> int:
        return self.shape.heads.size

    @property
    def dims(self) -> int:
        """Vectors of a head."""
        return self.size // 4

    @property
    def decodes(self) -> bool:
        return self.shape.chunk == 1

    @property
    def window(self) -> int | None:
        return _window(self.shape)

    @property
    def pairs(self) -> Expr:
        return self.queries // 2 if self.decodes else div(self.count + 1, 2)

    @property
    def odd(self) -> bool:
        """A query is left beside the pairs. (Prefill computes one twice instead.)"""
        return self.decodes and self.queries % 2 == 1

    def copies(self, rows: Rows) -> bool:
        """Whether several tiles of queries read what is worth copying once: words, which are widened by that."""
        return rows.cache.words and (not self.decodes or self.queries > 2)


@dataclass(frozen=True)
class _Scratch:
    """An item's own memory, a row a query."""

    asked: Array  # scaled queries
    sums: Array  # of values, unnormalized
    scores: Array  # then weights, of a block
    top: Array
    total: Array
    shrink: Array  # what the sums so far are worth, since the maximum rose
    values: Array  # of a block: the vectors of one tile, a row a key
    keys: Array  # of a tile, widened
    scales: tuple[Array, Array] | None  # of a block's keys, and of its values, where they have some

    @classmethod
    def allocate(cls, kernel: CpuKernel, rows: int, size: int, scaled: bool) -> _Scratch:
        asked, sums, scores, top, total, shrink = (kernel.scratch(rows * n) for n in (size, size, BLOCK, 1, 1, 1))
        values, keys = kernel.scratch(BLOCK * WIDTH * 4), kernel.scratch(TILE * size)
        scales = (kernel.scratch(BLOCK), kernel.scratch(BLOCK)) if scaled else None
        return cls(asked, sums, scores, top, total, shrink, values, keys, scales)


def _window(shape: AttentionShape) -> int | None:
    return shape.window if shape.window is not None and shape.window < shape.context else None


def attention(name: str, shape: AttentionShape, state_words: int) -> tirx.PrimFunc:
    """Bindings: query f32x4, cache (as `Rows` binds it), state, out f32x4.

    Items: in decode KV heads (or parts of their query heads) x splits, in prefill query heads x tiles of rows. With
    one split, out is `[chunk, query heads, size]`. With more, it is `[query heads, splits, size + 4]`: the unnormalized
    sum, then the maximum and the sum of exponentials.
    """
    heads, dims, chunk = shape.heads, shape.heads.size // 4, shape.chunk
    shared, queries = heads.query // heads.key_value, queries_of_item(heads, chunk)
    with CpuKernel(name) as kernel:
        query = kernel.buffer("query", chunk * heads.query * dims, "float32x4")
        cache = Rows.bind(kernel, shape.cache)
        state = kernel.buffer("state", state_words, "uint32")
        if shape.splits == 1:
            out = kernel.buffer("out", chunk * heads.query * dims, "float32x4")
        else:
            out = kernel.buffer("out", heads.query * shape.splits * (dims + 1), "float32x4")
        if chunk == 1:
            group, split = kernel.grid(heads.query // queries, shape.splits)
            first = kernel.let(group * queries)
            item = _decode_item(kernel, shape, queries, kernel.let(div(first, shared)), split, state)
        else:
            head, tile = kernel.grid(heads.query, ceil_div(chunk, queries))
            first = kernel.let(tile * queries)
            item = _prefill_item(kernel, shape, queries, kernel.let(div(head, shared)), first, state)

        def place(j: Expr) -> Expr:
            """Vectors before query j in `query`, clamped to one that exists."""
            if chunk == 1:
                return (first + j) * dims
            return ((first + tirx.min(j, item.count - 1)) * heads.query + head) * dims

        rows = queries if chunk == 1 else queries + queries % 2
        scratch = _Scratch.allocate(kernel, rows, heads.size, shape.cache.bytes)
        with kernel.when(True if chunk == 1 else item.count > 0):
            _load_queries(kernel, item, scratch, cache, query, rows, place)
            blocks = tirx.max(div(item.stop - item.start + BLOCK - 1, BLOCK), 0)
            with kernel.loop(blocks) as step:
                base = kernel.let(item.start + step * BLOCK)
                keys = kernel.let(tirx.min(item.stop - base, BLOCK))
                _load_scales(kernel, item, scratch, cache, base, keys)
                _score(kernel, item, scratch, cache, base, keys)
                _weigh(kernel, item, scratch, keys, cache.weight_factor)
                _sum(kernel, item, scratch, cache, base, keys)
            with kernel.loop(item.count) as j:
                if shape.splits == 1:
                    target, factor = kernel.let(place(j)), kernel.let(splat(f32(1.0) / scratch.total[j]))
                else:
                    target, factor = kernel.let(((first + j) * shape.splits + split) * (dims + 1)), None
                    zero = f32(0.0)
                    out[target + dims] = tirx.Shuffle([scratch.top[j], scratch.total[j], zero, zero], [0, 1, 2, 3])
                _store_sums(kernel, item, scratch, cache, j, (out, target), factor)
    return kernel.function


def _load_queries(
    kernel: CpuKernel,
    item: _Item,
    scratch: _Scratch,
    cache: Rows,
    query: Array,
    rows: int,
    place: Callable[[Expr], Expr],
) -> None:
    """The item's queries, scaled, into its scratch; `place(j)` is where query j begins. No key has been seen yet."""
    scale = splat(f32(item.shape.factor * cache.query_factor))
    with kernel.loop(rows) as j:
        source = kernel.let(place(j))
        scratch.top[j], scratch.total[j] = f32(LOWEST), f32(0.0)
        with kernel.loop(cache.loads) as d:
            vectors = cache.inward([query[source + d * cache.vectors + v] for v in range(cache.vectors)])
            for v, vector in enumerate(vectors):
                at = kernel.let(j * item.size + (d * cache.vectors + v) * 4)
                store(scratch.asked, at, vector * scale)
                store(scratch.sums, at, splat(f32(0.0)))


def _store_sums(
    kernel: CpuKernel,
    item: _Item,
    scratch: _Scratch,
    cache: Rows,
    j: Expr,
    target: tuple[Array, Expr],
    factor: Expr | None,
) -> None:
    """What query j has summed up, times `factor`, from `target` on."""
    out, begin = target
    with kernel.loop(cache.loads) as d:
        first = kernel.let(d * cache.vectors)
        sums = [load(scratch.sums, j * item.size + (first + v) * 4, 4) for v in range(cache.vectors)]
        for v, value in enumerate(cache.outward([kernel.let(part) for part in sums])):
            out[begin + first + v] = value if factor is None else value * factor


def _decode_item(
    kernel: CpuKernel, shape: AttentionShape, queries: int, kv_head: Expr, split: Expr, state: Array
) -> _Item:
    """All queries see the same keys: a share of the used ones, a multiple of a tile but at the end."""
    window = _window(shape)
    used = kernel.let(i32(state[0]) + 1 if shape.causal else i32(shape.context))
    low = 0 if window is None else kernel.let(tirx.max(used - window, 0))
    start, stop = low, used
    if shape.splits > 1:
        share = kernel.let(div(used - low + (shape.splits * TILE - 1), shape.splits * TILE) * TILE)
        start = kernel.let(low + split * share)
        stop = kernel.let(tirx.min(start + share, used))
    return _Item(shape, queries, queries, kv_head, start, stop, stop)


def _prefill_item(
    kernel: CpuKernel, shape: AttentionShape, queries: int, kv_head: Expr, first: Expr, state: Array
) -> _Item:
    """Neighbouring rows from `first`; keys that any of them sees."""
    window = _window(shape)
    count = kernel.let(tirx.min(i32(state[2]) - first, queries))
    if not shape.causal:
        return _Item(shape, queries, count, kv_head, 0, i32(shape.context), i32(shape.context))
    limit = kernel.let(i32(state[0]) + first + 1)
    start = 0 if window is None else kernel.let(tirx.max(limit - window, 0))
    return _Item(shape, queries, count, kv_head, start, kernel.let(limit + count - 1), limit)


def _load_scales(kernel: CpuKernel, item: _Item, scratch: _Scratch, cache: Rows, base: Expr, keys: Expr) -> None:
    """Those of the block's keys and values; the padding has the last one's."""
    if scratch.scales is None:
        return
    with kernel.loop(div(keys + TILE - 1, TILE) * TILE) as key:
        position = kernel.let(base + tirx.min(key, keys - 1))
        for of_value, scales in enumerate(scratch.scales):
            scales[key] = cache.scale(position, item.kv_head, of_value)


def _score(kernel: CpuKernel, item: _Item, scratch: _Scratch, cache: Rows, base: Expr, keys: Expr) -> None:
    """Scores of every query for the block's keys; those that a query does not see, and the padding, are `MASKED`."""
    copies = item.copies(cache)

    def tile(places: Sequence[Expr], key: Expr, first: Expr, queries: int, column: Expr) -> None:
        """Scores of `queries` queries for keys `key`, `key + 1`, ..., whose loads begin at `places`."""
        sums = [[kernel.registers(1, "float32x4") for _ in places] for _ in range(queries)]
        for register in (register for registers in sums for register in registers):
            register[0] = splat(f32(0.0))
        vectors = 1 if copies else cache.vectors
        with kernel.loop(item.dims // vectors) as d:
            asked = [
                [
                    kernel.let(load(scratch.asked, (first + q) * item.size + (d * vectors + v) * 4, 4))
                    for q in range(queries)
                ]
                for v in range(vectors)
            ]
            for p, place in enumerate(places):
                values = [kernel.let(load(scratch.keys, place + d * 4, 4))] if copies else cache.load(place + d)
                for v, value in enumerate(values):
                    for q in range(queries):
                        sums[q][p][0] = sums[q][p][0] + asked[v][q] * value
        for q in range(queries):
            limit = item.limit + first + q if item.shape.causal and not item.decodes else item.limit
            for p in range(0, len(places), 4):
                score = sum_lanes_of_four(kernel, [register[0] for register in sums[q][p : p + 4]])
                if cache.halves:
                    score = kernel.let(score * splat(f32(cache.score_factor)))
                if scratch.scales is not None:
                    score = kernel.let(score * load(scratch.scales[0], column + p, 4))
                if (cap := item.shape.soft_cap) is not None:
                    # c * tanh(s / c), and tanh(y) = 1 - 2 / (exp(2y) + 1): `exp` is clamped, never infinite.
                    odds = exp(kernel, score * splat(f32(2.0 / cap)))
                    score = kernel.let(splat(f32(cap)) - splat(f32(2.0 * cap)) / (odds + splat(f32(1.0))))
                seen = kernel.let(T.ramp(key + p, 1, 4))
                score = select(seen < splat(limit), score, splat(f32(MASKED)))
                if item.window is not None and not item.decodes:
                    score = select(seen >= splat(limit - item.window), score, splat(f32(MASKED)))
                store(scratch.scores, (first + q) * BLOCK + column + p, score)

    with kernel.loop(div(keys + TILE - 1, TILE)) as step:
        column = kernel.let(step * TILE)
        key = kernel.let(base + column)
        head = item.kv_head * cache.loads
        places = [kernel.let(tirx.min(key + p, item.stop - 1) * cache.row + head) for p in range(TILE)]
        if copies:
            with kernel.loop(cache.loads) as d:
                for p, place in enumerate(places):
                    for v, value in enumerate(cache.load(place + d)):
                        store(scratch.keys, p * item.size + (d * cache.vectors + v) * 4, value)
            places = [p * item.size for p in range(TILE)]
        with kernel.loop(item.pairs) as pair:
            for p in range(0, TILE, 4):
                tile(places[p : p + 4], key + p, pair * 2, 2, column + p)
        if item.odd:
            tile(places, key, item.queries - 1, 1, column)


def _weigh(kernel: CpuKernel, item: _Item, scratch: _Scratch, keys: Expr, factor: float) -> None:
    """Scores -> weights relative to the running maximum, times `factor`, and what the sums so far are worth."""
    vectors = kernel.let(div(keys + TILE - 1, TILE) * (TILE // 4))
    with kernel.loop(item.count) as j:
        row = kernel.let(j * BLOCK)
        most = kernel.registers(1, "float32x4")
        most[0] = splat(scratch.top[j])
        with kernel.loop(vectors) as v:
            most[0] = tirx.max(most[0], load(scratch.scores, row + v * 4, 4))
        top = kernel.let(max_lanes(most[0]))
        shrink = exp(kernel, scratch.top[j] - top)
        total = kernel.registers(1, "float32x4")
        total[0] = splat(f32(0.0))
        with kernel.loop(vectors) as v:
            below = kernel.let(load(scratch.scores, row + v * 4, 4) - splat(top))
            weight = kernel.let(select(below > splat(f32(NEGLIGIBLE)), exp(kernel, below), splat(f32(0.0))))
            total[0] = total[0] + weight
            if scratch.scales is not None:
                weight = weight * load(scratch.scales[1], v * 4, 4)
            store(scratch.scores, row + v * 4, weight if factor == 1 else weight * splat(f32(factor)))
        scratch.top[j], scratch.shrink[j] = top, shrink
        scratch.total[j] = scratch.total[j] * shrink + sum_lanes(total[0])


def _sum(kernel: CpuKernel, item: _Item, scratch: _Scratch, cache: Rows, base: Expr, keys: Expr) -> None:
    """Add the block's weighted values to the sums; a tile's vectors are copied first where many queries read them."""
    heads = item.shape.heads
    start = kernel.let(base * cache.row + (heads.key_value + item.kv_head) * cache.loads)
    copies = not item.decodes or item.copies(cache)

    def tile(first: Expr, queries: int, dim: Expr, width: int, values_of: Callable[[Expr], list[Expr]]) -> None:
        at = [[(first + q) * item.size + (dim + w) * 4 for w in range(width)] for q in range(queries)]
        sums = [[kernel.registers(1, "float32x4") for _ in range(width)] for _ in range(queries)]
        for q in range(queries):
            shrink = kernel.let(splat(scratch.shrink[first + q]))
            for w in range(width):
                sums[q][w][0] = load(scratch.sums, at[q][w], 4) * shrink
        with kernel.loop(keys) as key:
            weights = [kernel.let(splat(scratch.scores[(first + q) * BLOCK + key])) for q in range(queries)]
            for w, value in enumerate(values_of(key)):
                for q in range(queries):
                    sums[q][w][0] = sums[q][w][0] + weights[q] * value
        for q in range(queries):
            for w in range(width):
                store(scratch.sums, at[q][w], sums[q][w][0])

    def column(dim: Expr, width: int) -> None:
        """Vectors `dim` to `dim + width` of every pair of queries, and of the one beside them where it is copied."""

        def cached(key: Expr) -> list[Expr]:
            place = kernel.let(start + key * cache.row + div(dim, cache.vectors))
            return [value for i in range(width // cache.vectors) for value in cache.load(place + i)]

        def copied(key: Expr) -> list[Expr]:
            return [kernel.let(load(scratch.values, (key * width + w) * 4, 4)) for w in range(width)]

        if copies:
            with kernel.loop(keys) as key:
                for w, value in enumerate(cached(key)):
                    store(scratch.values, (key * width + w) * 4, value)
        read = copied if copies else cached
        if item.queries > 1 or not item.decodes:
            with kernel.loop(item.pairs) as pair:
                tile(pair * 2, 2, dim, width, read)
        if item.odd:
            tile(item.queries - 1, 1, dim, width, read)

    # One query alone has registers for as many sums of twice the vectors.
    _columns(kernel, item.dims, WIDTH if item.queries > 1 or not item.decodes else 2 * WIDTH, column)


def _columns(kernel: CpuKernel, dims: int, width: int, emit: Callable[[Expr, int], None]) -> None:
    """Call `emit` for `width` vectors of a head at a time, and for what is left."""
    if dims >= width:
        with kernel.loop(dims // width) as step:
            emit(kernel.let(step * width), width)
    if dims % width:
        emit(dims // width * width, dims % width)


def combine(name: str, shape: AttentionShape) -> tirx.PrimFunc:
    """Join the splits of a decode step; bindings: partial (as `attention` wrote it), out. Items: query heads."""
    dims = shape.heads.size // 4
    with CpuKernel(name) as kernel:
        partial = kernel.buffer("partial", shape.heads.query * shape.splits * (dims + 1), "float32x4")
        out = kernel.buffer("out", shape.heads.query * dims, "float32x4")
        head, _ = kernel.grid(shape.heads.query)
        parts = [kernel.let((head * shape.splits + split) * (dims + 1)) for split in range(shape.splits)]
        statistics = [kernel.let(partial[part + dims]) for part in parts]
        top = kernel.registers()
        top[0] = f32(LOWEST)
        for statistic in statistics:
            top[0] = tirx.max(top[0], lane(statistic, 0))
        odds = [exp(kernel, lane(statistic, 0) - top[0]) for statistic in statistics]
        total = kernel.registers()
        total[0] = f32(0.0)
        for odd, statistic in zip(odds, statistics, strict=True):
            total[0] = total[0] + odd * lane(statistic, 1)
        shares = [kernel.let(splat(odd / total[0])) for odd in odds]
        with kernel.loop(dims) as d:
            value = kernel.registers(1, "float32x4")
            value[0] = partial[parts[0] + d] * shares[0]
            for part, share in zip(parts[1:], shares[1:], strict=True):
                value[0] = value[0] + partial[part + d] * share
            out[head * dims + d] = value[0]
    return kernel.function
