"""How attention on the CPU reads a layer's cache: four f32 at a time, f16 by a shift and a mask.

The 16 bits of a half, moved so that its exponent and its mantissa stand where f32's do, are the f32 that is 2^-112
times its value: exponents are biased by 15 and by 127. Nothing is multiplied to undo that: queries, scores and weights
carry factors whose product with it is 1. So four words, which hold eight halves, cost five operations and no table.

Knows the cache's layout (`kernels.cache`) and the order in which its elements come here; nothing of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr
from ..cache import Cache
from .builder import CpuKernel, constant, retype

# A query times the one, a score times the other; neither they nor a product of them with a moved key is subnormal or
# infinite where the query is below 2^32.
QUERY_FACTOR, SCORE_FACTOR = 2.0**96, 2.0**16
WEIGHT_FACTOR = 2.0**112  # of a weight, which is at most 1


@dataclass(frozen=True)
class Rows:
    """A cache bound to a kernel: `loads` reads a head of `vectors` vectors of four, `row` loads a position.

    A load of four words of halves gives their low halves, then their high ones; one of two words, as they stand.
    """

    kernel: CpuKernel
    array: Array
    halves: bool
    vectors: int
    loads: int
    row: int

    @classmethod
    def bind(cls, kernel: CpuKernel, cache: Cache) -> Rows:
        """The next binding."""
        size = cache.heads.size
        vectors = 2 if cache.halves and size % 8 == 0 else 1
        loads = size // (4 * vectors)
        row = 2 * cache.heads.key_value * loads
        dtype = f"uint32x{2 * vectors}" if cache.halves else "float32x4"
        return cls(kernel, kernel.buffer("cache", cache.context * row, dtype), cache.halves, vectors, loads, row)

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

    def load(self, index: Expr) -> list[Expr]:
        """The vectors of a load, 2^-112 of their values where they are halves."""
        kernel, value = self.kernel, self.kernel.let(self.array[index])
        if not self.halves:
            return [value]
        high = kernel.let(retype(value, "int32"))
        low = kernel.let(T.shift_left(high, constant(16, "int32", high)))
        if self.vectors == 2:
            return [self._moved(low, 0x8FFFFFFF), self._moved(high, 0x8FFFE000)]
        return [self._moved(kernel.let(tirx.Shuffle([low, high], [0, 2, 1, 3])), 0x8FFFE000)]

    def _moved(self, bits: Expr, mask: int) -> Expr:
        """Halves in the upper 16 bits of lanes: an arithmetic shift keeps their sign on top; its copies are masked."""
        down = T.shift_right(bits, constant(3, "int32", bits))
        kept = T.bitwise_and(down, constant(mask - 2**32, "int32", bits))
        return self.kernel.let(retype(kept, "float32"))

    def inward(self, vectors: Sequence[Expr]) -> list[Expr]:
        """Vectors of consecutive elements, of a load, in the order of `load`."""
        if self.vectors == 1:
            return list(vectors)
        pair = [self.kernel.let(vector) for vector in vectors]
        return [tirx.Shuffle(pair, [first, first + 2, first + 4, first + 6]) for first in (0, 1)]

    def outward(self, vectors: Sequence[Expr]) -> list[Expr]:
        """The inverse of `inward`."""
        if self.vectors == 1:
            return list(vectors)
        return [tirx.Shuffle(list(vectors), [first, first + 4, first + 1, first + 5]) for first in (0, 2)]
