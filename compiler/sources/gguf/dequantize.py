"""The tensor types of ggml that Wisp reads: rows of blocks -> float32, and the scales of those that have plain ones.

The arithmetic is the `gguf` package's; this module says which types are admitted and which of them are `q * scale` with
one float16 scale for 32 elements, so that a scheme with the same groups can keep them exactly.
"""

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

_T = GGMLQuantizationType
SUPPORTED_TYPES = (
    *(_T.F32, _T.F16, _T.BF16),
    *(_T.Q8_0, _T.Q4_0, _T.Q4_1, _T.Q5_0, _T.Q5_1),
    *(_T.Q2_K, _T.Q3_K, _T.Q4_K, _T.Q5_K, _T.Q6_K),
    *(_T.IQ1_S, _T.IQ1_M, _T.IQ2_XXS, _T.IQ2_XS, _T.IQ2_S, _T.IQ3_XXS, _T.IQ3_S, _T.IQ4_NL, _T.IQ4_XS),
    *(_T.TQ1_0, _T.TQ2_0, _T.MXFP4),
)

SCALED_GROUP = 32
# Types whose blocks are a float16 scale, then the bits of 32 elements q; the value is q * scale.
SCALED_TYPES = (_T.Q4_0, _T.Q5_0, _T.Q8_0)


def row_bytes(kind: GGMLQuantizationType, columns: int) -> int:
    """Bytes of a row of `columns` elements."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return columns // block * block_bytes


def dequantize_rows(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> NDArray[np.float32]:
    """(R, bytes of a row) -> (R, columns)."""
    if kind == GGMLQuantizationType.F32:
        return raw.view("<f4")
    if kind == GGMLQuantizationType.F16:
        return raw.view("<f2").astype(np.float32)
    if kind == GGMLQuantizationType.BF16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if not len(raw):
        block, block_bytes = GGML_QUANT_SIZES[kind]
        return np.empty((0, raw.shape[1] // block_bytes * block), np.float32)
    rows: NDArray[np.float32] = quants.dequantize(raw, kind)
    return rows


def group_scales(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> NDArray[np.float16]:
    """(R, bytes of a row) of one of `SCALED_TYPES` -> the scales of its groups, (R, groups), without their sign."""
    blocks = raw.reshape(raw.shape[0], -1, GGML_QUANT_SIZES[kind][1])
    return np.abs(np.ascontiguousarray(blocks[:, :, :2]).view("<f2")[:, :, 0])
