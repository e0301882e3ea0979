"""What kernels are built for, whatever runs them: norms, products, attention; frozen: equal ones are one kernel.

Knows sizes; how a backend spreads the work over invocations or items, it says itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..weights.storage import Storage
from .cache import Cache, Heads
from .epilogue import Declare, UnitRows


@dataclass(frozen=True)
class Norm:
    """RMS norm of the input, or layer norm; its weight is stored as f16 or as f32."""

    epsilon: float
    f16_weight: bool


@dataclass(frozen=True)
class MatrixShape:
    """A product `[chunk, k] x [rows, k]^T`, whose epilogue takes `units` units of a row or two of the matrix."""

    storage: Storage
    chunk: int
    rows: int
    k: int
    units: int
    unit_rows: UnitRows
    declare: Declare
    state_words: int


@dataclass(frozen=True)
class AttentionShape:
    """The queries and keys of a kernel, of decode or of prefill."""

    cache: Cache
    chunk: int  # rows of queries; 1 in decode
    splits: int  # workgroups that share a query's keys; 1 in prefill
    window: int | None = None  # keys that a query sees, itself included; None: all before it
    scale: float | None = None  # of scores; None: 1 / sqrt(size of a head)
    soft_cap: float | None = None  # c: a score becomes c * tanh(score / c)
    causal: bool = True  # else every query sees the whole context, whose positions all hold keys; then no window

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
    def dims(self) -> int:
        """`vec4`s of a head."""
        return self.heads.size // 4
