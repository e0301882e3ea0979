"""Attention and its splits against the numpy twins: head sizes, sharing of KV heads, lengths around a block of keys;
prefill in every tiling that a variant has."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler import wgsl
from compiler.kernels import attention, prefill_attention, reference
from compiler.kernels.epilogue import Heads
from compiler.kernels.prefill_attention import AttentionTiling
from compiler.tuning import QUAD_ATTENTION, SOFTWARE_ATTENTION, WORKGROUP_ATTENTION
from tests.conftest import unavailable
from tests.device.harness import Compiled, Gpu, assert_close, assert_untouched, poison

STATE_WORDS = 64
CONTEXT = 400


def state(position: int, length: int = 0) -> NDArray[np.uint32]:
    words = poison(STATE_WORDS, "uint32")
    words[:3] = position, 0, length
    return words


def require(gpu: Gpu, activation: str) -> None:
    if activation == "float16" and not gpu.f16:
        unavailable("the adapter lacks shader-f16")


def cache_of(rng: np.random.Generator, used: int, heads: Heads, activation: str) -> NDArray[Any]:
    """A KV cache whose rows beyond `used` are NaN: reading one shows."""
    cache = poison((CONTEXT, 2, heads.key_value, heads.size), activation)
    cache[:used] = rng.normal(0, 1, (used, *cache.shape[1:])).astype(activation)
    return cache


def query_of(rng: np.random.Generator, rows: int, heads: Heads, activation: str) -> NDArray[Any]:
    """Queries large enough for the softmax to be uneven, so that a wrong key shows."""
    return rng.normal(0, 3, (rows, heads.query, heads.size)).astype(activation)


DECODE_HEADS = [
    pytest.param(Heads(4, 4, 32, 32), "float32", id="mha-32"),
    pytest.param(Heads(3, 1, 64, 64), "float16", id="mqa-64"),
    pytest.param(Heads(6, 2, 80, 80), "float32", id="gqa-80"),
    pytest.param(Heads(2, 2, 96, 96), "float16", id="mha-96"),
    pytest.param(Heads(11, 1, 128, 128), "float32", id="mqa-128-two-workgroups-a-kv-head"),
    pytest.param(Heads(24, 2, 40, 40), "float16", id="gqa-40-two-workgroups-a-kv-head"),
    pytest.param(Heads(10, 2, 256, 256), "float32", id="gqa-256-two-workgroups-a-kv-head"),
    pytest.param(Heads(9, 3, 248, 248), "float16", id="gqa-248"),
]


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("heads", "activation"), DECODE_HEADS)
def test_decode(gpu: Gpu, heads: Heads, activation: str, splits: int) -> None:
    """Lengths around a block, fewer blocks than splits, and blocks that the splits share unevenly."""
    require(gpu, activation)
    rng = np.random.default_rng(heads.size)
    shape = attention.Shape(heads, 1, splits, CONTEXT)
    calls = [gpu.compile(attention.attention("attention", shape, STATE_WORDS, activation))]
    combine = gpu.compile(attention.combine("combine", shape, activation)) if splits > 1 else None
    size = heads.query * heads.size
    for used in (1, 63, 64, 65, 129, 257, CONTEXT):
        cache, query = cache_of(rng, used, heads, activation), query_of(rng, 1, heads, activation)
        partial = poison((heads.query, splits, heads.size + 4), "float32")
        arrays = {"query": query, "cache": cache, "state": state(used - 1)}
        arrays["out"] = partial if combine else poison(size, activation)
        out = gpu.run(calls, arrays)["out"]
        if combine:
            out = gpu.run([combine], {"partial": out, "out": poison(size, activation)})["out"]
        assert_close(out, reference.attention(query, cache, used - 1).reshape(-1), activation)


@pytest.mark.parametrize("activation", ["float32", "float16"])
def test_combine(gpu: Gpu, activation: str) -> None:
    """Splits whose maxima are far apart, and an empty one, as a short sequence leaves it."""
    require(gpu, activation)
    rng = np.random.default_rng(0)
    heads, splits = Heads(5, 1, 72, 72), 7
    sums = rng.normal(0, 1, (heads.query, splits, heads.size)).astype(np.float32)
    tops = rng.uniform(-60, 60, (heads.query, splits)).astype(np.float32)
    totals = rng.uniform(1, 9, (heads.query, splits)).astype(np.float32)
    sums[:, 4], tops[:, 4], totals[:, 4] = 0, attention.LOWEST, 0
    partial = poison((heads.query, splits, heads.size + 4), "float32")
    partial[..., : heads.size], partial[..., heads.size], partial[..., heads.size + 1] = sums, tops, totals
    kernel = attention.combine("combine", attention.Shape(heads, 1, splits, CONTEXT), activation)
    out = gpu.run_kernel(kernel, {"partial": partial, "out": poison(heads.query * heads.size, activation)})["out"]
    assert_close(out, reference.combine(sums, tops, totals).reshape(-1), activation)


# (heads, activation, chunk); chunks of less than a quad's rows, of whole workgroups, and of neither
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
    pytest.param(SOFTWARE_ATTENTION, id="quads-of-more-rows"),
    pytest.param(WORKGROUP_ATTENTION, id="workgroup"),
    pytest.param(dataclasses.replace(WORKGROUP_ATTENTION, rows=3, keys=8), id="workgroup-two-groups-of-keys"),
]


def compile_prefill(gpu: Gpu, shape: attention.Shape, activation: str, tiling: AttentionTiling) -> Compiled:
    require(gpu, activation)
    if tiling.subgroups and not gpu.subgroups:
        unavailable("the adapter lacks subgroups")
    kernel = prefill_attention.attention("attention", shape, STATE_WORDS, activation, tiling)
    return gpu.compile(kernel, tiling.subgroups)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize(("heads", "activation", "chunk"), PREFILL_HEADS)
def test_prefill(gpu: Gpu, heads: Heads, activation: str, chunk: int, tiling: AttentionTiling) -> None:
    """Whole and padded chunks, at the start and where a step of keys ends within the chunk."""
    rng = np.random.default_rng(heads.size)
    kernel = compile_prefill(gpu, attention.Shape(heads, chunk, 1, CONTEXT), activation, tiling)
    for position, length in ((0, chunk), (0, 1), (62, 3), (58, chunk), (200, chunk - 1), (CONTEXT - chunk, chunk)):
        cache = cache_of(rng, position + length, heads, activation)
        query = poison((chunk, heads.query, heads.size), activation)
        query[:length] = query_of(rng, length, heads, activation)
        arrays = {"query": query, "cache": cache, "state": state(position, length)}
        out = gpu.run([kernel], {**arrays, "out": poison(query.shape, activation)})["out"]
        assert_close(out[:length], reference.attention(query[:length], cache, position), activation)
        assert_untouched(out[length:])


@pytest.mark.parametrize("tiling", TILINGS)
def test_prefill_of_large_scores_does_not_overflow(gpu: Gpu, tiling: AttentionTiling) -> None:
    """Scores of several hundred that rise from key to key, so that every step has a new maximum, and that fall."""
    heads, chunk = Heads(2, 1, 64, 64), 5
    kernel = compile_prefill(gpu, attention.Shape(heads, chunk, 1, CONTEXT), "float32", tiling)
    for slope in (1, -1):
        cache = cache_of(np.random.default_rng(1), 60 + chunk, heads, "float32")
        cache[: 60 + chunk, 0] = slope * np.arange(60 + chunk)[:, None, None]
        query = np.full((chunk, heads.query, heads.size), 1.0, np.float32)
        arrays = {"query": query, "cache": cache, "state": state(60, chunk), "out": poison(query.shape, "float32")}
        assert_close(gpu.run([kernel], arrays)["out"], reference.attention(query, cache, 60), "float32")


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("window", [1, 64, 100])
def test_decode_with_a_sliding_window(gpu: Gpu, window: int, splits: int) -> None:
    """Keys that left the window are NaN, block by block: a kernel that reads one it need not shows."""
    rng, heads = np.random.default_rng(window), Heads(6, 2, 48, 48)
    shape = attention.Shape(heads, 1, splits, CONTEXT, window)
    calls = [gpu.compile(attention.attention("attention", shape, STATE_WORDS, "float32"))]
    combine = gpu.compile(attention.combine("combine", shape, "float32")) if splits > 1 else None
    size = heads.query * heads.size
    for used in (1, window, window + 1, 192, 257, CONTEXT):
        cache, query = cache_of(rng, used, heads, "float32"), query_of(rng, 1, heads, "float32")
        cache[: max(0, used - window) // 64 * 64] = np.nan
        arrays = {"query": query, "cache": cache, "state": state(used - 1)}
        arrays["out"] = poison((heads.query, splits, heads.size + 4) if combine else size, "float32")
        out = gpu.run(calls, arrays)["out"]
        if combine:
            out = gpu.run([combine], {"partial": out, "out": poison(size, "float32")})["out"]
        assert_close(out, reference.attention(query, cache, used - 1, window).reshape(-1), "float32")


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("window", [1, 6, 70])
def test_prefill_with_a_sliding_window(gpu: Gpu, window: int, tiling: AttentionTiling) -> None:
    """The queries of a quad see different keys, in some steps only some of them any. Keys that left the window of the
    chunk's first query are NaN: a kernel that reads one shows."""
    rng, heads, chunk = np.random.default_rng(window), Heads(4, 2, 64, 64), 21
    kernel = compile_prefill(gpu, attention.Shape(heads, chunk, 1, CONTEXT, window), "float32", tiling)
    for position, length in ((0, chunk), (120, chunk), (130, 3), (CONTEXT - chunk, chunk)):
        cache = cache_of(rng, position + length, heads, "float32")
        cache[: max(0, position + 1 - window)] = np.nan
        query = poison((chunk, heads.query, heads.size), "float32")
        query[:length] = query_of(rng, length, heads, "float32")
        arrays = {"query": query, "cache": cache, "state": state(position, length)}
        out = gpu.run([kernel], {**arrays, "out": poison(query.shape, "float32")})["out"]
        assert_close(out[:length], reference.attention(query[:length], cache, position, window), "float32")
        assert_untouched(out[length:])


@pytest.mark.parametrize("tiling", TILINGS)
def test_prefill_is_one_kernel_for_every_chunk_size(tiling: AttentionTiling) -> None:
    heads = Heads(8, 2, 64, 64)
    sources = [
        wgsl.render(
            prefill_attention.attention("a", attention.Shape(heads, n, 1, CONTEXT), STATE_WORDS, "float32", tiling),
            "attention",
        ).source
        for n in (8, 16, 256)
    ]
    assert sources[1:] == sources[:-1]


def test_large_scores_do_not_overflow(gpu: Gpu) -> None:
    """Scores of several hundred, whose exponentials overflow f32 without the running maximum."""
    rng, heads = np.random.default_rng(1), Heads(2, 1, 64, 64)
    query, cache = 40 * query_of(rng, 1, heads, "float32"), cache_of(rng, 200, heads, "float32")
    kernel = attention.attention("attention", attention.Shape(heads, 1, 1, CONTEXT), STATE_WORDS, "float32")
    arrays = {"query": query, "cache": cache, "state": state(199), "out": poison(128, "float32")}
    out = gpu.run_kernel(kernel, arrays)["out"]
    want = reference.attention(query, cache, 199).reshape(-1)
    # The scores themselves carry f32 errors of 1e-4, which the exponential makes relative.
    np.testing.assert_allclose(out, want, atol=2e-3 * np.abs(want).max())
