"""Prefill's attention: a chunk of queries over the KV cache, tiled in registers.

Four neighbouring invocations, a quad, hold `rows` consecutive queries of one head: each a quarter of their dimensions,
`vec4`s that are four apart, so that the quad reads 64 (f32) consecutive bytes of a key or value at a time, once for
all its queries. It walks the used positions `keys` at a time: partial scores, their sum over the quad, the online
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

from compiler.kernels.attention import LOWEST, Shape
from compiler.kernels.builder import (
    Array,
    Expr,
    Kernel,
    call,
    cast4,
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

    def rows_of(self, parts: int) -> int:
        """Queries of a quad, of heads that have `parts` `vec4`s an invocation."""
        return max(1, min(self.rows, self.vectors // parts))


def attention(name: str, shape: Shape, state_words: int, activation: str, tiling: AttentionTiling) -> tirx.PrimFunc:
    """Bindings: query (activation x4), cache (activation x4), state, out `[chunk, query heads, size]`."""
    return _Prefill(name, shape, tiling, activation).build(state_words)


class _Prefill:
    """One kernel under construction: what its parts share."""

    def __init__(self, name: str, shape: Shape, tiling: AttentionTiling, activation: str) -> None:
        self.kernel, self.shape, self.tiling, self.activation = Kernel(name), shape, tiling, activation
        self.dims = shape.dims
        self.parts = ceil_div(self.dims, QUAD)  # vec4s of a head in an invocation
        self.rows = tiling.rows_of(self.parts)
        self.heads = next(n for n in range(HEADS, 0, -1) if shape.shared_heads % n == 0)
        self.tiles = max(1, tiling.quads // self.heads)
        self.threads = self.heads * self.tiles * QUAD
        window = shape.window
        self.window = window if window is not None and window < shape.context else None

    def build(self, state_words: int) -> tirx.PrimFunc:
        shape, tiling, heads, dims = self.shape, self.tiling, self.shape.heads, self.dims
        with self.kernel as kernel:
            self.query = kernel.buffer("query", shape.chunk * heads.query * dims, f"{self.activation}x4")
            self.cache = kernel.buffer("cache", shape.context * 2 * heads.key_value * dims, f"{self.activation}x4")
            state = kernel.buffer("state", state_words, "uint32")
            self.out = kernel.buffer("out", shape.chunk * heads.query * dims, f"{self.activation}x4")
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
        kernel, shape, dims, count = self.kernel, self.shape, self.dims, self.tiling.keys
        self.places = [kernel.let(self._place(part)) for part in range(self.parts)]
        self._start()
        start = 0 if self.window is None else kernel.let(tirx.max(self.position + first + 1 - self.window, 0))
        head = kernel.let(div(self.head, shape.shared_heads) * dims)
        row = 2 * shape.heads.key_value * dims  # vec4s of a cache row
        values = shape.heads.key_value * dims  # and of its keys
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
                column = [kernel.let(cast4(self.cache[key + values + place], "float32")) for place in self.places]
                for j in range(self.rows):
                    if exchange is None:
                        weight = kernel.let(call("float32", "quadBroadcast", weights[j][k // QUAD], u32(k % QUAD)))
                    else:
                        weight = weights[j][k]
                    for part, value in enumerate(column):
                        i = j * self.parts + part
                        self.sums[i] = self.sums[i] + value * T.broadcast(weight, 4)
        self._store()

    def _place(self, part: int) -> Expr:
        """Which `vec4` of a head is this invocation's `part`-th; clamped to one that exists."""
        place = self.member + part * QUAD
        return place if self._whole(part) else tirx.min(place, self.dims - 1)

    def _whole(self, part: int) -> bool:
        """Every invocation of a quad has a `part`-th `vec4`."""
        return (part + 1) * QUAD <= self.dims

    def _start(self) -> None:
        """The queries, scaled; where a quad has more `vec4`s than a head, zeros. And what is summed up."""
        kernel, parts = self.kernel, self.parts
        self.queries = kernel.registers(self.rows * parts, "float32x4")
        self.sums = kernel.registers(self.rows * parts, "float32x4")
        self.tops, self.totals = kernel.registers(self.rows), kernel.registers(self.rows)
        scale, zero = T.broadcast(f32(self.shape.heads.size**-0.5), 4), T.broadcast(f32(0.0), 4)
        for j in range(self.rows):
            self.tops[j], self.totals[j] = f32(LOWEST), f32(0.0)
            row = tirx.min(self.first + j, self.length - 1)
            base = kernel.let((row * self.shape.heads.query + self.head) * self.dims)
            for part, place in enumerate(self.places):
                value = cast4(self.query[base + place], "float32") * scale
                if not self._whole(part):
                    value = select(self.member < self.dims - part * QUAD, value, zero)
                self.queries[j * parts + part] = value
                self.sums[j * parts + part] = zero

    def _partial_scores(self, keys: list[Expr]) -> list[list[Expr]]:
        """[row][key]: the inner product over this invocation's dimensions."""
        kernel = self.kernel
        partial = [[kernel.registers() for _ in keys] for _ in range(self.rows)]
        for part, place in enumerate(self.places):
            columns = [kernel.let(cast4(self.cache[key + place], "float32")) for key in keys]
            for j, registers in enumerate(partial):
                for register, column in zip(registers, columns, strict=True):
                    product = dot(self.queries[j * self.parts + part], column)
                    register[0] = product if part == 0 else register[0] + product
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
            for i in range(j * self.parts, (j + 1) * self.parts):
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
                for part, place in enumerate(self.places):
                    value = cast4(self.sums[j * self.parts + part] * T.broadcast(share, 4), self.activation)
                    target = (row * self.shape.heads.query + self.head) * self.dims + place
                    with kernel.when(True if self._whole(part) else self.member < self.dims - part * QUAD):
                        self.out[target] = value
