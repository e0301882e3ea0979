"""ggml's blocks element by element, from the C of `ggml-quants.c`: the slow twin of the fast code.

A function takes the bytes of one block and gives its elements.
"""

import struct
from collections.abc import Callable

from gguf import GGMLQuantizationType as Type


def half(raw: bytes, at: int) -> float:
    """The float16 at a place."""
    value: float = struct.unpack_from("<e", raw, at)[0]
    return value


def q4_0(raw: bytes) -> list[float]:
    d, qs = half(raw, 0), raw[2:]
    return [((q & 15) - 8) * d for q in qs] + [((q >> 4) - 8) * d for q in qs]


def q4_1(raw: bytes) -> list[float]:
    d, m, qs = half(raw, 0), half(raw, 2), raw[4:]
    return [(q & 15) * d + m for q in qs] + [(q >> 4) * d + m for q in qs]


def q5_0(raw: bytes) -> list[float]:
    d, high, qs = half(raw, 0), int.from_bytes(raw[2:6], "little"), raw[6:]
    low = [q & 15 for q in qs] + [q >> 4 for q in qs]
    return [((q | (high >> j & 1) << 4) - 16) * d for j, q in enumerate(low)]


def q5_1(raw: bytes) -> list[float]:
    d, m, high, qs = half(raw, 0), half(raw, 2), int.from_bytes(raw[4:8], "little"), raw[8:]
    low = [q & 15 for q in qs] + [q >> 4 for q in qs]
    return [(q | (high >> j & 1) << 4) * d + m for j, q in enumerate(low)]


def q8_0(raw: bytes) -> list[float]:
    return [q * half(raw, 0) for q in struct.unpack_from("<32b", raw, 2)]


def q2_k(raw: bytes) -> list[float]:
    scales, qs, d, least = raw[:16], raw[16:80], half(raw, 80), half(raw, 82)
    out = []
    for i in range(256):
        part, within = divmod(i, 128)
        shift, at = within // 32 * 2, within % 32
        scale = scales[i // 16]
        out.append(d * (scale & 15) * (qs[part * 32 + at] >> shift & 3) - least * (scale >> 4))
    return out


def q3_k(raw: bytes) -> list[float]:
    mask, qs, packed, d = raw[:32], raw[32:96], raw[96:108], half(raw, 108)
    scales = []
    for i in range(16):
        low = packed[i % 8] >> (4 if i >= 8 else 0) & 15
        scales.append((low | (packed[8 + i % 4] >> (i // 4 * 2) & 3) << 4) - 32)
    out = []
    for i in range(256):
        part, within = divmod(i, 128)
        step, at = divmod(within, 32)
        q = (qs[part * 32 + at] >> (2 * step) & 3) - (0 if mask[at] >> (4 * part + step) & 1 else 4)
        out.append(d * scales[i // 16] * q)
    return out


def scale_and_least(packed: bytes, j: int) -> tuple[int, int]:
    """`get_scale_min_k4`: six bits each."""
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    scale = packed[j + 4] & 15 | packed[j - 4] >> 6 << 4
    return scale, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def q4_k(raw: bytes) -> list[float]:
    d, least, packed, qs = half(raw, 0), half(raw, 2), raw[4:16], raw[16:]
    out = []
    for j in range(8):
        scale, m = scale_and_least(packed, j)
        for at in range(32):
            out.append(d * scale * (qs[j // 2 * 32 + at] >> (4 * (j % 2)) & 15) - least * m)
    return out


def q5_k(raw: bytes) -> list[float]:
    d, least, packed, high, qs = half(raw, 0), half(raw, 2), raw[4:16], raw[16:48], raw[48:]
    out = []
    for j in range(8):
        scale, m = scale_and_least(packed, j)
        for at in range(32):
            q = (qs[j // 2 * 32 + at] >> (4 * (j % 2)) & 15) + 16 * (high[at] >> j & 1)
            out.append(d * scale * q - least * m)
    return out


def q6_k(raw: bytes) -> list[float]:
    low, high, scales, d = raw[:128], raw[128:192], struct.unpack_from("<16b", raw, 192), half(raw, 208)
    out = []
    for i in range(256):
        part, within = divmod(i, 128)
        quarter, at = divmod(within, 32)
        bits = low[64 * part + at + 32 * (quarter % 2)] >> (4 * (quarter // 2)) & 15
        q = (bits | (high[32 * part + at] >> (2 * quarter) & 3) << 4) - 32
        out.append(d * scales[8 * part + at // 16 + 2 * quarter] * q)
    return out


IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(raw: bytes) -> list[float]:
    d, qs = half(raw, 0), raw[2:]
    return [d * IQ4_VALUES[q & 15] for q in qs] + [d * IQ4_VALUES[q >> 4] for q in qs]


def iq4_xs(raw: bytes) -> list[float]:
    d, (high,), low, qs = half(raw, 0), struct.unpack_from("<H", raw, 2), raw[4:8], raw[8:]
    out = []
    for group in range(8):
        scale = (low[group // 2] >> (4 * (group % 2)) & 15 | (high >> (2 * group) & 3) << 4) - 32
        part = qs[16 * group : 16 * group + 16]
        out += [d * scale * IQ4_VALUES[q & 15] for q in part] + [d * scale * IQ4_VALUES[q >> 4] for q in part]
    return out


BLOCKS: dict[Type, Callable[[bytes], list[float]]] = {
    Type.Q4_0: q4_0,
    Type.Q4_1: q4_1,
    Type.Q5_0: q5_0,
    Type.Q5_1: q5_1,
    Type.Q8_0: q8_0,
    Type.Q2_K: q2_k,
    Type.Q3_K: q3_k,
    Type.Q4_K: q4_k,
    Type.Q5_K: q5_k,
    Type.Q6_K: q6_k,
    Type.IQ4_NL: iq4_nl,
    Type.IQ4_XS: iq4_xs,
}
