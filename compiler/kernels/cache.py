"""Attention's heads, and how the keys and values of a layer lie in its cache.

A position is a row `[2 * key_value heads, head size]`: keys, then values, as f32, as f16 or in 8 bits. Those of f16
stand two to a u32 word, which takes nothing beyond core WGSL, and clamped, so that none becomes infinite. A word holds
one pair of `Heads.pair`: whoever rotates a pair stores a whole word, and no two invocations meet in one. So keys stand
in the order of their pairs, as do the queries that meet them; the pairs of values are neighbours, so their order is the
usual one.

In 8 bits (`q8`) an element is `q / 127 * top`, q from -127 to 127, four to a word, in the usual order; `top` is the
largest magnitude of the position's head, an f32. A row ends with them: of every key_value head that of its key and that
of its value; it is filled up to 16 bytes. Who stores needs whole heads. The numpy twin is `reference.in_8_bits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from .builder import Array, Expr, Kernel, bits_to_f32, call, div, lane, mod, select

Q8_STEPS = 127  # of a head's largest magnitude
Q8_MULTIPLE = 8  # sizes of heads that 8 bits are for


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
    dtype: str  # of its elements: "float32", "float16" or "q8"

    @property
    def halves(self) -> bool:
        """Elements are f16 in words, in the order of pairs."""
        return self.dtype == "float16"

    @property
    def bytes(self) -> bool:
        """Elements are 8 bits, four to a word, and each head of a position has its scale."""
        return self.dtype == "q8"

    @property
    def words(self) -> bool:
        """Rows are u32, not f32."""
        return self.dtype != "float32"

    @property
    def head_words(self) -> int:
        """Words of 32 bits of a head's key or value."""
        return self.heads.size // {"float32": 1, "float16": 2, "q8": 4}[self.dtype]

    @property
    def scales(self) -> int:
        """The word of a row at which its scales begin: of each key_value head that of its key, that of its value."""
        return 2 * self.heads.key_value * self.head_words

    @property
    def row_words(self) -> int:
        """Words of 32 bits of a position."""
        if not self.bytes:
            return self.scales
        return -(-(self.scales + 2 * self.heads.key_value) // 4) * 4

    def bind(self, kernel: Kernel) -> Array:
        """The next storage binding, for a kernel that stores pairs."""
        return kernel.buffer("cache", self.context * self.row_words, "uint32" if self.words else "float32")

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
        vectors = self.vectors(wide)
        loads = self.heads.size // (4 * vectors)
        width = vectors if self.bytes else 2 * vectors  # words of a load
        row = self.row_words // width if self.words else 2 * self.heads.key_value * loads
        array = kernel.buffer("cache", self.context * row, f"uint32x{width}" if self.words else "float32x4")
        return CacheReader(kernel, array, self, vectors, loads, row)

    def vectors(self, wide: bool) -> int:
        """`vec4`s of a load: in 8 bits four where quads of invocations share a head evenly, else two."""
        if self.bytes:
            return 4 if self.heads.size % 64 == 0 else 2
        return 2 if self.halves and wide else 1


@dataclass(frozen=True)
class CacheReader:
    """A cache bound to a kernel, in loads of `vectors` `vec4`s: `loads` of them a head, `row` a position."""

    kernel: Kernel
    array: Array
    cache: Cache
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
        """The `vec4<f32>`s of what was fetched; in 8 bits parts of the head's scale."""
        kernel = self.kernel
        if self.cache.bytes:
            return [kernel.let(call("float32x4", "unpack4x8snorm", lane(value, v))) for v in range(self.vectors)]
        if not self.cache.halves:
            return [value]
        return [kernel.let(kernel.f16x4(lane(value, 2 * v), lane(value, 2 * v + 1))) for v in range(self.vectors)]

    def scales_behind(self, kv_head: Expr) -> Expr:
        """Loads from a key of the head to the one with its scales."""
        return (2 * self.cache.heads.key_value - kv_head) * self.loads + div(kv_head, self.vectors // 2)

    def scales(self, value: Expr, kv_head: Expr) -> tuple[Expr, Expr]:
        """Those of a key and its value, of the load that `scales_behind` leads to."""
        pair = [lane(value, 0), lane(value, 1)]
        if self.vectors == 4:  # two heads to a load
            odd = mod(kv_head, 2) == 1
            pair = [select(odd, lane(value, 2 + i), pair[i]) for i in range(2)]
        key, of_value = (self.kernel.let(bits_to_f32(self.kernel.let(word))) for word in pair)
        return key, of_value
