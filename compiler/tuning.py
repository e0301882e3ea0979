"""How the kernels are spread over invocations, by variant: one table, nothing else.

Numbers are chosen by measurement for a device class; any of them is correct on every device (a subgroup of another
size only changes who computes what).
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.kernels.matvec import Tuning
from compiler.variants import Variant

MAX_SPLITS = 16  # workgroups that share a query's keys in decode
POSITIONS_PER_SPLIT = 256


@dataclass(frozen=True)
class VariantTuning:
    """Mat-vec tuning by how many matrix rows make a unit of output."""

    single: Tuning
    paired: Tuning


SUBGROUPS = VariantTuning(
    single=Tuning("subgroup", 64, 0, 4, 16),
    paired=Tuning("subgroup", 64, 0, 2, 8),
)
# Eight lanes read 128 consecutive bytes of a q4 row and meet once.
LANES = VariantTuning(
    single=Tuning("lanes", 64, 8, 4),
    paired=Tuning("lanes", 64, 8, 2),
)


def tuning_for(variant: Variant) -> VariantTuning:
    return SUBGROUPS if variant.subgroups else LANES


def splits_for(context: int) -> int:
    """Workgroups that share a query's keys at this capacity."""
    return max(1, min(MAX_SPLITS, context // POSITIONS_PER_SPLIT))
