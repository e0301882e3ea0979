"""How the elements of a weight matrix lie, as numbers: what is left of a scheme for a kernel to know.

Two schemes of equal numbers make one kernel. The bytes are those of `artifact/FORMAT.md`. Kernels walk a row in blocks
of columns that share a scale, and a block in parts; K is a multiple of 8, so a part is whole or absent.
"""

from __future__ import annotations

from dataclasses import dataclass

PART = 8  # columns that are unpacked together
BLOCK = 32  # columns that are walked together, at most


@dataclass(frozen=True)
class Storage:
    """A matrix `[rows, K]` of elements of `bits` bits; `group_size` 0: floats, else integers in groups with a scale."""

    bits: int
    group_size: int
    bias: bool  # an element is `q * scale + bias`, else `(q - zero_point) * scale`

    @property
    def zero_point(self) -> int:
        """What q is counted from. MLC's: as many steps below as above it."""
        return 0 if self.bias or not self.group_size else 2 ** (self.bits - 1) - 1

    @property
    def block(self) -> int:
        """Columns that are walked together: those of a group, or a share of them."""
        return min(self.group_size or BLOCK, BLOCK)

    @property
    def parts(self) -> int:
        """Parts of a block."""
        return self.block // PART

    @property
    def blocks_per_group(self) -> int:
        return self.group_size // self.block

    def blocks(self, k: int) -> int:
        """Blocks with columns in a row of `k`; the last one may be partial."""
        return -(-k // self.block)

    def groups(self, k: int) -> int:
        """Groups in a row of `k` columns; the last one may be partial."""
        return -(-k // self.group_size)

    def words(self, columns: int) -> int:
        """32-bit words of so many columns."""
        return columns * self.bits // 32

    def words_per_row(self, k: int) -> int:
        """32-bit words of a row of `k` columns; groups are whole."""
        return self.words(self.groups(k) * self.group_size if self.group_size else k)
