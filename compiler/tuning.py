"""How the kernels are spread over invocations, by variant: one table, nothing else.

Numbers are chosen by measurement for a device class; any of them is correct on every device (a subgroup of another
size only changes who computes what).
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.kernels.matmul import Tiling
from compiler.kernels.matvec import Tuning

MAX_SPLITS = 16  # workgroups that share a query's keys in decode
POSITIONS_PER_SPLIT = 256


@dataclass(frozen=True)
class VariantTuning:
    """Mat-vecs by how many matrix rows make a unit of output, and the prefill product."""

    single: Tuning
    paired: Tuning
    tiling: Tiling


SUBGROUP_VECTORS = (Tuning("subgroup", 64, 0, 4, 16), Tuning("subgroup", 64, 0, 2, 8))
# Eight lanes read 128 consecutive bytes of a q4 row and meet once.
LANE_VECTORS = (Tuning("lanes", 64, 8, 4), Tuning("lanes", 64, 8, 2))
TUNING: dict[str, VariantTuning] = {
    "webgpu-f16-sg": VariantTuning(*SUBGROUP_VECTORS, Tiling(16, 4, 8, 4, quads=True)),
    "webgpu-f16": VariantTuning(*LANE_VECTORS, Tiling(16, 4, 8, 4, quads=False)),
    # What software adapters and GPUs without 16-bit floats run.
    "webgpu-f32-sg": VariantTuning(
        Tuning("subgroup", 64, 0, 4, 32), Tuning("subgroup", 64, 0, 2, 16), Tiling(16, 2, 16, 4, quads=True)
    ),
    "webgpu-f32": VariantTuning(*LANE_VECTORS, Tiling(16, 4, 8, 4, quads=False)),
}


def splits_for(context: int) -> int:
    """Workgroups that share a query's keys at this capacity."""
    return max(1, min(MAX_SPLITS, context // POSITIONS_PER_SPLIT))
