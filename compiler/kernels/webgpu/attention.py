"""Decode's attention over the KV cache, and the reduction that joins its splits.

A workgroup's sixteen quads (`quads`) hold the same queries, of heads that share a KV head, and deal out the used
positions (not the capacity) among them, 64 at a time; each has its own running maximum, and they meet only at the end.
The positions are dealt out to `splits` workgroups (flash-decoding), whose partial sums `combine` joins. The numpy twin
is `reference.attention`. Prefill's attention is in `prefill_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Expr, Kernel, ceil_div, div, f32, i32, lane, mod, select, u32
from ..cache import Cache
from ..epilogue import capped
from ..shapes import AttentionShape
from .quads import LOADS, LOWEST, QUAD, Loads, Quads, held_vectors, wide

THREADS = 64  # of a workgroup
QUADS = THREADS // QUAD
BLOCK = 64  # keys that a workgroup takes at a time
MOST_QUERIES = 8  # of a workgroup


@dataclass(frozen=True)
class DecodeTiling:
    """What an invocation holds in registers."""

    vectors: int = 16  # `vec4`s of sums, at most
    loads: Loads = LOADS


ROOMY = DecodeTiling()


def queries(cache: Cache, tiling: DecodeTiling = ROOMY) -> int:
    """Queries of a workgroup in decode: as many as registers, and the memory where quads meet, have room for."""
    shared = cache.heads.query // cache.heads.key_value
    return max(1, min(MOST_QUERIES, shared, tiling.vectors // held_vectors(cache)))


def workgroups(cache: Cache, tiling: DecodeTiling = ROOMY) -> int:
    """Workgroups that share out the heads in decode."""
    heads = cache.heads
    return heads.key_value * ceil_div(heads.query // heads.key_value, queries(cache, tiling))


def attention(
    name: str, shape: AttentionShape, state_words: int, subgroups: bool, tiling: DecodeTiling = ROOMY
) -> tirx.PrimFunc:
    """Decode; bindings: query (f32, in the cache's order of dimensions), cache, state, out (f32).

    With one split, out is the attention output `[query heads, size]`. With more, it is
    `[query heads, splits, size + 4]`: the unnormalized sum, then the maximum and the sum of exponentials.
    """
    return _Decode(name, shape, subgroups, tiling).build(state_words)


class _Decode(Quads):
    """One kernel under construction: a workgroup's quads walk the same queries' keys, a BLOCK together."""

    def __init__(self, name: str, shape: AttentionShape, subgroups: bool, tiling: DecodeTiling) -> None:
        super().__init__(Kernel(name), queries(shape.cache, tiling), BLOCK // QUADS, QUADS, subgroups)
        self.shape, self.dims, self.tiling, self.under_way = shape, shape.dims, tiling, tiling.loads
        self.window = shape.window if shape.window is not None and shape.window < shape.context else None

    def build(self, state_words: int) -> tirx.PrimFunc:
        shape, heads, dims = self.shape, self.shape.heads, self.dims
        groups = workgroups(shape.cache, self.tiling) // heads.key_value
        with self.kernel as kernel:
            self.query = kernel.buffer("query", heads.query * dims, "float32x4")
            cache = shape.cache.reader(kernel, wide(heads))
            state = kernel.buffer("state", state_words, "uint32")
            size = dims if shape.splits == 1 else shape.splits * (dims + 1)
            self.out = kernel.buffer("out", heads.query * size, "float32x4")
            block_x, self.split = kernel.grid(heads.key_value * groups, shape.splits)
            self.kv_head = kernel.let(div(block_x, groups))
            self.first = kernel.let(self.kv_head * shape.shared_heads + mod(block_x, groups) * self.rows)
            self.bind(cache, kernel.threads(THREADS), THREADS)
            self.quad = kernel.let(div(self.thread, QUAD))
            self.used = kernel.let(i32(state[0]) + 1 if shape.causal else i32(shape.context))
            # Where quads exchange their scores, they meet at the end as well.
            joining = THREADS // 2 * self.rows * self.held
            self.meeting = kernel.shared(joining if self.subgroups else max(joining, self.exchanged), "float32x4")
            self.exchange = None if self.subgroups else self.meeting
            first_block, count = self._blocks()
            with kernel.when(True if shape.splits == 1 else count > 0):
                self.start(self.kv_head)
                self._load_queries()
                self._walk(first_block, count)
                self._join()
                self._store()
            if shape.splits > 1:
                with kernel.when(count <= 0):
                    self._store_nothing()
        return kernel.function

    def _head(self, j: Expr) -> Expr:
        """The head of this workgroup's query j, clamped to one that exists."""
        shared = self.shape.shared_heads
        return tirx.min(self.first + j, self.kv_head * shared + shared - 1)

    def _load_queries(self) -> None:
        """The queries, scaled, in workgroup memory."""
        kernel, dims, count = self.kernel, self.dims, self.rows * self.dims
        self.asked = kernel.shared(count, "float32x4")
        with kernel.loop(ceil_div(count, THREADS)) as step:
            index = kernel.let(step * THREADS + self.thread)
            with kernel.when(True if count % THREADS == 0 else index < count):
                source = self._head(kernel.let(div(index, dims))) * dims + mod(index, dims)
                self.asked[index] = self.query[source] * T.broadcast(f32(self.shape.factor), 4)
        kernel.barrier()

    def query_of(self, j: int, part: int, v: int) -> Expr:
        value = self.kernel.let(self.asked[j * self.dims + self.places[part] * self.vectors + v])
        if self.whole(part):
            return value
        return self.kernel.let(select(self.has(part), value, T.broadcast(f32(0.0), 4)))

    def masked(self, score: Expr, key: Expr, j: int) -> Expr:
        seen = key < self.used if self.window is None else u32(self.used - 1 - key) < T.uint32(self.window)
        score = capped(self.kernel, score, self.shape.soft_cap)
        return self.kernel.let(select(seen, score, f32(2 * LOWEST)))

    def _blocks(self) -> tuple[Expr, Expr]:
        """This split's share of the positions that are there, as far as the window reaches back: first block, count."""
        kernel, splits = self.kernel, self.shape.splits
        blocks = kernel.let(div(self.used + BLOCK - 1, BLOCK))
        start = 0 if self.window is None else kernel.let(div(tirx.max(self.used - self.window, 0), BLOCK))
        share = kernel.let(div(blocks - start + splits - 1, splits))
        first_block = kernel.let(start + self.split * share)
        return first_block, kernel.let(tirx.max(tirx.min(share, blocks - first_block), 0))

    def _walk(self, first_block: Expr, count: Expr) -> None:
        """`count` blocks of keys."""
        kernel, used = self.kernel, self.used
        head = kernel.let(self.kv_head * self.loads)
        with kernel.loop(count) as step:
            base = kernel.let((first_block + step) * BLOCK + self.quad)
            # Keys beyond the last have no weight, and no NaN is read.
            keys = [kernel.let(tirx.min(base + k * QUADS, used - 1) * self.cache.row + head) for k in range(self.keys)]
            self.step(base, keys, self.shape.heads.key_value * self.loads)

    def _join(self) -> None:
        """The first quad ends with what all of them summed, relative to the largest of their maxima."""
        kernel, rows, count = self.kernel, self.rows, self.rows * self.held
        tops, totals = kernel.shared(rows * QUADS), kernel.shared(rows * THREADS // 2)
        with kernel.when(self.member == 0):
            for j in range(rows):
                tops[j * QUADS + self.quad] = self.tops[j]
        kernel.barrier()
        for j in range(rows):
            most = kernel.registers()
            most[0] = tops[j * QUADS]
            for quad in range(1, QUADS):
                most[0] = tirx.max(most[0], tops[j * QUADS + quad])
            shrink = kernel.let(T.exp(self.tops[j] - most[0]))
            self.tops[j], self.totals[j] = most[0], self.total_of_quad(j) * shrink
            for i in range(j * self.held, (j + 1) * self.held):
                self.sums[i] = self.sums[i] * T.broadcast(shrink, 4)
        half = THREADS
        while half > QUAD:  # the upper half gives to the lower
            half //= 2
            with kernel.when(tirx.And(self.thread >= half, self.thread < 2 * half)):
                place = kernel.let(self.thread - half)
                for i in range(count):
                    self.meeting[i * half + place] = self.sums[i]
                for j in range(rows):
                    totals[j * half + place] = self.totals[j]
            kernel.barrier()
            with kernel.when(self.thread < half):
                for i in range(count):
                    self.sums[i] = self.sums[i] + self.meeting[i * half + self.thread]
                for j in range(rows):
                    self.totals[j] = self.totals[j] + totals[j * half + self.thread]
            if half > QUAD:
                kernel.barrier()

    def _store(self) -> None:
        kernel, shape, dims = self.kernel, self.shape, self.dims
        with kernel.when(self.thread < QUAD):
            for j in range(self.rows):
                head = kernel.let(self._head(j))
                with kernel.when(True if shape.shared_heads % self.rows == 0 else self.first + j == head):
                    base, scale = kernel.let(head * dims), kernel.let(f32(1.0) / self.totals[j])
                    if shape.splits > 1:
                        base, scale = kernel.let((head * shape.splits + self.split) * (dims + 1)), f32(1.0)
                        with kernel.when(self.thread == 0):
                            zero = f32(0.0)
                            top = tirx.Shuffle([self.tops[j], self.totals[j], zero, zero], [0, 1, 2, 3])
                            self.out[base + dims] = top
                    for part, place in enumerate(self.places):
                        with kernel.when(self.has(part)):
                            for v in range(self.vectors):
                                value = self.sums[j * self.held + part * self.vectors + v]
                                self.out[base + place * self.vectors + v] = value * T.broadcast(scale, 4)

    def _store_nothing(self) -> None:
        """A split without keys: software adapters are slow where workgroups meet, and most splits are idle at first."""
        kernel, shape, dims = self.kernel, self.shape, self.dims
        for j in range(self.rows):
            base = kernel.let((self._head(j) * shape.splits + self.split) * (dims + 1))
            with kernel.loop(ceil_div(dims, THREADS)) as step:
                i = kernel.let(step * THREADS + self.thread)
                with kernel.when(True if dims % THREADS == 0 else i < dims):
                    self.out[base + i] = T.broadcast(f32(0.0), 4)
            with kernel.when(self.thread == 0):
                zero = f32(0.0)
                self.out[base + dims] = tirx.Shuffle([f32(LOWEST), zero, zero, zero], [0, 1, 2, 3])


def combine(name: str, shape: AttentionShape) -> tirx.PrimFunc:
    """Join the splits of a decode step; bindings: partial (as `attention` wrote it), out `[query heads, size]`."""
    dims = shape.dims
    units = shape.heads.query * dims
    with Kernel(name) as kernel:
        partial = kernel.buffer("partial", shape.heads.query * shape.splits * (dims + 1), "float32x4")
        out = kernel.buffer("out", units, "float32x4")
        block, _ = kernel.grid(ceil_div(units, THREADS))
        unit = kernel.let(block * THREADS + kernel.threads(THREADS))
        with kernel.when(True if units % THREADS == 0 else unit < units):
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
