"""Attention and its splits against the numpy twins: head sizes, sharing of KV heads, lengths around a block of keys;
prefill in every tiling that a variant has."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.kernels import reference
from compiler.kernels.cache import Cache, Heads
from compiler.kernels.shapes import AttentionShape
from compiler.kernels.webgpu import attention, prefill_attention, quads
from compiler.kernels.webgpu.attention import ROOMY, DecodeTiling
from compiler.kernels.webgpu.prefill_attention import AttentionTiling
from compiler.kernels.webgpu.tuning import LOW_DECODE, LOW_LOADS, QUAD_ATTENTION, WORKGROUP_ATTENTION
from compiler.lowering import wgsl
from tests.caches import queries_for, stored
from tests.conftest import unavailable
from tests.device.harness import Compiled, Gpu, assert_close, assert_untouched, poison

STATE_WORDS = 64
CONTEXT = 400


def state(position: int, length: int = 0) -> NDArray[np.uint32]:
    words = poison(STATE_WORDS, "uint32")
    words[:3] = position, 0, length
    return words


def cache_of(rng: np.random.Generator, used: int, cache: Cache) -> NDArray[Any]:
    """Keys and values whose rows beyond `used` are NaN: reading one shows."""
    rows = poison((CONTEXT, 2, cache.heads.key_value, cache.heads.size), cache.dtype)
    rows[:used] = rng.normal(0, 1, (used, *rows.shape[1:])).astype(cache.dtype)
    return rows


def query_of(rng: np.random.Generator, rows: int, heads: Heads) -> NDArray[np.float32]:
    """Queries large enough for the softmax to be uneven, so that a wrong key shows."""
    return rng.normal(0, 3, (rows, heads.query, heads.size)).astype(np.float32)


SUBGROUPS = [pytest.param(True, id="quads"), pytest.param(False, id="workgroup")]
DECODE_HEADS = [
    pytest.param(Heads(4, 4, 32, 32), "float32", id="mha-32"),
    pytest.param(Heads(3, 1, 64, 64), "float16", id="mqa-64"),
    pytest.param(Heads(6, 2, 80, 80), "float32", id="gqa-80"),
    pytest.param(Heads(2, 2, 96, 96), "float16", id="mha-96"),
    pytest.param(Heads(11, 1, 128, 128), "float32", id="mqa-128-two-workgroups-a-kv-head"),
    pytest.param(Heads(24, 2, 40, 40), "float16", id="gqa-40-two-workgroups-a-kv-head"),
    pytest.param(Heads(10, 2, 256, 256), "float32", id="gqa-256-two-workgroups-a-kv-head"),
    pytest.param(Heads(9, 3, 248, 248), "float16", id="gqa-248"),
    pytest.param(Heads(2, 1, 4, 4), "float32", id="gqa-4-one-member-of-a-quad-has-all"),
]


class Decode:
    """The kernels of a decode step's attention, compiled once."""

    def __init__(self, gpu: Gpu, shape: AttentionShape, subgroups: bool, tiling: DecodeTiling = ROOMY) -> None:
        if subgroups and not gpu.subgroups:
            unavailable("the adapter lacks subgroups")
        self.gpu, self.shape = gpu, shape
        function = attention.attention("attention", shape, STATE_WORDS, subgroups, tiling)
        self.attention = gpu.compile(function, subgroups)
        self.combine = gpu.compile(attention.combine("combine", shape)) if shape.splits > 1 else None

    def __call__(self, query: NDArray[Any], rows: NDArray[Any], used: int) -> NDArray[Any]:
        """The attention of one query over `rows`, `used` of them valid: `[query heads x size]`."""
        cache, heads = self.shape.cache, self.shape.heads
        size = heads.query * heads.size
        out = poison((heads.query, self.shape.splits, heads.size + 4) if self.combine else size, "float32")
        arrays = {"query": queries_for(cache, query), "cache": stored(cache, rows), "state": state(used - 1)}
        made = self.gpu.run([self.attention], {**arrays, "out": out})["out"]
        if self.combine is None:
            return made
        return self.gpu.run([self.combine], {"partial": made, "out": poison(size, "float32")})["out"]


@pytest.mark.parametrize("subgroups", SUBGROUPS)
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("heads", "dtype"), DECODE_HEADS)
def test_decode(gpu: Gpu, heads: Heads, dtype: str, splits: int, subgroups: bool) -> None:
    """Lengths around a block, fewer blocks than splits, and blocks that the splits share unevenly."""
    rng = np.random.default_rng(heads.size)
    shape = AttentionShape(Cache(heads, CONTEXT, dtype), 1, splits)
    attend = Decode(gpu, shape, subgroups)
    for used in (1, 63, 64, 65, 129, 257, CONTEXT):
        rows, query = cache_of(rng, used, shape.cache), query_of(rng, 1, heads)
        out = attend(query, rows, used)
        assert_close(out, reference.attention(query, rows, used - 1).reshape(-1))


@pytest.mark.parametrize("subgroups", SUBGROUPS)
@pytest.mark.parametrize(("heads", "dtype"), DECODE_HEADS[1:4])
def test_decode_in_few_registers(gpu: Gpu, heads: Heads, dtype: str, subgroups: bool) -> None:
    """Fewer queries a workgroup, and values loaded behind their weights."""
    rng = np.random.default_rng(heads.size)
    shape = AttentionShape(Cache(heads, CONTEXT, dtype), 1, 3)
    attend = Decode(gpu, shape, subgroups, LOW_DECODE)
    rows, query = cache_of(rng, 257, shape.cache), query_of(rng, 1, heads)
    assert_close(attend(query, rows, 257), reference.attention(query, rows, 256).reshape(-1))


def test_combine(gpu: Gpu) -> None:
    """Splits whose maxima are far apart, and an empty one, as a short sequence leaves it."""
    rng = np.random.default_rng(0)
    heads, splits = Heads(5, 1, 72, 72), 7
    sums = rng.normal(0, 1, (heads.query, splits, heads.size)).astype(np.float32)
    tops = rng.uniform(-60, 60, (heads.query, splits)).astype(np.float32)
    totals = rng.uniform(1, 9, (heads.query, splits)).astype(np.float32)
    sums[:, 4], tops[:, 4], totals[:, 4] = 0, quads.LOWEST, 0
    partial = poison((heads.query, splits, heads.size + 4), "float32")
    partial[..., : heads.size], partial[..., heads.size], partial[..., heads.size + 1] = sums, tops, totals
    kernel = attention.combine("combine", AttentionShape(Cache(heads, CONTEXT, "float16"), 1, splits))
    out = gpu.run_kernel(kernel, {"partial": partial, "out": poison(heads.query * heads.size, "float32")})["out"]
    assert_close(out, reference.combine(sums, tops, totals).reshape(-1))


# (heads, type of the cache, chunk); chunks of less than a quad's rows, of whole workgroups, and of neither
PREFILL_HEADS = [
    pytest.param(Heads(2, 2, 32, 32), "float16", 16, id="mha-32"),
    pytest.param(Heads(6, 2, 64, 64), "float32", 21, id="gqa-64-three-heads-a-workgroup"),
    pytest.param(Heads(8, 1, 64, 64), "float16", 64, id="mqa-64-four-heads-a-workgroup"),
    pytest.param(Heads(5, 5, 64, 64), "float32", 80, id="mha-64-more-than-a-workgroup"),
    pytest.param(Heads(9, 1, 80, 80), "float16", 16, id="mqa-80"),
    pytest.param(Heads(2, 1, 96, 96), "float32", 7, id="gqa-96-less-than-a-workgroup"),
    pytest.param(Heads(7, 1, 40, 40), "float32", 3, id="mqa-40-quarters-of-unequal-size"),
    pytest.param(Heads(2, 2, 4, 4), "float32", 16, id="mha-4-one-member-of-a-quad-has-all"),
    pytest.param(Heads(3, 3, 248, 248), "float16", 9, id="mha-248-quarters-of-unequal-size"),
    pytest.param(Heads(4, 2, 128, 128), "float16", 16, id="gqa-128"),
    pytest.param(Heads(2, 1, 256, 256), "float32", 10, id="gqa-256"),
]
TILINGS = [
    pytest.param(QUAD_ATTENTION, id="quads"),
    pytest.param(dataclasses.replace(QUAD_ATTENTION, rows=8, vectors=48, loads=LOW_LOADS), id="quads-of-more-rows"),
    pytest.param(WORKGROUP_ATTENTION, id="workgroup"),
    pytest.param(
        dataclasses.replace(WORKGROUP_ATTENTION, rows=3, keys=8, loads=LOW_LOADS), id="workgroup-two-groups-of-keys"
    ),
]


def compile_prefill(gpu: Gpu, shape: AttentionShape, tiling: AttentionTiling) -> Compiled:
    if tiling.subgroups and not gpu.subgroups:
        unavailable("the adapter lacks subgroups")
    return gpu.compile(prefill_attention.attention("attention", shape, STATE_WORDS, tiling), tiling.subgroups)


def run_prefill(
    gpu: Gpu, kernel: Compiled, shape: AttentionShape, query: NDArray[Any], rows: NDArray[Any], position: int
) -> NDArray[Any]:
    """The attention of a chunk that `query` fills in part; the rest stays as it was."""
    padded = poison((shape.chunk, shape.heads.query, shape.heads.size), "float32")
    padded[: len(query)] = queries_for(shape.cache, query)
    arrays = {"query": padded, "cache": stored(shape.cache, rows), "state": state(position, len(query))}
    out = gpu.run([kernel], {**arrays, "out": poison(padded.shape, "float32")})["out"]
    assert_untouched(out[len(query) :])
    return out[: len(query)]


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize(("heads", "dtype", "chunk"), PREFILL_HEADS)
def test_prefill(gpu: Gpu, heads: Heads, dtype: str, chunk: int, tiling: AttentionTiling) -> None:
    """Whole and padded chunks, at the start and where a step of keys ends within the chunk."""
    rng = np.random.default_rng(heads.size)
    shape = AttentionShape(Cache(heads, CONTEXT, dtype), chunk, 1)
    kernel = compile_prefill(gpu, shape, tiling)
    for position, length in ((0, chunk), (0, 1), (62, 3), (58, chunk), (200, chunk - 1), (CONTEXT - chunk, chunk)):
        rows, query = cache_of(rng, position + length, shape.cache), query_of(rng, length, heads)
        out = run_prefill(gpu, kernel, shape, query, rows, position)
        assert_close(out, reference.attention(query, rows, position))


@pytest.mark.parametrize("tiling", TILINGS)
def test_prefill_of_large_scores_does_not_overflow(gpu: Gpu, tiling: AttentionTiling) -> None:
    """Scores of several hundred that rise from key to key, so that every step has a new maximum, and that fall."""
    heads, chunk = Heads(2, 1, 64, 64), 5
    shape = AttentionShape(Cache(heads, CONTEXT, "float16"), chunk, 1)
    kernel = compile_prefill(gpu, shape, tiling)
    for slope in (1, -1):
        rows = cache_of(np.random.default_rng(1), 60 + chunk, shape.cache)
        rows[: 60 + chunk, 0] = slope * np.arange(60 + chunk)[:, None, None]
        query = np.full((chunk, heads.query, heads.size), 1.0, np.float32)
        out = run_prefill(gpu, kernel, shape, query, rows, 60)
        assert_close(out, reference.attention(query, rows, 60))


@pytest.mark.parametrize("subgroups", SUBGROUPS)
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("window", [1, 64, 100])
def test_decode_with_a_sliding_window(gpu: Gpu, window: int, splits: int, subgroups: bool) -> None:
    """Keys that left the window are NaN, block by block: a kernel that reads one it need not shows."""
    rng, heads = np.random.default_rng(window), Heads(6, 2, 48, 48)
    shape = AttentionShape(Cache(heads, CONTEXT, "float16"), 1, splits, window)
    attend = Decode(gpu, shape, subgroups)
    for used in (1, window, window + 1, 192, 257, CONTEXT):
        rows, query = cache_of(rng, used, shape.cache), query_of(rng, 1, heads)
        rows[: max(0, used - window) // 64 * 64] = np.nan
        out = attend(query, rows, used)
        assert_close(out, reference.attention(query, rows, used - 1, window).reshape(-1))


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("window", [1, 6, 70])
def test_prefill_with_a_sliding_window(gpu: Gpu, window: int, tiling: AttentionTiling) -> None:
    """The queries of a quad see different keys, in some steps only some of them any. Keys that left the window of the
    chunk's first query are NaN: a kernel that reads one shows."""
    rng, heads, chunk = np.random.default_rng(window), Heads(4, 2, 64, 64), 21
    shape = AttentionShape(Cache(heads, CONTEXT, "float16"), chunk, 1, window)
    kernel = compile_prefill(gpu, shape, tiling)
    for position, length in ((0, chunk), (120, chunk), (130, 3), (CONTEXT - chunk, chunk)):
        rows, query = cache_of(rng, position + length, shape.cache), query_of(rng, length, heads)
        rows[: max(0, position + 1 - window)] = np.nan
        out = run_prefill(gpu, kernel, shape, query, rows, position)
        assert_close(out, reference.attention(query, rows, position, window))


@pytest.mark.parametrize(("scale", "cap"), [(0.3, None), (None, 2.0), (0.05, 50.0)])
def test_scaled_and_capped_scores(gpu: Gpu, scale: float | None, cap: float | None) -> None:
    """In decode and in prefill; scores far over the cap, too."""
    rng, heads, chunk = np.random.default_rng(3), Heads(6, 2, 48, 48), 21
    cache = Cache(heads, CONTEXT, "float16")
    attend = Decode(gpu, AttentionShape(cache, 1, 3, None, scale, cap), subgroups=False)
    for used in (1, 130, 257):
        rows, query = cache_of(rng, used, cache), query_of(rng, 1, heads) * np.float32(10)
        out = attend(query, rows, used)
        assert_close(out, reference.attention(query, rows, used - 1, None, scale, cap).reshape(-1))
    for tiling in (QUAD_ATTENTION, WORKGROUP_ATTENTION):
        shape = AttentionShape(cache, chunk, 1, 40, scale, cap)
        rows, query = cache_of(rng, 130 + chunk, cache), query_of(rng, chunk, heads)
        out = run_prefill(gpu, compile_prefill(gpu, shape, tiling), shape, query, rows, 130)
        assert_close(out, reference.attention(query, rows, 130, 40, scale, cap))


@pytest.mark.parametrize("tiling", TILINGS)
def test_prefill_is_one_kernel_for_every_chunk_size(tiling: AttentionTiling) -> None:
    cache = Cache(Heads(8, 2, 64, 64), CONTEXT, "float16")
    sources = [
        wgsl.render(
            prefill_attention.attention("a", AttentionShape(cache, n, 1), STATE_WORDS, tiling),
            "attention",
        ).source
        for n in (8, 16, 256)
    ]
    assert sources[1:] == sources[:-1]


@pytest.mark.parametrize("subgroups", SUBGROUPS)
def test_large_scores_do_not_overflow(gpu: Gpu, subgroups: bool) -> None:
    """Scores of several hundred, whose exponentials overflow f32 without the running maximum."""
    rng, heads = np.random.default_rng(1), Heads(2, 1, 64, 64)
    shape = AttentionShape(Cache(heads, CONTEXT, "float16"), 1, 1)
    query, rows = 40 * query_of(rng, 1, heads), cache_of(rng, 200, shape.cache)
    out, want = Decode(gpu, shape, subgroups)(query, rows, 200), reference.attention(query, rows, 199).reshape(-1)
    # The scores themselves carry f32 errors of 1e-4, which the exponential makes relative.
    np.testing.assert_allclose(out, want, atol=2e-3 * np.abs(want).max())
