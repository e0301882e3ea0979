"""Attention's heads, and how the keys and values of a layer lie in its cache.

A position is a row `[2 * key_value heads, head size]`: keys, then values, as f32 or as f16. Those of f16 stand two to a
u32 word, which takes nothing beyond core WGSL, and clamped, so that none becomes infinite. A word holds one pair of
`Heads.pair`: whoever rotates a pair stores a whole word, and no two invocations meet in one. So keys stand in the order
of their pairs, as do the queries that meet them; the pairs of values are neighbours, so their order is the usual one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from .builder import Array, Expr, Kernel, div, lane, mod, select


@dataclass(frozen=True)
class Heads:
    """The attention heads of a layer, as its fused qkv matrix orders them: queries, keys, values."""

    query: int
    key_value: int
    size: int
    rotary: int  # leading dimensions of a head that rotate, as pairs (i, i + rotary/2)

    @property
    def rows(self) -> int:
        return (self.query + 2 * self.key_value) * self.size

    @property
    def normalized(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last but one of the heads that share a norm's weight: queries, keys."""
        return (0, self.query), (self.query, self.query + self.key_value)

    def pair(self, unit: Expr) -> tuple[Expr, Expr, Expr, Expr]:
        """Unit -> (head, index of the pair, first and second dimension within the head)."""
        half, rotating = self.size // 2, self.rotary // 2
        head, i = div(unit, half), mod(unit, half)
        first, second = i, i + half
        if self.rotary != self.size:
            turns, rest = i < rotating, half - rotating
            first = select(turns, i, self.rotary + i - rotating)
            second = select(turns, i + rotating, self.rotary + i - rotating + rest)
        value = head >= self.query + self.key_value
        return head, i, select(value, 2 * i, first), select(value, 2 * i + 1, second)

    def pair_rows(self, unit: Expr) -> tuple[Expr, Expr]:
        """The matrix rows of a unit."""
        head, _, first, second = self.pair(unit)
        return head * self.size + first, head * self.size + second


@dataclass(frozen=True)
class Cache:
    """The cache of a layer with room for `context` positions."""

    heads: Heads
    context: int
    dtype: str  # of its elements: "float16" or "float32"

    @property
    def halves(self) -> bool:
        """Elements are f16 in words, in the order of pairs."""
        return self.dtype == "float16"

    @property
    def row_words(self) -> int:
        """Words of 32 bits of a position."""
        return 2 * self.heads.key_value * self.heads.size // (2 if self.halves else 1)

    def bind(self, kernel: Kernel) -> Array:
        """The next storage binding, for a kernel that stores pairs."""
        return kernel.buffer("cache", self.context * self.row_words, "uint32" if self.halves else "float32")

    def store(
        self,
        kernel: Kernel,
        cache: Array,
        query: Array,
        row: Expr,
        position: Expr,
        pair: Sequence[Expr],
        values: tuple[Expr, Expr],
    ) -> None:
        """Put a pair, as `Heads.pair` gives it, where its head belongs: into row `row` of the queries or the cache."""
        heads, (head, i, first, second) = self.heads, pair
        with T.If(head < heads.query):
            with T.Then():
                base = kernel.let((row * heads.query + head) * heads.size)
                places = (2 * i, 2 * i + 1) if self.halves else (first, second)
                for place, value in zip(places, values, strict=True):
                    query[base + place] = value
            with T.Else():
                base = kernel.let(position * self.row_words)
                if self.halves:
                    cache[base + (head - heads.query) * (heads.size // 2) + i] = kernel.pack_f16(*values)
                else:
                    base = kernel.let(base + (head - heads.query) * heads.size)
                    cache[base + first], cache[base + second] = values

    def reader(self, kernel: Kernel, wide: bool) -> CacheReader:
        """The next storage binding, for a kernel that attends; `wide`: f16 by eights, else by fours as f32."""
        vectors = 2 if self.halves and wide else 1
        loads = self.heads.size // (4 * vectors)
        row = 2 * self.heads.key_value * loads
        array = kernel.buffer("cache", self.context * row, f"uint32x{2 * vectors}" if self.halves else "float32x4")
        return CacheReader(kernel, array, self.halves, vectors, loads, row)


@dataclass(frozen=True)
class CacheReader:
    """A cache bound to a kernel, in loads of `vectors` `vec4`s: `loads` of them a head, `row` a position."""

    kernel: Kernel
    array: Array
    halves: bool
    vectors: int
    loads: int
    row: int

    def load(self, index: Expr) -> list[Expr]:
        """The `vec4<f32>`s of a load."""
        return self.unpack(self.fetch(index))

    def fetch(self, index: Expr) -> Expr:
        """A load as it lies in memory: several of them before the first `unpack` are under way together."""
        return self.kernel.let(self.array[index])

    def unpack(self, value: Expr) -> list[Expr]:
        """The `vec4<f32>`s of what was fetched."""
        if not self.halves:
            return [value]
        kernel = self.kernel
        return [kernel.let(kernel.f16x4(lane(value, 2 * v), lane(value, 2 * v + 1))) for v in range(self.vectors)]
