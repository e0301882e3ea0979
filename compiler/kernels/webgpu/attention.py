"""Decode's attention over the KV cache, and the reduction that joins its splits.

A workgroup holds up to eight queries that read the same keys: the query heads that share a KV head. It walks the used
positions (not the capacity) 64 at a time: an invocation scores one key, the workgroup finds the running maximum, then
each invocation sums a load of the values' dimensions (online softmax in f32; Milakov and Gimelshein, arXiv:1805.02867).
The positions are dealt out to `splits` workgroups (flash-decoding), whose partial sums `combine` joins. The numpy twin
is `reference.attention`. Prefill's attention is in `prefill_attention`."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import Array, Expr, Kernel, ceil_div, div, dot, f32, i32, lane, mod, select
from compiler.kernels.cache import Cache, CacheReader, Heads
from compiler.kernels.epilogue import capped

BLOCK = 64  # keys at a time = invocations of a workgroup
FINDERS = 8  # invocations that find a query's block maximum
LOWEST = -1.0e30  # stands for minus infinity without making NaN
JOIN_VECTORS = 480  # of workgroup memory where teams join: 7.5 KiB


@dataclass(frozen=True)
class Shape:
    """The queries and keys of a kernel, of decode or of prefill."""

    cache: Cache
    chunk: int  # rows of queries; 1 in decode
    splits: int  # workgroups that share a query's keys; 1 in prefill
    window: int | None = None  # keys that a query sees, itself included; None: all before it
    scale: float | None = None  # of scores; None: 1 / sqrt(size of a head)
    soft_cap: float | None = None  # c: a score becomes c * tanh(score / c)

    @property
    def factor(self) -> float:
        """What scores are multiplied by."""
        return self.heads.size**-0.5 if self.scale is None else self.scale

    @property
    def heads(self) -> Heads:
        return self.cache.heads

    @property
    def context(self) -> int:
        return self.cache.context

    @property
    def shared_heads(self) -> int:
        return self.heads.query // self.heads.key_value

    @property
    def queries(self) -> int:
        """Queries of a workgroup in decode."""
        return min(8 if self.heads.size <= 128 else 4, self.shared_heads)

    @property
    def dims(self) -> int:
        """`vec4`s of a head."""
        return self.heads.size // 4


def attention(name: str, shape: Shape, state_words: int) -> tirx.PrimFunc:
    """Decode; bindings: query (f32, in the cache's order of dimensions), cache, state, out (f32).

    With one split, out is the attention output `[query heads, size]`. With more, it is
    `[query heads, splits, size + 4]`: the unnormalized sum, then the maximum and the sum of exponentials.
    """
    heads, dims, queries = shape.heads, shape.dims, shape.queries
    groups = ceil_div(shape.shared_heads, queries)
    with Kernel(name) as kernel:
        query = kernel.buffer("query", heads.query * dims, "float32x4")
        cache = shape.cache.reader(kernel, wide=heads.size % 8 == 0)
        state = kernel.buffer("state", state_words, "uint32")
        if shape.splits == 1:
            out = kernel.buffer("out", heads.query * dims, "float32x4")
        else:
            out = kernel.buffer("out", heads.query * shape.splits * (dims + 1), "float32x4")
        block_x, split = kernel.grid(heads.key_value * groups, shape.splits)
        kv_head = kernel.let(div(block_x, groups))
        first = kernel.let(kv_head * shape.shared_heads + mod(block_x, groups) * queries)
        thread = kernel.threads(BLOCK)
        used = kernel.let(i32(state[0]) + 1)

        def head(j: Expr) -> Expr:
            """The head of this workgroup's query j, clamped to one that exists."""
            return tirx.min(first + j, kv_head * shape.shared_heads + shape.shared_heads - 1)

        sums, weights = _walk(kernel, shape, query, cache, head, thread, split, kv_head, used)
        _store(kernel, shape, cache, out, head, first, thread, split, sums, weights)
    return kernel.function


def _walk(kernel, shape, query, cache: CacheReader, head, thread, split, kv_head, used):  # type: ignore[no-untyped-def]
    """The online softmax over this split's blocks; returns the sums (of a load's dimensions) and (max, sum)."""
    heads, dims, queries = shape.heads, shape.dims, shape.queries
    loads, row, vectors = cache.loads, cache.row, cache.vectors
    teams = BLOCK // loads  # invocations with the same dimensions; they deal out the keys
    asked = kernel.shared(queries * dims, "float32x4")
    scores, odds = kernel.shared(queries * BLOCK), kernel.shared(queries * BLOCK)
    finds = kernel.shared(queries * FINDERS)
    scale = T.broadcast(f32(shape.factor), 4)
    with kernel.loop(ceil_div(queries * dims, BLOCK)) as step:
        index = kernel.let(step * BLOCK + thread)
        with kernel.when(index < queries * dims):
            source = head(kernel.let(div(index, dims))) * dims + mod(index, dims)
            asked[index] = query[source] * scale
    top = [kernel.registers() for _ in range(queries)]
    total = [kernel.registers() for _ in range(queries)]
    sums = [kernel.registers(vectors, "float32x4") for _ in range(queries)]
    for j in range(queries):
        top[j][0], total[j][0] = f32(LOWEST), f32(0.0)
        for v in range(vectors):
            sums[j][v] = T.broadcast(f32(0.0), 4)
    team, part = kernel.let(div(thread, loads)), kernel.let(mod(thread, loads))
    blocks = kernel.let(div(used + BLOCK - 1, BLOCK))
    window = shape.window if shape.window is not None and shape.window < shape.context else None
    start = 0 if window is None else kernel.let(div(tirx.max(used - window, 0), BLOCK))
    share = kernel.let(div(blocks - start + shape.splits - 1, shape.splits))
    first_block = kernel.let(start + split * share)

    def seen(key: Expr) -> Expr:
        """The queries attend to this key."""
        return key < used if window is None else tirx.And(key < used, key >= used - window)

    kernel.barrier()
    with kernel.loop(tirx.max(tirx.min(share, blocks - first_block), 0)) as step:
        base = kernel.let((first_block + step) * BLOCK)
        key = kernel.let(base + thread)
        score = [kernel.registers() for _ in range(queries)]
        for register in score:
            register[0] = f32(0.0)
        with kernel.when(key < used), kernel.loop(loads) as load:
            values = cache.load(key * row + kv_head * loads + load)
            for j in range(queries):
                for v, value in enumerate(values):
                    score[j][0] = score[j][0] + dot(asked[j * dims + load * vectors + v], value)
        for j in range(queries):
            score[j][0] = select(seen(key), capped(kernel, score[j][0], shape.soft_cap), f32(LOWEST))
            scores[j * BLOCK + thread] = score[j][0]
        kernel.barrier()
        with kernel.when(True if queries * FINDERS == BLOCK else thread < queries * FINDERS):
            most = kernel.registers()
            most[0] = f32(LOWEST)
            with kernel.loop(BLOCK // FINDERS) as i:
                most[0] = tirx.max(most[0], scores[thread * (BLOCK // FINDERS) + i])
            finds[thread] = most[0]
        kernel.barrier()
        for j in range(queries):
            most = kernel.registers()
            most[0] = top[j][0]
            with kernel.loop(FINDERS) as i:
                most[0] = tirx.max(most[0], finds[j * FINDERS + i])
            shrink = kernel.let(T.exp(top[j][0] - most[0]))
            top[j][0] = most[0]
            total[j][0] = total[j][0] * shrink
            for v in range(vectors):
                sums[j][v] = sums[j][v] * T.broadcast(shrink, 4)
            odds[j * BLOCK + thread] = select(seen(key), T.exp(score[j][0] - most[0]), f32(0.0))
        kernel.barrier()
        count = kernel.let(tirx.min(BLOCK, used - base))
        with (
            kernel.when(True if teams * loads == BLOCK else team < teams),
            kernel.loop(div(count - team + teams - 1, teams)) as i,
        ):
            column = kernel.let(team + i * teams)
            values = cache.load((base + column) * row + (heads.key_value + kv_head) * loads + part)
            for j in range(queries):
                odd = kernel.let(odds[j * BLOCK + column])
                total[j][0] = total[j][0] + odd
                for v, value in enumerate(values):
                    sums[j][v] = sums[j][v] + value * T.broadcast(odd, 4)
    if teams > 1:
        _join_teams(kernel, teams, loads, thread, sums, total, scores)
    return sums, list(zip(top, total, strict=True))


def _join_teams(
    kernel: Kernel, teams: int, loads: int, thread: Expr, sums: list[Array], total: list[Array], scalars: Array
) -> None:
    """Add up what the teams summed over their keys; the first team ends with the whole.

    `scalars` is workgroup memory that nobody reads any more, one f32 an invocation for each query. As many queries join
    at a time as `JOIN_VECTORS` hold.
    """
    others, vectors = (teams - 1) * loads, sums[0].length
    together = max(1, min(len(sums), JOIN_VECTORS // (others * vectors)))
    meeting = kernel.shared(together * vectors * others, "float32x4")
    for start in range(0, len(sums), together):
        queries = range(start, min(start + together, len(sums)))
        if start:
            kernel.barrier()
        with kernel.when(tirx.And(thread >= loads, thread < teams * loads)):
            for j in queries:
                for v in range(vectors):
                    meeting[((j - start) * vectors + v) * others + thread - loads] = sums[j][v]
                scalars[j * BLOCK + thread] = total[j][0]
        kernel.barrier()
        with kernel.when(thread < loads), kernel.loop(teams - 1) as other:
            place = kernel.let(other * loads + thread)
            for j in queries:
                for v in range(vectors):
                    sums[j][v] = sums[j][v] + meeting[((j - start) * vectors + v) * others + place]
                total[j][0] = total[j][0] + scalars[j * BLOCK + loads + place]


def _store(kernel, shape, cache, out, head, first, thread, split, sums, weights) -> None:  # type: ignore[no-untyped-def]
    dims, loads, vectors = shape.dims, cache.loads, cache.vectors
    with kernel.when(True if loads == BLOCK else thread < loads):
        for j in range(shape.queries):
            top, total = weights[j]
            with kernel.when(True if shape.shared_heads % shape.queries == 0 else first + j == head(j)):
                if shape.splits == 1:
                    share = kernel.let(f32(1.0) / total[0])
                    for v in range(vectors):
                        out[head(j) * dims + thread * vectors + v] = sums[j][v] * T.broadcast(share, 4)
                else:
                    base = kernel.let((head(j) * shape.splits + split) * (dims + 1))
                    for v in range(vectors):
                        out[base + thread * vectors + v] = sums[j][v]
                    with kernel.when(thread == 0):
                        zero = f32(0.0)
                        out[base + dims] = tirx.Shuffle([top[0], total[0], zero, zero], [0, 1, 2, 3])


def combine(name: str, shape: Shape) -> tirx.PrimFunc:
    """Join the splits of a decode step; bindings: partial (as `attention` wrote it), out `[query heads, size]`."""
    dims = shape.dims
    units = shape.heads.query * dims
    with Kernel(name) as kernel:
        partial = kernel.buffer("partial", shape.heads.query * shape.splits * (dims + 1), "float32x4")
        out = kernel.buffer("out", units, "float32x4")
        block, _ = kernel.grid(ceil_div(units, BLOCK))
        unit = kernel.let(block * BLOCK + kernel.threads(BLOCK))
        with kernel.when(True if units % BLOCK == 0 else unit < units):
            head, dim = kernel.let(div(unit, dims)), kernel.let(mod(unit, dims))
            top, total = kernel.registers(), kernel.registers()
            value = kernel.registers(1, "float32x4")
            top[0], total[0], value[0] = f32(LOWEST), f32(0.0), T.broadcast(f32(0.0), 4)
            with kernel.loop(shape.splits) as split:
                base = kernel.let((head * shape.splits + split) * (dims + 1))
                statistics = kernel.let(partial[base + dims])
                most = kernel.let(tirx.max(top[0], lane(statistics, 0)))
                old, new = kernel.let(T.exp(top[0] - most)), kernel.let(T.exp(lane(statistics, 0) - most))
                top[0] = most
                total[0] = total[0] * old + lane(statistics, 1) * new
                value[0] = value[0] * T.broadcast(old, 4) + partial[base + dim] * T.broadcast(new, 4)
            out[unit] = value[0] * T.broadcast(f32(1.0) / total[0], 4)
    return kernel.function
