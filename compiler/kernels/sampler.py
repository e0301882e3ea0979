"""What the sampling kernels of both backends have in common: three of them, and what passes from one to the next.

Knows names and shapes; the kernels are the backends'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

LOWEST = -3.0e38  # below every logit
Shapes = Sequence[tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Sampler:
    """Three kernels, what `scan` leaves, and which of that the others read, before the state and what they write."""

    scan: Callable[..., tirx.PrimFunc]
    limit: Callable[..., tirx.PrimFunc]
    draw: Callable[..., tirx.PrimFunc]
    scanned: Callable[[int], Shapes]
    limit_reads: tuple[int, ...]
    draw_reads: tuple[int, ...]
