"""ggml's blocks as integers: rows of raw bytes -> q, scales and biases, for the types that are `q * scale + bias`.

The layouts are those of ggml's `ggml-quants.c`; `tests/ggml_blocks.py` states them element by element, and the `gguf`
package's dequantization is what the values are held against. Nothing here multiplies an element by anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from ...weights.kept import Floats, Groups, Steps
from ...weights.schemes import IQ4_VALUES
from .codebooks import CODEBOOKS, decode

_T = GGMLQuantizationType
Bytes = NDArray[np.uint8]
# q (R, blocks, block size) in 8 bits, scale and bias (R, blocks, groups of a block).
Decoded = tuple[NDArray, NDArray[np.float32], NDArray[np.float32] | None]

CODEBOOK = np.array(IQ4_VALUES, np.int8)
SUPER = 256  # elements of a super-block


@dataclass(frozen=True)
class Kind:
    """A tensor type: what it can say, and how its blocks are read."""

    steps: Steps
    decode: Callable[[Bytes], Decoded]


def decode_rows(raw: Bytes, kind: GGMLQuantizationType) -> Groups:
    """(R, bytes of a row) of a type of `KINDS` -> its integers and factors."""
    rows = raw.shape[0]
    blocks = raw.reshape(rows, -1, GGML_QUANT_SIZES[kind][1])
    q, scale, bias = KINDS[kind].decode(blocks)
    columns, groups = blocks.shape[1] * q.shape[2], blocks.shape[1] * scale.shape[2]
    return Groups(
        q.reshape(rows, columns), scale.reshape(rows, groups), None if bias is None else bias.reshape(rows, groups)
    )


def _half(blocks: Bytes, at: int) -> NDArray[np.float32]:
    """The float16 at a place of each block, (R, blocks, 1)."""
    return np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """(..., n) -> (..., 2n): all low halves, then all high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _fields(packed: Bytes, bits: int) -> Bytes:
    """(..., n) -> (..., 8 / bits, n): first the lowest bits of all bytes, then the next ones."""
    mask = np.uint8((1 << bits) - 1)
    return np.stack([packed >> np.uint8(shift) & mask for shift in range(0, 8, bits)], axis=-2)


def _fifth_bits(packed: Bytes) -> Bytes:
    """4 bytes -> 32 elements of 0 or 16."""
    return np.unpackbits(packed, axis=-1, bitorder="little") << np.uint8(4)


def _signed(q: Bytes, zero: int) -> NDArray[np.int8]:
    return q.view(np.int8) - np.int8(zero)


# ------------------------------------------------------------------------------------------------------ blocks of 32


def _q4_0(blocks: Bytes) -> Decoded:
    return _signed(_nibbles(blocks[:, :, 2:]), 8), _half(blocks, 0), None


def _q4_1(blocks: Bytes) -> Decoded:
    return _nibbles(blocks[:, :, 4:]), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Decoded:
    return _signed(_nibbles(blocks[:, :, 6:]) | _fifth_bits(blocks[:, :, 2:6]), 16), _half(blocks, 0), None


def _q5_1(blocks: Bytes) -> Decoded:
    return _nibbles(blocks[:, :, 8:]) | _fifth_bits(blocks[:, :, 4:8]), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Decoded:
    return np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8), _half(blocks, 0), None


def _iq4_nl(blocks: Bytes) -> Decoded:
    return CODEBOOK[_nibbles(blocks[:, :, 2:])], _half(blocks, 0), None


# ------------------------------------------------------------------------------------------------ super-blocks of 256


def _q2_k(blocks: Bytes) -> Decoded:
    scales = blocks[:, :, :16]
    q = _fields(blocks[:, :, 16:80].reshape(*blocks.shape[:2], 2, 32), 2).reshape(*blocks.shape[:2], SUPER)
    return q, _half(blocks, 80) * (scales & 15), -(_half(blocks, 82) * (scales >> 4))


def _q3_k(blocks: Bytes) -> Decoded:
    low = _fields(blocks[:, :, 32:96].reshape(*blocks.shape[:2], 2, 32), 2).reshape(*blocks.shape[:2], SUPER)
    high = _fields(blocks[:, :, :32], 1).reshape(*blocks.shape[:2], SUPER)
    four = _nibbles(blocks[:, :, 96:104])
    two = _fields(blocks[:, :, 104:108], 2).reshape(*blocks.shape[:2], 16)
    scales = _signed(four | two << np.uint8(4), 32).astype(np.float32)
    return _signed(low | high << np.uint8(2), 4), _half(blocks, 108) * scales, None


def _scales_and_leasts(packed: Bytes) -> tuple[Bytes, Bytes]:
    """12 bytes -> 8 scales and 8 minimums of six bits (`get_scale_min_k4`)."""
    first, second, rest = packed[:, :, :4], packed[:, :, 4:8], packed[:, :, 8:]
    scales = np.concatenate((first & 63, rest & 15 | first >> 6 << 4), axis=-1)
    return scales, np.concatenate((second & 63, rest >> 4 | second >> 6 << 4), axis=-1)


def _q4_k(blocks: Bytes) -> Decoded:
    scales, leasts = _scales_and_leasts(blocks[:, :, 4:16])
    q = _fields(blocks[:, :, 16:].reshape(*blocks.shape[:2], 4, 32), 4).reshape(*blocks.shape[:2], SUPER)
    return q, _half(blocks, 0) * scales, -(_half(blocks, 2) * leasts)


def _q5_k(blocks: Bytes) -> Decoded:
    scales, leasts = _scales_and_leasts(blocks[:, :, 4:16])
    low = _fields(blocks[:, :, 48:].reshape(*blocks.shape[:2], 4, 32), 4).reshape(*blocks.shape[:2], SUPER)
    high = _fields(blocks[:, :, 16:48], 1).reshape(*blocks.shape[:2], SUPER)
    return low | high << 4, _half(blocks, 0) * scales, -(_half(blocks, 2) * leasts)


def _q6_k(blocks: Bytes) -> Decoded:
    low = _fields(blocks[:, :, :128].reshape(*blocks.shape[:2], 2, 64), 4).reshape(*blocks.shape[:2], SUPER)
    high = _fields(blocks[:, :, 128:192].reshape(*blocks.shape[:2], 2, 32), 2).reshape(*blocks.shape[:2], SUPER)
    scales = np.ascontiguousarray(blocks[:, :, 192:208]).view(np.int8).astype(np.float32)
    return _signed(low | high << np.uint8(4), 32), _half(blocks, 208) * scales, None


def _iq4_xs(blocks: Bytes) -> Decoded:
    high = np.ascontiguousarray(blocks[:, :, 2:4]).view("<u2")
    four = blocks[:, :, 4:8]
    low = np.stack((four & 15, four >> 4), axis=-1).reshape(*blocks.shape[:2], 8)
    two: Bytes = (high >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    both: Bytes = low | two << np.uint8(4)
    scales = _signed(both, 32).astype(np.float32)
    q = _nibbles(blocks[:, :, 8:].reshape(*blocks.shape[:2], 8, 16)).reshape(*blocks.shape[:2], SUPER)
    return CODEBOOK[q], _half(blocks, 0) * scales, None


KINDS: dict[GGMLQuantizationType, Kind] = {
    _T.Q4_0: Kind(Steps("Q4_0", -8, 7, 32, bias=False, exact=True), _q4_0),
    _T.Q4_1: Kind(Steps("Q4_1", 0, 15, 32, bias=True, exact=True), _q4_1),
    _T.Q5_0: Kind(Steps("Q5_0", -16, 15, 32, bias=False, exact=True), _q5_0),
    _T.Q5_1: Kind(Steps("Q5_1", 0, 31, 32, bias=True, exact=True), _q5_1),
    # ggml's own quantizer writes no -128, which a symmetric scheme lacks: `checkpoint` looks for one.
    _T.Q8_0: Kind(Steps("Q8_0", -127, 127, 32, bias=False, exact=True), _q8_0),
    _T.Q2_K: Kind(Steps("Q2_K", 0, 3, 16, bias=True, exact=False), _q2_k),
    _T.Q3_K: Kind(Steps("Q3_K", -4, 3, 16, bias=False, exact=False), _q3_k),
    _T.Q4_K: Kind(Steps("Q4_K", 0, 15, 32, bias=True, exact=False), _q4_k),
    _T.Q5_K: Kind(Steps("Q5_K", 0, 31, 32, bias=True, exact=False), _q5_k),
    _T.Q6_K: Kind(Steps("Q6_K", -32, 31, 16, bias=False, exact=False), _q6_k),
    _T.IQ4_NL: Kind(Steps("IQ4_NL", -127, 113, 32, bias=False, exact=True, codebook=IQ4_VALUES), _iq4_nl),
    _T.IQ4_XS: Kind(Steps("IQ4_XS", -127, 113, 32, bias=False, exact=False, codebook=IQ4_VALUES), _iq4_xs),
    **{kind: Kind(book.steps, partial(decode, kind)) for kind, book in CODEBOOKS.items()},
}
FLOATS: dict[GGMLQuantizationType, Floats] = {
    _T.F32: Floats("F32", exact=False),
    _T.F16: Floats("F16", exact=True),
    _T.BF16: Floats("BF16", exact=False),
}
