"""ggml's types whose elements are entries of a codebook: rows of blocks -> integers q and the scales of their groups.

The codebooks are the `gguf` package's. An element is d * s * c: the block's scale d, its group's integer scale s, the
entry's value c. With 1 in place of d the package gives s * c without rounding, and s stands in the block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from ...weights.kept import Steps

_T = GGMLQuantizationType
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

ONE = np.array([1], "<f2").view(np.uint8)


@dataclass(frozen=True)
class Codebook:
    """A type: what it can say; and of its blocks (R, B, bytes) d as (R, B, 1), s as (R, B, groups), and 1 put for d.

    q is `finest * c`: what makes the entries integers.
    """

    steps: Steps
    scale: Callable[[Bytes], Floats]
    group_scales: Callable[[Bytes], Floats]
    with_unit_scale: Callable[[Bytes], Bytes]
    finest: int = 1


def decode(kind: GGMLQuantizationType, blocks: Bytes) -> tuple[NDArray[np.int8], Floats, None]:
    """Blocks (R, B, bytes) of a type of `CODEBOOKS` -> q (R, B, block size), scales (R, B, groups), no bias."""
    book = CODEBOOKS[kind]
    unit = book.with_unit_scale(blocks)
    values = quants.dequantize(unit.reshape(-1, blocks.shape[2]), kind).reshape(*blocks.shape[:2], -1)
    group_scales = book.group_scales(blocks)
    entries = values.reshape(*group_scales.shape, -1) / group_scales[..., None] * np.float32(book.finest)
    q = np.rint(entries).astype(np.int8).reshape(values.shape)
    return q, book.scale(blocks) * group_scales / np.float32(book.finest), None


def _half_at(place: int) -> tuple[Callable[[Bytes], Floats], Callable[[Bytes], Bytes]]:
    """d where it is the float16 at a place of the block, and 1 put there."""

    def scale(blocks: Bytes) -> Floats:
        return np.ascontiguousarray(blocks[:, :, place : place + 2]).view("<f2").astype(np.float32)

    def unit(blocks: Bytes) -> Bytes:
        blocks = blocks.copy()
        blocks[:, :, place : place + 2] = ONE
        return blocks

    return scale, unit


def _words(blocks: Bytes, start: int, stop: int, dtype: str) -> NDArray:
    return np.ascontiguousarray(blocks[:, :, start:stop]).view(dtype)


def _nibbles(blocks: Bytes, start: int) -> Floats:
    """From `start` to the end of the block, the lower half of a byte first."""
    packed = blocks[:, :, start:]
    return np.stack((packed & 15, packed >> 4), axis=-1).reshape(*blocks.shape[:2], -1).astype(np.float32)


# The upper four bits of every second, or of every, word of 32 bits; nibbles; three bits of words of 16.
def _iq2_xxs(blocks: Bytes) -> Floats:
    return ((_words(blocks, 2, 66, "<u4")[:, :, 1::2] >> 28).astype(np.float32) + np.float32(0.5)) / np.float32(4)


def _iq2_xs(blocks: Bytes) -> Floats:
    return (_nibbles(blocks, 66) + np.float32(0.5)) / np.float32(4)


def _iq2_s(blocks: Bytes) -> Floats:
    return (_nibbles(blocks, 74) + np.float32(0.5)) / np.float32(4)


def _iq3_xxs(blocks: Bytes) -> Floats:
    return ((_words(blocks, 66, 98, "<u4") >> 28).astype(np.float32) + np.float32(0.5)) / np.float32(2)


def _iq3_s(blocks: Bytes) -> Floats:
    return 2 * _nibbles(blocks, 106) + 1


def _iq1_s(blocks: Bytes) -> Floats:
    return 2 * (_words(blocks, 34, 50, "<u2") >> 12 & 7).astype(np.float32) + 1


IQ1_M_SHIFTS = np.array([12, 8, 4, 0], np.uint16)  # of the four pieces of d, in the upper bits of four words


def _iq1_m(blocks: Bytes) -> Floats:
    words = _words(blocks, 48, 56, "<u2")[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7
    return 2 * words.reshape(*blocks.shape[:2], 16).astype(np.float32) + 1


def _iq1_m_scale(blocks: Bytes) -> Floats:
    pieces = (_words(blocks, 48, 56, "<u2") & 0xF000) >> IQ1_M_SHIFTS
    whole: NDArray[np.uint16] = np.bitwise_or.reduce(pieces, axis=-1, keepdims=True).astype("<u2")
    return whole.view("<f2").astype(np.float32)


def _iq1_m_unit(blocks: Bytes) -> Bytes:
    one = (np.uint16(ONE.view("<u2")[0]) << IQ1_M_SHIFTS) & np.uint16(0xF000)
    words = (_words(blocks, 48, 56, "<u2") & 0x0FFF) | one
    return np.concatenate((blocks[:, :, :48], words.astype("<u2").view(np.uint8)), axis=-1)


def _ones(blocks: Bytes) -> Floats:
    return np.ones((*blocks.shape[:2], 1), np.float32)


MXFP4_ONE = np.uint8(128)  # the exponent that `e8m0_to_fp32_half` makes 1 of


def _mxfp4_scale(blocks: Bytes) -> Floats:
    scale: Floats = quants.MXFP4.e8m0_to_fp32_half(blocks[:, :, :1])
    return scale


def _mxfp4_unit(blocks: Bytes) -> Bytes:
    blocks = blocks.copy()
    blocks[:, :, 0] = MXFP4_ONE
    return blocks


def _book(
    name: str, most: int, group_size: int, place: int, group_scales: Callable[[Bytes], Floats], finest: int = 1
) -> Codebook:
    """A type whose d is a float16 at a place, with entries from -most to most."""
    steps = Steps(name, -most, most, group_size, bias=False, exact=name.startswith("TQ"))
    scale, unit = _half_at(place)
    return Codebook(steps, scale, group_scales, unit, finest)


CODEBOOKS: dict[GGMLQuantizationType, Codebook] = {
    _T.IQ2_XXS: _book("IQ2_XXS", 43, 32, 0, _iq2_xxs),
    _T.IQ2_XS: _book("IQ2_XS", 43, 16, 0, _iq2_xs),
    _T.IQ2_S: _book("IQ2_S", 43, 16, 0, _iq2_s),
    _T.IQ3_XXS: _book("IQ3_XXS", 62, 32, 0, _iq3_xxs),
    _T.IQ3_S: _book("IQ3_S", 15, 32, 0, _iq3_s),
    _T.IQ1_S: _book("IQ1_S", 9, 32, 0, _iq1_s, finest=8),  # -1, 0 or 1, and an eighth more or less
    _T.IQ1_M: Codebook(Steps("IQ1_M", -9, 9, 16, bias=False, exact=False), _iq1_m_scale, _iq1_m, _iq1_m_unit, finest=8),
    _T.TQ1_0: _book("TQ1_0", 1, 256, 52, _ones),
    _T.TQ2_0: _book("TQ2_0", 2, 256, 64, _ones),  # two bits: -1 .. 2, though ggml writes no 2
    _T.MXFP4: Codebook(Steps("MXFP4", -12, 12, 32, bias=False, exact=False), _mxfp4_scale, _ones, _mxfp4_unit),
}
