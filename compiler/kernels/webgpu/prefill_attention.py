"""Prefill's attention: a chunk of queries over the KV cache, tiled in registers (tiles of queries: Dao,
arXiv:2307.08691).

A quad (`quads`) holds `rows` consecutive queries of one head and walks the positions that they see, `keys` at a time.
The numpy twin is `reference.attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Expr, Kernel, ceil_div, div, f32, i32, mod, select, u32
from ..epilogue import capped
from ..shapes import AttentionShape
from .quads import LOADS, LOWEST, QUAD, Loads, Quads, held_vectors, wide

HEADS = 4  # of a workgroup, at most


@dataclass(frozen=True)
class AttentionTiling:
    """How a workgroup's queries are spread: over the heads that share a KV head, up to HEADS of them, then rows."""

    quads: int  # of a workgroup, at most
    rows: int  # queries of a quad, at most
    vectors: int  # `vec4`s of sums in an invocation, at most: quads of large heads have fewer rows
    keys: int  # at a time, a multiple of 4
    subgroups: bool  # the device has quad operations
    loads: Loads = LOADS

    def rows_of(self, held: int) -> int:
        """Queries of a quad, of heads that have `held` `vec4`s an invocation."""
        return max(1, min(self.rows, self.vectors // held))


def attention(name: str, shape: AttentionShape, state_words: int, tiling: AttentionTiling) -> tirx.PrimFunc:
    """Bindings: query (f32, in the cache's order of dimensions), cache, state, out `[chunk, query heads, size]`."""
    return _Prefill(name, shape, tiling).build(state_words)


class _Prefill(Quads):
    """One kernel under construction: what its parts share."""

    def __init__(self, name: str, shape: AttentionShape, tiling: AttentionTiling) -> None:
        super().__init__(Kernel(name), tiling.rows_of(held_vectors(shape.cache)), tiling.keys, 1, tiling.subgroups)
        self.shape, self.dims, self.under_way = shape, shape.dims, tiling.loads
        self.heads = next(n for n in range(HEADS, 0, -1) if shape.shared_heads % n == 0)
        self.tiles = max(1, tiling.quads // self.heads)
        window = shape.window
        self.window = window if window is not None and window < shape.context else None

    def build(self, state_words: int) -> tirx.PrimFunc:
        shape, heads, dims = self.shape, self.shape.heads, self.dims
        with self.kernel as kernel:
            self.query = kernel.buffer("query", shape.chunk * heads.query * dims, "float32x4")
            cache = shape.cache.reader(kernel, wide(heads))
            state = kernel.buffer("state", state_words, "uint32")
            self.out = kernel.buffer("out", shape.chunk * heads.query * dims, "float32x4")
            block_rows = self.tiles * self.rows
            block_x, block_y = kernel.grid(heads.query // self.heads, ceil_div(shape.chunk, block_rows), varies=True)
            threads = self.heads * self.tiles * QUAD
            self.bind(cache, kernel.threads(threads), threads)
            quad = kernel.let(div(self.thread, QUAD))
            self.position, self.length = kernel.let(i32(state[0])), kernel.let(i32(state[2]))
            self.head = kernel.let(block_x * self.heads + mod(quad, self.heads))
            self.first = kernel.let((block_y * self.tiles + div(quad, self.heads)) * self.rows)
            # Invocations that meet at barriers walk the same keys; quads need only those of their own queries.
            if self.subgroups:
                first, rows = self.first, self.rows
            else:
                first, rows = kernel.let(block_y * block_rows), block_rows
            with kernel.when(first < self.length):
                used = self.position + tirx.min(first + rows, self.length) if shape.causal else i32(shape.context)
                self._walk(first, kernel.let(used))
        return kernel.function

    def _walk(self, first: Expr, used: Expr) -> None:
        """The online softmax over the positions that the queries from row `first` on see, of `used` that are there."""
        kernel, shape, loads, count = self.kernel, self.shape, self.loads, self.keys
        self.start(kernel.let(div(self.head, shape.shared_heads)))
        self._load_queries()
        start = 0 if self.window is None else kernel.let(tirx.max(self.position + first + 1 - self.window, 0))
        head = kernel.let(self.kv_head * loads)
        if not self.subgroups:
            self.exchange = kernel.shared(self.exchanged, "float32x4")
        with kernel.loop(div(used - start + count - 1, count)) as step:
            base = kernel.let(start + step * count)
            # Keys that nobody sees stand in for those beyond the last: their weight is 0, and no NaN is read.
            keys = [kernel.let(tirx.min(base + k, used - 1) * self.cache.row + head) for k in range(count)]
            self.step(base, keys, shape.heads.key_value * loads)
        self._store()

    def _load_queries(self) -> None:
        """The queries, scaled; where a quad has more loads than a head, zeros."""
        kernel, vectors = self.kernel, self.vectors
        self.queries = kernel.registers(self.rows * self.held, "float32x4")
        scale, zero = T.broadcast(f32(self.shape.factor), 4), T.broadcast(f32(0.0), 4)
        for j in range(self.rows):
            row = tirx.min(self.first + j, self.length - 1)
            base = kernel.let((row * self.shape.heads.query + self.head) * self.dims)
            for i in range(self.held):
                part, v = divmod(i, vectors)
                value = self.query[base + self.places[part] * vectors + v] * scale
                if not self.whole(part):
                    value = select(self.has(part), value, zero)
                self.queries[j * self.held + i] = value

    def query_of(self, j: int, part: int, v: int) -> Expr:
        return self.queries[j * self.held + part * self.vectors + v]

    def masked(self, score: Expr, key: Expr, j: int) -> Expr:
        score = capped(self.kernel, score, self.shape.soft_cap)
        limit = self.position + self.first + (j + 1) if self.shape.causal else i32(self.shape.context)
        seen = key < limit
        if self.window is not None:
            # Keys from limit - window to limit - 1, by one comparison: `&&` is a branch, one for every row and key, and
            # software adapters are slow at compiling so many.
            seen = u32(limit - 1 - key) < T.uint32(self.window)
        return self.kernel.let(select(seen, score, f32(2 * LOWEST)))

    def _store(self) -> None:
        kernel = self.kernel
        for j in range(self.rows):
            share = kernel.let(f32(1.0) / self.total_of_quad(j))
            row = kernel.let(self.first + j)
            with kernel.when(row < self.length):
                target = kernel.let((row * self.shape.heads.query + self.head) * self.dims)
                for part, place in enumerate(self.places):
                    with kernel.when(self.has(part)):
                        for v in range(self.vectors):
                            value = self.sums[j * self.held + part * self.vectors + v] * T.broadcast(share, 4)
                            self.out[target + place * self.vectors + v] = value
