"""How the kernels are spread over invocations, by variant: two tables, nothing else.

Any row is correct on every device (a subgroup of another size only changes who computes what), so rows are a matter of
speed. `TUNING` is what a plan's own programs are made of: rows for GPUs, which software adapters run as well.
`ALTERNATIVES` is what the artifact carries besides, for a runtime to measure on the device at hand: rows that differ in
what GPUs differ in.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..builder import MAX_GRID
from . import packed
from .attention import ROOMY, DecodeTiling
from .matvec import Tuning
from .prefill_attention import AttentionTiling
from .quads import Loads
from .tiles import Tiling

# Workgroups that share a query's keys in decode, at most, and positions of each, at least. Where few workgroups share
# out the heads, more share out the positions.
SPLITS, POSITIONS_PER_SPLIT = 16, 256
FEW_WORKGROUPS = 2
FEW_ROWS = 8192  # too few to have all of a GPU's memory channels busy, if each is one subgroup's


# Half a subgroup of 32 reads 256 consecutive bytes of a q4 row.
FEW_VECTORS = (Tuning("lanes", 64, 16, 4), Tuning("lanes", 64, 16, 2))


@dataclass(frozen=True)
class VariantTuning:
    """Mat-vecs by how many matrix rows make a unit of output, and prefill's product and attention."""

    single: Tuning
    paired: Tuning
    tiling: Tiling
    attention: AttentionTiling
    packed: Tiling | None = None  # prefill's products in integers instead, where weights are quantized
    split: Tuning | None = None  # of mat-vecs with long rows, and few of them
    decode: DecodeTiling = ROOMY  # decode's attention

    def vector(self, streams: int, units: int, blocks: int) -> Tuning:
        """The row for a mat-vec of so many units, of `streams` matrix rows each, that walks them in `blocks` blocks."""
        if self.split and streams == 1 and units <= FEW_ROWS and blocks >= self.split.workgroup:
            return self.split
        return self.paired if streams == 2 else self.single


@dataclass(frozen=True)
class Alternative:
    """Other tunings for a variant's programs; None keeps the variant's own, so those programs have no alternative."""

    name: str  # letters, digits and _, for files and entry points
    vectors: tuple[Tuning, Tuning] | None = None  # of decode: single, paired
    tiling: Tiling | None = None  # of prefill
    attention: AttentionTiling | None = None  # of prefill
    packed: Tiling | None = None  # of prefill
    decode: DecodeTiling | None = None  # attention of decode
    preferred_on: tuple[str, ...] = ()  # vendors of GPUs where it is known to be the faster one

    @property
    def language_features(self) -> tuple[str, ...]:
        """What its kernels need of the browser's WGSL."""
        return packed.LANGUAGE_FEATURES if self.packed else ()

    def of(self, own: VariantTuning) -> VariantTuning:
        single, paired = self.vectors or (own.single, own.paired)
        tiling, attention = self.tiling or own.tiling, self.attention or own.attention
        split, decode = None if self.vectors else own.split, self.decode or own.decode
        return VariantTuning(single, paired, tiling, attention, self.packed, split, decode)


SUBGROUP_VECTORS = (Tuning("subgroup", 64, 0, 4, 16), Tuning("subgroup", 64, 0, 2, 8))
SPLIT_VECTORS = Tuning("workgroup", 64, 64, 4)
# Eight lanes read 128 consecutive bytes of a q4 row and meet once.
LANE_VECTORS = (Tuning("lanes", 64, 8, 4), Tuning("lanes", 64, 8, 2))
# Queries and sums take 128 of the 128..256 registers that GPUs give an invocation.
QUAD_ATTENTION = AttentionTiling(16, 4, 16, 4, subgroups=True)
WORKGROUP_ATTENTION = AttentionTiling(8, 4, 16, 4, subgroups=False)
TILING = Tiling(64, 1, 8, 4)
TUNING: dict[str, VariantTuning] = {
    "webgpu-f32-sg": VariantTuning(*SUBGROUP_VECTORS, TILING, QUAD_ATTENTION, split=SPLIT_VECTORS),
    "webgpu-f32": VariantTuning(*LANE_VECTORS, TILING, WORKGROUP_ATTENTION),
}

# Four times as many workgroups as SUBGROUP_VECTORS, each with a quarter of the rows: GPUs with many cores and subgroups
# of 32 (NVIDIA, AMD, Apple) need them to hide the latency of matrices of a few thousand rows.
NARROW_VECTORS = (Tuning("subgroup", 64, 0, 2, 4), Tuning("subgroup", 64, 0, 1, 2))
NARROW_LANES = (Tuning("lanes", 64, 16, 2), Tuning("lanes", 64, 16, 1))
# Half as many sums and loads under way, for GPUs that give an invocation fewer registers (Mali, Adreno), and other
# neighbours: those of 16 rows, who share weights and not activations.
LOW_TILING = Tiling(16, 4, 4, 4)
LOW_LOADS = Loads(8, 0)
LOW_ATTENTION = AttentionTiling(16, 4, 8, 4, subgroups=True, loads=LOW_LOADS)
LOW_WORKGROUP_ATTENTION = AttentionTiling(8, 4, 8, 4, subgroups=False, loads=LOW_LOADS)
LOW_DECODE = DecodeTiling(8, LOW_LOADS)

# Four products are one instruction on these vendors' GPUs; on Apple's browsers make eight of it.
PACKED = Alternative("packed", packed=TILING, preferred_on=("nvidia", "amd", "intel", "qualcomm"))

# Subgroups of 64 or 128 (AMD, Adreno) leave lanes idle on short rows, and small ones (Intel) make many sums: eight
# lanes do neither.
ALTERNATIVES: dict[str, tuple[Alternative, ...]] = {
    "webgpu-f32-sg": (
        Alternative("narrow", NARROW_VECTORS, LOW_TILING, LOW_ATTENTION, decode=LOW_DECODE),
        Alternative("lanes", LANE_VECTORS),
        PACKED,
    ),
    "webgpu-f32": (
        Alternative("narrow", NARROW_LANES, LOW_TILING, LOW_WORKGROUP_ATTENTION, decode=LOW_DECODE),
        Alternative("wide", (Tuning("lanes", 128, 32, 4), Tuning("lanes", 128, 32, 2))),
        PACKED,
    ),
}
# Rows of a matrix that a mat-vec may have, by the tuning whose workgroups have the fewest.
MOST_ROWS = MAX_GRID * min(
    tuning.units_of_workgroup
    for tuning in (
        *(own.single for own in TUNING.values()),
        *(other.vectors[0] for others in ALTERNATIVES.values() for other in others if other.vectors),
    )
)
# How far the logits of an alternative may be from those of the plan's own programs, of the largest logit.
TOLERANCE = 1e-3


def splits_for(context: int, workgroups: int) -> int:
    """Workgroups that share a query's keys at this capacity, where so many share out the heads."""
    more = 2 if workgroups <= FEW_WORKGROUPS else 1
    return max(1, min(more * SPLITS, more * context // POSITIONS_PER_SPLIT))
