"""How the elements of a weight matrix lie, as numbers: what is left of a scheme for a kernel to know.

Two schemes of equal numbers make one kernel. The bytes are those of `artifact/FORMAT.md`. Kernels walk a row in blocks
of columns that share a scale, and a block in parts; K is a multiple of 8, so a part is whole or absent.
"""

from __future__ import annotations

from dataclasses import dataclass

PART = 8  # columns that are unpacked together
BLOCK = 32  # columns that are walked together, at most
LOW = 4  # bits of an element that lie apart from those above them, where it has 5 or 6


@dataclass(frozen=True)
class Storage:
    """A matrix `[rows, K]` of elements of `bits` bits; `group_size` 0: floats, else integers in groups with a scale."""

    bits: int
    group_size: int
    bias: bool  # an element is `q * scale + bias`, else `(q - zero_point) * scale`
    zero_point: int  # what q is counted from; 0 where there is a bias, or no scale
    zeros: bool = False  # a group has a zero point of its own in place of the bias, which is `-zero * scale`
    codebook: tuple[int, ...] = ()  # what the 16 values of q stand for, where that is not themselves: 8 bits, signed

    def __post_init__(self) -> None:
        """Blocks of a group share its factors: no block may lie in two groups."""
        if self.group_size and self.group_size % self.block:
            raise ValueError(f"groups of {self.group_size} are not made of whole blocks of {self.block}")

    @property
    def high_bits(self) -> int:
        """Bits of an element that lie behind the low four of all of its block; 0 where an element lies in one piece."""
        return self.bits - LOW if LOW < self.bits < 8 else 0

    @property
    def place_bits(self) -> int:
        """Bits from one element to the next in a word that is taken apart: those of two pieces come to bytes first."""
        return 8 if self.high_bits else self.bits

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

    @property
    def low_words(self) -> int:
        """Words of a block with the low four bits of its elements, in front of those with the others."""
        return self.words(self.block) * LOW // self.bits

    @property
    def high_words(self) -> int:
        return self.words(self.block) - self.low_words

    def pieces(self, vector: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where the two pieces of four consecutive elements lie in their block: (word, bit) of the low and the high.

        Bytes of a word are consecutive elements, so the low bits of the first half of a block come first.
        """
        (turn, low), (shift, high) = divmod(vector, self.low_words), divmod(vector, self.high_words)
        return (low, LOW * turn), (self.low_words + high, self.high_bits * shift)

    def words_of_part(self, part: int) -> tuple[int, ...]:
        """The words of a block that its part lies in."""
        if self.high_bits:
            return tuple(dict.fromkeys(word for half in range(2) for word, _ in self.pieces(2 * part + half)))
        count = self.words(PART)
        return tuple(range(part * count, (part + 1) * count))

    def words_per_row(self, k: int) -> int:
        """32-bit words of a row of `k` columns; groups are whole."""
        return self.words(self.groups(k) * self.group_size if self.group_size else k)
