"""Slow, obvious numpy twins of the kernels: what each one means, without a word on how a GPU gets there.

Everything is float32 or float64 on whole arrays; weights come in as `weights.quantize.dequantize` gives them, so the
quantized layout is stated there and nowhere else. They know nothing of bindings, workgroups or padding: a test cuts the
valid rows out first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..artifact.state import SamplingParameters

Floats = NDArray[np.floating]
Ids = NDArray[np.unsignedinteger]

PROMPT_BIT = 0x80000000  # of a token's count: it stands in the prompt
GENERATED_MASK = 0x7FFFFFFF  # of a token's count: how often it was generated
MASKED = -1.0e30  # the logit of a token that may not be drawn: finite, so that no difference of two is NaN


# -------------------------------------------------------------------------------------------------- matrices and norms


def rms_norm(x: Floats, gamma: Floats, epsilon: float) -> NDArray[np.float64]:
    """`x * gamma / sqrt(mean(x^2) + epsilon)` a row: (..., K), (K) -> (..., K). Zhang, Sennrich, arXiv:1910.07467."""
    wide = x.astype(np.float64)
    return wide * gamma.astype(np.float64) / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + epsilon)


def layer_norm(x: Floats, gamma: Floats, beta: Floats, epsilon: float) -> NDArray[np.float64]:
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta` a row: (..., K), (K), (K) -> same. arXiv:1607.06450."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + epsilon)
    return centred / deviation * gamma.astype(np.float64) + beta.astype(np.float64)


def unfold_mel(mel: Floats, parity: int) -> NDArray[np.floating]:
    """The frames that a convolution sees at every second one of mel: (bands, 2 T) -> (T, 3 bands)."""
    padded = np.pad(mel, ((0, 0), (1, 1)))
    steps = range(parity, mel.shape[1], 2)
    return np.stack([padded[:, step : step + 3].ravel() for step in steps])


def unfold_pairs(even: Floats, odd: Floats) -> NDArray[np.floating]:
    """The same of frames that lie apart by parity, at every even one: (T, C), (T, C) -> (T, 3 C)."""
    frames = np.stack([even, odd], axis=1).reshape(-1, even.shape[1])
    return unfold_mel(frames.T, 0)


def add_positions(x: Floats, table: Floats, position: int) -> NDArray[np.floating]:
    """x (T, C) plus rows of the table from `position` on."""
    return x + table[position : position + len(x)]


def matmul(x: Floats, weight: Floats) -> NDArray[np.float64]:
    """`x W^T`: (T, K), (N, K) -> (T, N). `weight` is dequantized."""
    return x.astype(np.float64) @ weight.astype(np.float64).T


def matvec(x: Floats, weight: Floats, gamma: Floats | None = None, epsilon: float = 0.0) -> NDArray[np.float64]:
    """A decode step's product, with the norm of its input when there is a gamma: (K), (N, K) -> (N)."""
    normed = x.astype(np.float64) if gamma is None else rms_norm(x, gamma, epsilon)
    return matmul(normed[None], weight)[0]


def gated(gate_up: Floats) -> NDArray[np.float64]:
    """`silu(gate) * up` with gate the first half, up the second: (..., 2 N) -> (..., N). Shazeer, arXiv:2002.05202."""
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=-1)
    return gate * (1 + np.tanh(gate / 2)) / 2 * up


def gelu(x: Floats) -> NDArray[np.float64]:
    """GELU by tanh, `gelu_new` of transformers: (...) -> (...). Hendrycks and Gimpel, arXiv:1606.08415."""
    wide = x.astype(np.float64)
    return wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))


def embed(weight: Floats, ids: Ids) -> Floats:
    """The embedding rows of `ids`: (V, K), (T) -> (T, K)."""
    return weight[ids.astype(np.int64)]


# ----------------------------------------------------------------------------------------------------------- positions


def cos_sin(table: NDArray[np.float32], context: int, positions: Ids) -> tuple[Floats, Floats]:
    """cos and sin of each frequency at each position, from the two-level table of `rope.py`: (T, P).

    Position `256 a + b` is one complex product of the table's coarse row a and its fine row b.
    """
    coarse_rows = -(-context // 256)
    places = positions.astype(np.int64)
    coarse, fine = table[places // 256], table[coarse_rows + places % 256]
    turned = (coarse[..., 0] + 1j * coarse[..., 1]) * (fine[..., 0] + 1j * fine[..., 1])
    return turned.real, turned.imag


def rotate(heads: Floats, cos: Floats, sin: Floats) -> NDArray[np.float64]:
    """Rotary embedding of the leading `2 P` dimensions of a head, as pairs (i, i + P): (T, H, D), (T, P) -> (T, H, D).

    Su et al., arXiv:2104.09864, in the half-split order of `transformers.models.llama.rotate_half`.
    """
    pairs = cos.shape[-1]
    out = heads.astype(np.float64)
    first, second = out[..., :pairs].copy(), out[..., pairs : 2 * pairs].copy()
    cos, sin = cos[:, None].astype(np.float64), sin[:, None].astype(np.float64)
    out[..., :pairs] = first * cos - second * sin
    out[..., pairs : 2 * pairs] = second * cos + first * sin
    return out


# ----------------------------------------------------------------------------------------------------------- attention


def pair_order(size: int, rotary: int) -> NDArray[np.int64]:
    """The dimensions of a query or key in the order of a cache of f16: pairs (i, i + rotary/2), then pairs of the rest.

    Values keep the usual order.
    """
    turning, rest = np.arange(rotary), np.arange(rotary, size)
    return np.concatenate([part.reshape(2, -1).T.reshape(-1) for part in (turning, rest)])


def in_8_bits(heads: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """What a cache of 8 bits keeps of heads: (..., D) -> q from -127 to 127 (..., D), largest magnitudes (...).

    An element is `q / 127 * largest`, rounded to the nearest q, up from the middle of two.
    """
    wide = heads.astype(np.float32)
    top = np.abs(wide).max(axis=-1)
    parts = wide * np.where(top > 0, 1 / np.where(top > 0, top, 1), 0)[..., None].astype(np.float32)
    return np.floor(parts * np.float32(127) + np.float32(0.5)).astype(np.int8), top


def from_8_bits(q: NDArray[np.int8], top: Floats) -> NDArray[np.float32]:
    """The values that `in_8_bits` stands for: (..., D), (...) -> (..., D)."""
    return (q.astype(np.float32) / 127 * top[..., None]).astype(np.float32)


def attention(
    query: Floats,
    cache: Floats,
    position: int,
    window: int | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> NDArray[np.float64]:
    """Causal attention of T queries at `position`, `position + 1`, ...: (T, H, D), (S, 2, G, D) -> (T, H, D).

    `cache[s]` holds position s: keys, then values, of G heads; query head h reads head `h // (H / G)`. A query sees its
    own position and those before it, with a window only that many (arXiv:2004.05150). Scores are multiplied by `scale`,
    1 / sqrt(D) unless it is given, and kept below a soft cap by tanh (arXiv:2408.00118). Vaswani et al.,
    arXiv:1706.03762; grouped queries: Ainslie et al., arXiv:2305.13245.
    """
    rows, heads, size = query.shape
    shared = heads // cache.shape[2]
    out = np.empty(query.shape)
    for t in range(rows):
        end = position + t + 1
        seen = cache[max(0, end - window) if window else 0 : end].astype(np.float64)  # (S', 2, G, D)
        for head in range(heads):
            keys, values = seen[:, 0, head // shared], seen[:, 1, head // shared]
            scores = keys @ query[t, head].astype(np.float64) * (size**-0.5 if scale is None else scale)
            scores = scores if soft_cap is None else soft_cap * np.tanh(scores / soft_cap)
            weights = np.exp(scores - scores.max())
            out[t, head] = weights @ values / weights.sum()
    return out


def combine(sums: Floats, tops: Floats, totals: Floats) -> NDArray[np.float64]:
    """Join partial softmax sums: unnormalized sums (H, S, D), maxima and sums of exponentials (H, S) -> (H, D).

    Flash-decoding: each split's sums are relative to its own maximum. An empty split has total 0.
    """
    shrink = np.exp(tops.astype(np.float64) - tops.max(axis=1, keepdims=True))  # (H, S)
    whole = (sums.astype(np.float64) * shrink[..., None]).sum(axis=1)
    return whole / (totals.astype(np.float64) * shrink).sum(axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------------------------ sampling


def mask(logits: NDArray[np.float32], words: Ids, bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits plus biases, `MASKED` where a token's bit is not set: (V), (ceil(V / 32)) u32, (V) -> (V)."""
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")[: len(logits)]
    return np.where(bits == 1, logits + bias, np.float32(MASKED)).astype(np.float32)


def pool(x: NDArray[np.float32], before: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The sum of the rows of x (T, K), added to `before` where there is one -> (K)."""
    total = x.sum(axis=0, dtype=np.float32)
    return total if before is None else before + total


def penalize(
    logits: NDArray[np.float32], counts: NDArray[np.uint32], sampling: SamplingParameters
) -> NDArray[np.float32]:
    """Penalties, then temperature: (V), (V) -> (V). Keskar et al., arXiv:1909.05858 (repetition)."""
    repetition, presence, frequency, temperature = (
        np.float32(value)
        for value in (
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
            sampling.temperature,
        )
    )
    out = logits.astype(np.float32)
    generated = counts & np.uint32(GENERATED_MASK)
    if repetition != 1:
        out = np.where(counts != 0, np.where(out > 0, out / repetition, out * repetition), out)
    out = np.where(generated > 0, out - (presence + frequency * generated.astype(np.float32)), out)
    return out / temperature if temperature > 0 else out


def allowed(adjusted: NDArray[np.float32], sampling: SamplingParameters) -> NDArray[np.bool_]:
    """Which tokens may be drawn: top_k, then top_p on what it leaves, then min_p; ties stay together: (V) -> (V).

    top_k: Fan et al., arXiv:1805.04833; top_p: Holtzman et al., arXiv:1904.09751; min_p: arXiv:2407.01082.
    """
    vocab = adjusted.shape[0]
    keep = np.ones(vocab, bool)
    if 0 < sampling.top_k < vocab:
        keep &= adjusted >= np.sort(adjusted)[vocab - sampling.top_k]
    odds = np.exp(adjusted.astype(np.float64) - adjusted.max())  # largest = 1
    if sampling.top_p < 1:
        target = odds[keep].sum() * sampling.top_p
        values = np.unique(adjusted[keep])[::-1]  # largest first
        masses = np.cumsum([odds[keep & (adjusted == value)].sum() for value in values])
        keep &= adjusted >= values[np.searchsorted(masses, target)]
    if sampling.min_p > 0:
        keep &= adjusted >= adjusted.max() + np.float32(np.log(sampling.min_p))
    return keep | (adjusted == adjusted.max())


def _mix(value: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A 32-bit bijection that leaves no pattern (Wellons' lowbias32)."""
    value = (value ^ (value >> np.uint32(16))) * np.uint32(0x7FEB352D)
    value = (value ^ (value >> np.uint32(15))) * np.uint32(0x846CA68B)
    return value ^ (value >> np.uint32(16))


def uniform(seed: int, position: int, vocab: int) -> NDArray[np.float32]:
    """The number in (0, 1) of each token at (seed, position): `((h >> 9) + 0.5) / 2^23`, exact in f32: -> (V)."""
    start = np.array([(seed + position * 0x9E3779B9) & 0xFFFFFFFF], np.uint32)
    ids = np.arange(vocab, dtype=np.uint32)
    mixed = _mix(_mix(start) ^ (ids * np.uint32(0x85EBCA6B) + np.uint32(0xC2B2AE35)))
    return ((mixed >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def scores(adjusted: NDArray[np.float32], sampling: SamplingParameters, position: int) -> NDArray[np.float32]:
    """What the drawn token is the largest of: (V) -> (V), minus infinity where a token may not be drawn.

    `position` is that of the token to draw: one more than the state's. Gumbel-max: Maddison et al., arXiv:1411.0030.
    """
    if sampling.temperature <= 0:
        return adjusted
    gumbel = -np.log(-np.log(uniform(sampling.seed, position, adjusted.shape[0])))
    return np.where(allowed(adjusted, sampling), adjusted + gumbel, np.float32(-np.inf)).astype(np.float32)


def sample(logits: NDArray[np.float32], counts: NDArray[np.uint32], sampling: SamplingParameters, position: int) -> int:
    """The token that follows `position - 1`; the lowest id among equals. (V), (V) -> an id."""
    return int(np.argmax(scores(penalize(logits, counts, sampling), sampling, position)))
