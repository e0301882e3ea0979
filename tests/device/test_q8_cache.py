"""Caches of 8 bits on the GPU against the numpy twins: what is kept of heads, and attention over it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.kernels import reference
from compiler.kernels.cache import Cache, Heads
from compiler.kernels.rope import rope_table
from compiler.kernels.shapes import AttentionShape, Norm
from compiler.kernels.webgpu.head_norm import normalize_rotate_chunk
from compiler.kernels.webgpu.prefill_attention import AttentionTiling
from compiler.kernels.webgpu.tuning import QUAD_ATTENTION, WORKGROUP_ATTENTION
from tests.caches import kept, plain, stored
from tests.device.harness import Gpu, assert_close, assert_untouched, poison
from tests.device.test_attention_kernels import (
    CONTEXT,
    STATE_WORDS,
    SUBGROUPS,
    Decode,
    compile_prefill,
    query_of,
    run_prefill,
    state,
)

# An odd number of KV heads, whose scales end half a load; loads of four vectors, of two, and of two that a quad shares
# unevenly.
HEADS = [Heads(6, 3, 64, 64), Heads(2, 2, 96, 96), Heads(10, 1, 40, 40)]


def rows_of(rng: np.random.Generator, used: int, heads: Heads) -> NDArray[Any]:
    """Heads of very different magnitudes, one of zeros; rows beyond `used` are NaN: reading one shows."""
    rows = poison((CONTEXT, 2, heads.key_value, heads.size), "float32")
    rows[:used] = rng.normal(0, 1, (used, *rows.shape[1:])) * np.exp(rng.uniform(-3, 1, (used, 2, heads.key_value, 1)))
    rows[used // 2, :, 0] = 0
    return rows


@pytest.mark.parametrize("subgroups", SUBGROUPS)
@pytest.mark.parametrize(("heads", "splits"), [*zip(HEADS, (3, 1, 1), strict=True)])
def test_decode(gpu: Gpu, heads: Heads, splits: int, subgroups: bool) -> None:
    rng, shape = np.random.default_rng(heads.size), AttentionShape(Cache(heads, CONTEXT, "q8"), 1, splits, 250)
    attend = Decode(gpu, shape, subgroups)
    for used in (1, 64, 129, CONTEXT):
        rows, query = rows_of(rng, used, heads), query_of(rng, 1, heads)
        want = reference.attention(query, kept(shape.cache, rows), used - 1, 250)
        assert_close(attend(query, rows, used), want.reshape(-1))


@pytest.mark.parametrize(
    "tiling", [pytest.param(QUAD_ATTENTION, id="quads"), pytest.param(WORKGROUP_ATTENTION, id="workgroup")]
)
@pytest.mark.parametrize(("heads", "chunk"), [*zip(HEADS, (21, 9, 16), strict=True)])
def test_prefill(gpu: Gpu, heads: Heads, chunk: int, tiling: AttentionTiling) -> None:
    rng, shape = np.random.default_rng(heads.size), AttentionShape(Cache(heads, CONTEXT, "q8"), chunk, 1)
    kernel = compile_prefill(gpu, shape, tiling)
    for position, length in ((0, chunk), (62, 3), (CONTEXT - chunk, chunk)):
        rows, query = rows_of(rng, position + length, heads), query_of(rng, length, heads)
        out = run_prefill(gpu, kernel, shape, query, rows, position)
        assert_close(out, reference.attention(query, kept(shape.cache, rows), position))


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "chunk"), [(Heads(4, 1, 160, 160), 1), (Heads(4, 2, 40, 24), 11)])
def test_keeping(gpu: Gpu, heads: Heads, chunk: int, normed: bool) -> None:
    """What is beyond the rows that are kept, and beyond a padded chunk, is not written."""
    rng, position, length = np.random.default_rng(9), 253, max(1, chunk - 3)
    pairs, cache = heads.rotary // 2, Cache(heads, CONTEXT, "q8")
    table = rope_table(10000.0 ** -(np.arange(pairs) / pairs), 1.0, CONTEXT)
    qkv = poison((chunk, heads.rows), "float32")
    qkv[:length] = rng.normal(0, 2, (length, heads.rows))
    qkv[0, -heads.size :] = 0
    gammas = [rng.normal(1, 0.2, heads.size).astype(np.float16) for _ in range(2 if normed else 0)]
    function = normalize_rotate_chunk("keep", cache, chunk, Norm(1e-5, True) if normed else None, STATE_WORDS)
    arrays: dict[str, NDArray[Any]] = dict(zip(("query_gamma", "key_gamma"), gammas, strict=False))
    arrays |= {"qkv": qkv, "state": state(position, length), "rope": table}
    arrays |= {"cache": poison((CONTEXT, cache.row_words), "uint32")}
    arrays |= {"query": poison((chunk, heads.query, heads.size), "float32")}
    out = gpu.run_kernel(function, arrays)

    split = qkv[:length].reshape(length, -1, heads.size).astype(np.float64)
    parts = np.split(split, [heads.query, heads.query + heads.key_value], axis=1)
    cos, sin = reference.cos_sin(table, CONTEXT, np.arange(position, position + length).astype(np.uint32))
    for i, gamma in enumerate(gammas):
        parts[i] = reference.rms_norm(parts[i], gamma.astype(np.float64), 1e-5)
    wanted, keys = (reference.rotate(part, cos, sin) for part in parts[:2])
    rows = np.stack([keys, parts[2]], axis=1)
    assert_close(out["query"][:length], wanted)
    got = out["cache"]
    largest = np.abs(rows).max(axis=-1, keepdims=True).clip(1e-30)
    assert (np.abs(plain(cache, got[position : position + length]) - rows) / largest).max() <= 0.501 / 127
    same = stored(cache, rows)[:, : cache.scales] == got[position : position + length, : cache.scales]
    assert same.mean() > 0.98  # next to the middle of two steps either may be taken
    assert_untouched(out["query"][length:])
    assert_untouched(np.delete(got, np.s_[position : position + length], axis=0))
