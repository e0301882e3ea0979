"""The rotary table and how kernels read it.

Angles come from a table the compiler computes in f64: cos/sin of `256 a x f` and of `b x f` for every frequency f, so
that position `256 a + b` needs one complex product and no `sin` of a large argument (WGSL promises little there).
The numpy twin is `reference.rotate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .builder import Array, Expr, Kernel, all_of, ceil_div, div, i32, mod
from .cache import Cache

ROPE_BLOCK = 256  # positions of the fine table


@dataclass(frozen=True)
class RopePart:
    """Where a layer's pairs stand among the `pairs` of a table that holds the frequencies of all layers."""

    first: int
    pairs: int


def rope_table(inv_freq: np.ndarray, scaling: float | np.ndarray, context: int) -> np.ndarray:
    """The two-level table: f32 `[ceil(context/256) + 256, len(inv_freq), 2]`, coarse rows first, then fine ones.

    `scaling` multiplies cos and sin (longrope's attention factor), of all frequencies or of each its own, and stands in
    the coarse rows.
    """
    coarse = np.arange(ceil_div(context, ROPE_BLOCK))[:, None] * ROPE_BLOCK * inv_freq.astype(np.float64)
    fine = np.arange(ROPE_BLOCK)[:, None] * inv_freq.astype(np.float64)
    rows = [np.stack([np.cos(angle), np.sin(angle)], axis=-1) for angle in (coarse, fine)]
    return np.concatenate([rows[0] * np.reshape(scaling, (-1, 1)), rows[1]]).astype(np.float32)


def rope_words(pairs: int, context: int) -> int:
    """Length of the table in f32 words."""
    return (ceil_div(context, ROPE_BLOCK) + ROPE_BLOCK) * pairs * 2


def cos_sin(kernel: Kernel, table: Array, position: Expr, pair: Expr, pairs: int, context: int) -> tuple[Expr, Expr]:
    coarse = kernel.let((div(position, ROPE_BLOCK) * pairs + pair) * 2)
    fine = kernel.let(((mod(position, ROPE_BLOCK) + ceil_div(context, ROPE_BLOCK)) * pairs + pair) * 2)
    ca, sa = kernel.let(table[coarse]), kernel.let(table[coarse + 1])
    cb, sb = kernel.let(table[fine]), kernel.let(table[fine + 1])
    return kernel.let(ca * cb - sa * sb), kernel.let(sa * cb + ca * sb)


def bound_table(kernel: Kernel, cache: Cache, part: RopePart | None) -> Array | None:
    """The next binding: the rotary table, of the layer's own pairs or with it as a part; none where nothing rotates."""
    if not cache.heads.rotary:
        return None
    pairs = part.pairs if part is not None else cache.heads.rotary // 2
    return kernel.buffer("rope", rope_words(pairs, cache.context), "float32")


@dataclass(frozen=True)
class Rotation:
    """What a kernel that rotates queries and keys has bound."""

    kernel: Kernel
    cache: Cache
    part: RopePart | None
    state: Array
    table: Array | None
    kept: Array  # the cache
    query: Array

    def store(self, row: Expr, pair: tuple[Expr, Expr, Expr, Expr], values: tuple[Expr, Expr]) -> None:
        """Rotate one pair of a head where it rotates, and put it where the head belongs."""
        position = self.position(row)
        turned = self.turn(position, pair, values)
        self.cache.store(self.kernel, self.kept, self.query, row, position, pair, turned)

    def position(self, row: Expr) -> Expr:
        """Of a row of the chunk."""
        return self.kernel.let(i32(self.state[0]) + row)

    def turn(self, position: Expr, pair: tuple[Expr, Expr, Expr, Expr], values: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
        """One pair of a head, rotated where it rotates."""
        kernel, heads, (head, i, _, _) = self.kernel, self.cache.heads, pair
        a, b = kernel.registers(), kernel.registers()
        a[0], b[0] = values
        whole = heads.rotary == heads.size
        part = self.part or RopePart(0, heads.rotary // 2)
        if self.table is not None:
            with kernel.when(all_of([head < heads.query + heads.key_value, True if whole else i < heads.rotary // 2])):
                place = i + part.first if part.first else i
                cos, sin = cos_sin(kernel, self.table, position, place, part.pairs, self.cache.context)
                x, y = kernel.let(a[0]), kernel.let(b[0])
                a[0] = x * cos - y * sin
                b[0] = y * cos + x * sin
        return a[0], b[0]
