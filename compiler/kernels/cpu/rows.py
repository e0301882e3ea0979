"""How attention on the CPU reads a layer's cache: four f32 at a time, f16 by a shift and a mask, 8 bits by two shifts.

The 16 bits of a half, moved so that its exponent and its mantissa stand where f32's do, are the f32 that is 2^-112
times its value: exponents are biased by 15 and by 127. Nothing is multiplied to undo that: queries, scores and weights
carry factors whose product with it is 1. So four words, which hold eight halves, cost five operations and no table.

Elements of 8 bits come as the integers that they are; scores and weights are multiplied by the scales of their keys.

Knows the cache's layout (`kernels.cache`) and the order in which its elements come here; nothing of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, bits_to_f32, f32
from ..cache import Q8_STEPS, Cache
from .builder import CpuKernel, constant, convert, load, retype

# A query times the one, a score times the other; neither they nor a product of them with a moved key is subnormal or
# infinite where the query is below 2^32.
QUERY_FACTOR, SCORE_FACTOR = 2.0**96, 2.0**16
WEIGHT_FACTOR = 2.0**112  # of a weight, which is at most 1
LOW_HIGH = ([0, 4, 1, 5], [2, 6, 3, 7])  # the lower lanes of two vectors by turns, and the upper ones


@dataclass(frozen=True)
class Rows:
    """A cache bound to a kernel: `loads` reads a head of `vectors` vectors of four, `row` loads a position.

    A load of four words of halves gives their low halves, then their high ones; one of two words, as they stand. One of
    four words of bytes gives the lowest byte of each, then the next ones; one of two words, two of each at a time.
    """

    kernel: CpuKernel
    array: Array
    cache: Cache
    vectors: int
    loads: int
    row: int

    @classmethod
    def bind(cls, kernel: CpuKernel, cache: Cache) -> Rows:
        """The next binding."""
        size = cache.heads.size
        if cache.bytes:  # single words, as scales are
            vectors = 4 if size % 16 == 0 else 2
            array = kernel.buffer("cache", cache.context * cache.row_words, "uint32")
            return cls(kernel, array, cache, vectors, size // (4 * vectors), cache.row_words // vectors)
        vectors = 2 if cache.halves and size % 8 == 0 else 1
        loads = size // (4 * vectors)
        row = 2 * cache.heads.key_value * loads
        dtype = f"uint32x{2 * vectors}" if cache.halves else "float32x4"
        return cls(kernel, kernel.buffer("cache", cache.context * row, dtype), cache, vectors, loads, row)

    @property
    def halves(self) -> bool:
        """Elements are moved halves."""
        return self.cache.halves

    @property
    def query_factor(self) -> float:
        """What queries are multiplied by before they meet keys."""
        return QUERY_FACTOR if self.halves else 1.0

    @property
    def score_factor(self) -> float:
        """What scores are multiplied by afterwards."""
        return SCORE_FACTOR if self.halves else 1.0

    @property
    def weight_factor(self) -> float:
        """What weights are multiplied by before they meet values."""
        return WEIGHT_FACTOR if self.halves else 1.0

    def scale(self, position: Expr, kv_head: Expr, of_value: int) -> Expr:
        """What a key's integers are to be multiplied by, or a value's (`of_value` is 1)."""
        word = self.array[position * self.cache.row_words + self.cache.scales + 2 * kv_head + of_value]
        return bits_to_f32(word) * f32(1 / Q8_STEPS)

    def load(self, index: Expr) -> list[Expr]:
        """The vectors of a load, 2^-112 of their values where they are halves, integers where they are bytes."""
        if self.cache.bytes:
            return self._load_bytes(index)
        kernel, value = self.kernel, self.kernel.let(self.array[index])
        if not self.halves:
            return [value]
        high = kernel.let(retype(value, "int32"))
        low = kernel.let(T.shift_left(high, constant(16, "int32", high)))
        if self.vectors == 2:
            return [self._moved(low, 0x8FFFFFFF), self._moved(high, 0x8FFFE000)]
        return [self._moved(kernel.let(tirx.Shuffle([low, high], [0, 2, 1, 3])), 0x8FFFE000)]

    def _load_bytes(self, index: Expr) -> list[Expr]:
        kernel, lanes = self.kernel, self.vectors
        words = kernel.let(retype(load(self.array, index * lanes, lanes), "int32"))
        parts = []
        for up in (24, 16, 8, 0):
            raised = T.shift_left(words, constant(up, "int32", words)) if up else words
            parts.append(kernel.let(convert(T.shift_right(raised, constant(24, "int32", words)), "float32")))
        if lanes == 4:
            return parts
        return [kernel.let(tirx.Shuffle(parts[i : i + 2], [0, 1, 2, 3])) for i in (0, 2)]

    def _moved(self, bits: Expr, mask: int) -> Expr:
        """Halves in the upper 16 bits of lanes: an arithmetic shift keeps their sign on top; its copies are masked."""
        down = T.shift_right(bits, constant(3, "int32", bits))
        kept = T.bitwise_and(down, constant(mask - 2**32, "int32", bits))
        return self.kernel.let(retype(kept, "float32"))

    def inward(self, vectors: Sequence[Expr]) -> list[Expr]:
        """Vectors of consecutive elements, of a load, in the order of `load`."""
        if self.vectors == 1:
            return list(vectors)
        given = [self.kernel.let(vector) for vector in vectors]
        if self.vectors == 4:
            return self._transposed(given)
        orders = ([0, 4, 1, 5], [2, 6, 3, 7]) if self.cache.bytes else ([0, 2, 4, 6], [1, 3, 5, 7])
        return [tirx.Shuffle(given, order) for order in orders]

    def outward(self, vectors: Sequence[Expr]) -> list[Expr]:
        """The inverse of `inward`."""
        if self.vectors == 1:
            return list(vectors)
        if self.vectors == 4:
            return self._transposed(vectors)
        orders = ([0, 2, 4, 6], [1, 3, 5, 7]) if self.cache.bytes else ([0, 4, 1, 5], [2, 6, 3, 7])
        return [tirx.Shuffle(list(vectors), order) for order in orders]

    def _transposed(self, vectors: Sequence[Expr]) -> list[Expr]:
        """Lane i of vector v, of four of them, for lane v of vector i."""
        kernel, (a, b, c, d) = self.kernel, vectors
        low, high = ([kernel.let(tirx.Shuffle(pair, order)) for pair in ([a, b], [c, d])] for order in LOW_HIGH)
        return [tirx.Shuffle(pair, order) for pair in (low, high) for order in ([0, 1, 4, 5], [2, 3, 6, 7])]
