"""Prefill's attention: a chunk of queries over the KV cache, tiled in registers.

Four neighbouring invocations, a quad, hold `rows` consecutive queries of one head: each a quarter of their dimensions,
in loads that are four apart, so that the quad reads 64 consecutive bytes of a key or value at a time, once for all its
queries. It walks the used positions `keys` at a time: partial scores, their sum over the quad, the online
softmax in f32 (Milakov and Gimelshein, arXiv:1805.02867; tiles of queries: Dao, arXiv:2307.08691), and each
invocation's quarter of the values. Where the device has subgroups, the quad sums and shares by quad operations, of
any size of subgroup: no workgroup memory and no barrier. Elsewhere partial scores go through workgroup memory, with two
barriers a step. The numpy twin is `reference.attention`.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import (
    Array,
    Expr,
    Kernel,
    call,
    ceil_div,
    div,
    dot,
    f32,
    i32,
    lane,
    mod,
    select,
    u32,
)
from compiler.kernels.epilogue import capped
from compiler.kernels.webgpu.attention import LOWEST, Shape

QUAD = 4
HEADS = 4  # of a workgroup, at most


@dataclass(frozen=True)
class AttentionTiling:
    """How a workgroup's queries are spread: over the heads that share a KV head, up to HEADS of them, then rows."""

    quads: int  # of a workgroup, at most
    rows: int  # queries of a quad, at most
    vectors: int  # `vec4`s of sums in an invocation, at most: quads of large heads have fewer rows
    keys: int  # at a time, a multiple of 4
    subgroups: bool  # the device has quad operations

    def rows_of(self, held: int) -> int:
        """Queries of a quad, of heads that have `held` `vec4`s an invocation."""
        return max(1, min(self.rows, self.vectors // held))


def attention(name: str, shape: Shape, state_words: int, tiling: AttentionTiling) -> tirx.PrimFunc:
    """Bindings: query (f32, in the cache's order of dimensions), cache, state, out `[chunk, query heads, size]`."""
    return _Prefill(name, shape, tiling).build(state_words)


class _Prefill:
    """One kernel under construction: what its parts share."""

    def __init__(self, name: str, shape: Shape, tiling: AttentionTiling) -> None:
        self.kernel, self.shape, self.tiling = Kernel(name), shape, tiling
        self.dims = shape.dims
        self.heads = next(n for n in range(HEADS, 0, -1) if shape.shared_heads % n == 0)
        self.tiles = max(1, tiling.quads // self.heads)
        self.threads = self.heads * self.tiles * QUAD
        window = shape.window
        self.window = window if window is not None and window < shape.context else None

    def build(self, state_words: int) -> tirx.PrimFunc:
        shape, tiling, heads, dims = self.shape, self.tiling, self.shape.heads, self.dims
        with self.kernel as kernel:
            self.query = kernel.buffer("query", shape.chunk * heads.query * dims, "float32x4")
            # By eights where that leaves no member of a quad without a load.
            self.cache = shape.cache.reader(kernel, wide=heads.size % (8 * QUAD) == 0)
            state = kernel.buffer("state", state_words, "uint32")
            self.out = kernel.buffer("out", shape.chunk * heads.query * dims, "float32x4")
            self.loads, self.vectors = self.cache.loads, self.cache.vectors
            self.parts = ceil_div(self.loads, QUAD)  # loads of a head in an invocation
            self.held = self.parts * self.vectors  # and `vec4`s
            self.rows = tiling.rows_of(self.held)
            block_rows = self.tiles * self.rows
            block_x, block_y = kernel.grid(heads.query // self.heads, ceil_div(shape.chunk, block_rows), varies=True)
            self.thread = kernel.threads(self.threads)
            self.member = kernel.let(mod(self.thread, QUAD))
            quad = kernel.let(div(self.thread, QUAD))
            self.position, self.length = kernel.let(i32(state[0])), kernel.let(i32(state[2]))
            self.head = kernel.let(block_x * self.heads + mod(quad, self.heads))
            self.first = kernel.let((block_y * self.tiles + div(quad, self.heads)) * self.rows)
            # Invocations that meet at barriers walk the same keys; quads need only those of their own queries.
            if tiling.subgroups:
                first, rows = self.first, self.rows
            else:
                first, rows = kernel.let(block_y * block_rows), block_rows
            with kernel.when(first < self.length):
                self._walk(first, kernel.let(self.position + tirx.min(first + rows, self.length)))
        return kernel.function

    def _walk(self, first: Expr, used: Expr) -> None:
        """The online softmax over the positions that the queries from row `first` on see, of `used` that are there."""
        kernel, shape, loads, count = self.kernel, self.shape, self.loads, self.tiling.keys
        self.places = [kernel.let(self._place(part)) for part in range(self.parts)]
        self._start()
        start = 0 if self.window is None else kernel.let(tirx.max(self.position + first + 1 - self.window, 0))
        head = kernel.let(div(self.head, shape.shared_heads) * loads)
        row, values = self.cache.row, shape.heads.key_value * loads
        exchange = None
        if not self.tiling.subgroups:
            exchange = kernel.shared(count // QUAD * self.rows * self.threads, "float32x4")
        with kernel.loop(div(used - start + count - 1, count)) as step:
            base = kernel.let(start + step * count)
            # Keys that nobody sees stand in for those beyond the last: their weight is 0, and no NaN is read.
            keys = [kernel.let(tirx.min(base + k, used - 1) * row + head) for k in range(count)]
            partial = self._partial_scores(keys)
            if exchange is None:
                weights = self._softmax(self._scores_of_quad(partial, base))
            else:
                weights = self._softmax(self._scores_of_workgroup(partial, base, exchange))
            for k, key in enumerate(keys):
                column = [vector for place in self.places for vector in self.cache.load(key + values + place)]
                for j in range(self.rows):
                    if exchange is None:
                        weight = kernel.let(call("float32", "quadBroadcast", weights[j][k // QUAD], u32(k % QUAD)))
                    else:
                        weight = weights[j][k]
                    for i, value in enumerate(column, j * self.held):
                        self.sums[i] = self.sums[i] + value * T.broadcast(weight, 4)
        self._store()

    def _place(self, part: int) -> Expr:
        """Which load of a head is this invocation's `part`-th; clamped to one that exists."""
        place = self.member + part * QUAD
        return place if self._whole(part) else tirx.min(place, self.loads - 1)

    def _whole(self, part: int) -> bool:
        """Every invocation of a quad has a `part`-th load."""
        return (part + 1) * QUAD <= self.loads

    def _start(self) -> None:
        """The queries, scaled; where a quad has more loads than a head, zeros. And what is summed up."""
        kernel, vectors = self.kernel, self.vectors
        self.queries = kernel.registers(self.rows * self.held, "float32x4")
        self.sums = kernel.registers(self.rows * self.held, "float32x4")
        self.tops, self.totals = kernel.registers(self.rows), kernel.registers(self.rows)
        scale, zero = T.broadcast(f32(self.shape.factor), 4), T.broadcast(f32(0.0), 4)
        for j in range(self.rows):
            self.tops[j], self.totals[j] = f32(LOWEST), f32(0.0)
            row = tirx.min(self.first + j, self.length - 1)
            base = kernel.let((row * self.shape.heads.query + self.head) * self.dims)
            for i in range(self.held):
                part, v = divmod(i, vectors)
                value = self.query[base + self.places[part] * vectors + v] * scale
                if not self._whole(part):
                    value = select(self.member < self.loads - part * QUAD, value, zero)
                self.queries[j * self.held + i] = value
                self.sums[j * self.held + i] = zero

    def _partial_scores(self, keys: list[Expr]) -> list[list[Expr]]:
        """[row][key]: the inner product over this invocation's dimensions."""
        kernel = self.kernel
        partial = [[kernel.registers() for _ in keys] for _ in range(self.rows)]
        for part, place in enumerate(self.places):
            columns = [self.cache.load(key + place) for key in keys]
            for j, registers in enumerate(partial):
                for register, column in zip(registers, columns, strict=True):
                    for i, vector in enumerate(column, part * self.vectors):
                        product = dot(self.queries[j * self.held + i], vector)
                        register[0] = product if i == 0 else register[0] + product
        return [[register[0] for register in registers] for registers in partial]

    def _scores_of_quad(self, partial: list[list[Expr]], base: Expr) -> list[list[Expr]]:
        """[row][group]: of every four keys, the member's own."""
        groups = range(0, self.tiling.keys, QUAD)
        odd = self.kernel.let(mod(self.member, 2))
        keys = [self.kernel.let(base + group + self.member) for group in groups]
        return [
            [
                self._masked(self._sum_of_quad(row[group : group + QUAD], odd), key, j)
                for group, key in zip(groups, keys, strict=True)
            ]
            for j, row in enumerate(partial)
        ]

    def _sum_of_quad(self, s: list[Expr], odd: Expr) -> Expr:
        """Member m gets the quad's sum of `s[m]`: a transposition in two exchanges."""
        kernel = self.kernel
        pairs = []
        for low, high in ((s[0], s[1]), (s[2], s[3])):
            kept, given = (kernel.let(select(odd == 1, a, b)) for a, b in ((high, low), (low, high)))
            pairs.append(kernel.let(kept + call("float32", "quadSwapX", given)))
        low, high = pairs
        kept, given = (kernel.let(select(self.member >= 2, a, b)) for a, b in ((high, low), (low, high)))
        return kernel.let(kept + call("float32", "quadSwapY", given))

    def _scores_of_workgroup(self, partial: list[list[Expr]], base: Expr, exchange: Array) -> list[list[Expr]]:
        """[row][key], the same in every member of a quad."""
        kernel, groups = self.kernel, self.tiling.keys // QUAD
        for i in range(self.rows * groups):
            j, group = divmod(i, groups)
            four = partial[j][group * QUAD : (group + 1) * QUAD]
            exchange[i * self.threads + self.thread] = tirx.Shuffle(four, list(range(QUAD)))
        kernel.barrier()
        first = kernel.let(self.thread - self.member)
        sums = []
        for i in range(self.rows * groups):
            total = exchange[i * self.threads + first]
            for member in range(1, QUAD):
                total = total + exchange[i * self.threads + first + member]
            sums.append(kernel.let(total))
        kernel.barrier()
        return [
            [self._masked(lane(sums[j * groups + k // QUAD], k % QUAD), base + k, j) for k in range(self.tiling.keys)]
            for j in range(self.rows)
        ]

    def _masked(self, score: Expr, key: Expr, j: int) -> Expr:
        """The score where row j sees the key; else lower than any maximum, so that its exponential is always 0."""
        score = capped(self.kernel, score, self.shape.soft_cap)
        limit = self.position + self.first + (j + 1)
        seen = key < limit
        if self.window is not None:
            # Keys from limit - window to limit - 1, by one comparison: `&&` is a branch, one for every row and key, and
            # software adapters are slow at compiling so many.
            seen = u32(limit - 1 - key) < T.uint32(self.window)
        return self.kernel.let(select(seen, score, f32(2 * LOWEST)))

    def _softmax(self, scores: list[list[Expr]]) -> list[list[Expr]]:
        """The scores' weights, relative to the running maximum; what was summed up so far is made relative to it."""
        kernel = self.kernel
        weights = []
        for j, row in enumerate(scores):
            most = functools.reduce(tirx.max, row)
            if self.tiling.subgroups:
                for swap in ("quadSwapX", "quadSwapY"):
                    most = kernel.let(most)
                    most = tirx.max(most, call("float32", swap, most))
            most = kernel.let(tirx.max(most, self.tops[j]))
            shrink = kernel.let(T.exp(self.tops[j] - most))
            self.tops[j] = most
            for i in range(j * self.held, (j + 1) * self.held):
                self.sums[i] = self.sums[i] * T.broadcast(shrink, 4)
            weights.append([kernel.let(T.exp(score - most)) for score in row])
            self.totals[j] = functools.reduce(operator.add, weights[j], self.totals[j] * shrink)
        return weights

    def _store(self) -> None:
        kernel = self.kernel
        for j in range(self.rows):
            total = self.totals[j]
            if self.tiling.subgroups:  # each member has summed its own keys' weights
                for swap in ("quadSwapX", "quadSwapY"):
                    total = kernel.let(total + call("float32", swap, total))
            share = kernel.let(f32(1.0) / total)
            row = kernel.let(self.first + j)
            with kernel.when(row < self.length):
                target = kernel.let((row * self.shape.heads.query + self.head) * self.dims)
                for part, place in enumerate(self.places):
                    with kernel.when(True if self._whole(part) else self.member < self.loads - part * QUAD):
                        for v in range(self.vectors):
                            value = self.sums[j * self.held + part * self.vectors + v] * T.broadcast(share, 4)
                            self.out[target + place * self.vectors + v] = value
