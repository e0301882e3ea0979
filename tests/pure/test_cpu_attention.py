"""Attention on the CPU and its splits against the numpy twins: head sizes, sharing, windows, lengths around a block.

In caches of both types; values are halves in either, so that nothing is lost by the narrower one.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.kernels import reference
from compiler.kernels.cache import Cache, Heads
from compiler.kernels.cpu import attention
from compiler.kernels.shapes import AttentionShape
from compiler.lowering import wasm
from tests.caches import queries_for, stored
from tests.wasm_module import WasmModule

STATE_WORDS = 64
CONTEXT = 400
BOTH = pytest.mark.parametrize("dtype", ["float32", "float16"])


def poison(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.full(shape, np.nan, np.float32)


def state(position: int, length: int = 0) -> NDArray[np.uint32]:
    words = np.full(STATE_WORDS, 0xFFFFFFFF, np.uint32)
    words[:3] = position, 0, length
    return words


def cache_of(rng: np.random.Generator, used: int, heads: Heads) -> NDArray[np.float32]:
    """A KV cache whose rows beyond `used` are NaN: reading one shows."""
    cache = poison((CONTEXT, 2, heads.key_value, heads.size))
    cache[:used] = rng.normal(0, 1, (used, *cache.shape[1:])).astype(np.float16)
    return cache


def query_of(rng: np.random.Generator, rows: int, heads: Heads) -> NDArray[np.float32]:
    """Queries large enough for the softmax to be uneven, so that a wrong key shows."""
    return rng.normal(0, 3, (rows, heads.query, heads.size)).astype(np.float32)


def assert_close(got: NDArray[np.float32], want: NDArray[Any]) -> None:
    """Every element within 1e-5 of the largest wanted one."""
    assert np.isfinite(got).all(), f"{np.count_nonzero(~np.isfinite(got))} of {got.size} elements were not written"
    assert np.abs(got - want.reshape(got.shape)).max() <= 1e-5 * np.abs(want).max()


class Attention:
    """The kernels of one shape, in a module."""

    def __init__(self, shape: AttentionShape) -> None:
        self.shape = shape
        functions = {"attention": attention.attention("attention", shape, STATE_WORDS)}
        if shape.splits > 1:
            functions["combine"] = attention.combine("combine", shape)
        self._items = {name: int(function.attrs["wisp.grid"][0]) for name, function in functions.items()}
        self._module = WasmModule(wasm.compile_module(functions))

    def run(
        self, query: NDArray[np.float32], cache: NDArray[np.float32], words: NDArray[np.uint32], shuffled: bool = False
    ) -> NDArray[np.float32]:
        """The attention output; all that the kernels write is NaN before."""
        heads, splits = self.shape.heads, self.shape.splits
        query, cache = queries_for(self.shape.cache, query), stored(self.shape.cache, cache)
        out = poison(query.shape)
        partial = poison((heads.query, splits, heads.size + 4)) if splits > 1 else out
        made = self._run("attention", [query, cache, words, partial], shuffled)
        return made if splits == 1 else self._run("combine", [made, out], shuffled)

    def _run(self, name: str, arrays: list[NDArray[Any]], shuffled: bool) -> NDArray[np.float32]:
        items = self._items[name]
        pieces = [(0, items)]
        if shuffled:
            pieces = [(max(0, end - 3), end) for end in range(items, 0, -3)]
        *read, written = self._module.run(name, arrays, items, pieces)
        for before, after in zip(arrays, read, strict=False):
            assert before.tobytes() == after.tobytes()
        return written


HEADS = [
    pytest.param(Heads(4, 4, 32, 32), id="mha-32"),
    pytest.param(Heads(3, 1, 64, 64), id="mqa-64"),
    pytest.param(Heads(6, 2, 80, 80), id="gqa-80"),
    pytest.param(Heads(2, 2, 96, 96), id="mha-96"),
    pytest.param(Heads(14, 2, 64, 64), id="gqa-64-seven-shared"),
    pytest.param(Heads(11, 1, 128, 128), id="mqa-128"),
    pytest.param(Heads(48, 2, 40, 40), id="gqa-40-two-items-a-kv-head"),
    pytest.param(Heads(10, 2, 256, 256), id="gqa-256"),
    pytest.param(Heads(9, 3, 12, 12), id="gqa-12"),
    pytest.param(Heads(4, 2, 4, 4), id="gqa-4"),
    pytest.param(Heads(8, 4, 80, 32), id="gqa-80-a-part-rotates"),
]


@BOTH
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("heads", HEADS)
def test_decode(heads: Heads, splits: int, dtype: str) -> None:
    """Lengths around a tile and a block, fewer keys than splits, and keys that the splits share unevenly."""
    rng = np.random.default_rng(heads.size)
    kernel = Attention(AttentionShape(Cache(heads, CONTEXT, dtype), 1, splits))
    for used in (1, 2, 8, 9, 63, 64, 65, 129, 257, CONTEXT):
        cache, query = cache_of(rng, used, heads), query_of(rng, 1, heads)
        assert_close(kernel.run(query, cache, state(used - 1)), reference.attention(query, cache, used - 1))


@BOTH
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("window", [1, 64, 100, CONTEXT])
def test_decode_with_a_sliding_window(window: int, splits: int, dtype: str) -> None:
    """Keys that left the window are NaN."""
    rng, heads = np.random.default_rng(window), Heads(6, 2, 48, 48)
    kernel = Attention(AttentionShape(Cache(heads, CONTEXT, dtype), 1, splits, window))
    for used in (1, window, min(window + 1, CONTEXT), 192, 257, CONTEXT):
        cache, query = cache_of(rng, used, heads), query_of(rng, 1, heads)
        cache[: max(0, used - window)] = np.nan
        assert_close(kernel.run(query, cache, state(used - 1)), reference.attention(query, cache, used - 1, window))


SCALED = [(0.3, None), (None, 2.0), (0.05, 50.0)]


@BOTH
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("scale", "cap"), SCALED)
def test_decode_with_scaled_and_capped_scores(scale: float | None, cap: float | None, splits: int, dtype: str) -> None:
    """Scores far over the cap, too: queries are large."""
    rng, heads = np.random.default_rng(3), Heads(6, 2, 48, 48)
    kernel = Attention(AttentionShape(Cache(heads, CONTEXT, dtype), 1, splits, None, scale, cap))
    for used, factor in ((1, 1), (130, 1), (257, 30)):
        cache, query = cache_of(rng, used, heads), query_of(rng, 1, heads) * np.float32(factor)
        want = reference.attention(query, cache, used - 1, None, scale, cap)
        assert_close(kernel.run(query, cache, state(used - 1)), want)


@BOTH
@pytest.mark.parametrize(("scale", "cap"), SCALED)
def test_prefill_with_scaled_and_capped_scores(scale: float | None, cap: float | None, dtype: str) -> None:
    rng, heads, chunk = np.random.default_rng(4), Heads(6, 2, 64, 64), 21
    kernel = Attention(AttentionShape(Cache(heads, CONTEXT, dtype), chunk, 1, 40, scale, cap))
    for position in (0, 130):
        cache, query = cache_of(rng, position + chunk, heads), query_of(rng, chunk, heads)
        want = reference.attention(query, cache, position, 40, scale, cap)
        assert_close(kernel.run(query, cache, state(position, chunk)), want)


PREFILL = [
    pytest.param(Heads(2, 2, 32, 32), 16, id="mha-32"),
    pytest.param(Heads(6, 2, 64, 64), 21, id="gqa-64"),
    pytest.param(Heads(16, 1, 80, 80), 64, id="mqa-80"),
    pytest.param(Heads(2, 1, 96, 96), 7, id="gqa-96-less-than-an-item"),
    pytest.param(Heads(4, 2, 128, 128), 16, id="gqa-128"),
    pytest.param(Heads(2, 1, 256, 256), 10, id="gqa-256"),
    pytest.param(Heads(4, 2, 20, 20), 128, id="gqa-20"),
]


@BOTH
@pytest.mark.parametrize(("heads", "chunk"), PREFILL)
def test_prefill(heads: Heads, chunk: int, dtype: str) -> None:
    """Whole and padded chunks, at the start and where a block of keys ends within the chunk."""
    rng = np.random.default_rng(heads.size)
    kernel = Attention(AttentionShape(Cache(heads, CONTEXT, dtype), chunk, 1))
    for position, length in ((0, chunk), (0, 1), (62, 3), (58, chunk), (200, chunk - 1), (CONTEXT - chunk, chunk)):
        cache, query = cache_of(rng, position + length, heads), poison((chunk, heads.query, heads.size))
        query[:length] = query_of(rng, length, heads)
        out = kernel.run(query, cache, state(position, length))
        assert_close(out[:length], reference.attention(query[:length], cache, position))
        assert np.isnan(out[length:]).all()


@BOTH
@pytest.mark.parametrize("window", [1, 70])
def test_prefill_with_a_sliding_window(window: int, dtype: str) -> None:
    """The rows of an item see different keys, a block among them that the first of them sees and the last not."""
    rng, heads, chunk = np.random.default_rng(window), Heads(16, 2, 64, 64), 70
    kernel = Attention(AttentionShape(Cache(heads, CONTEXT, dtype), chunk, 1, window))
    for position, length in ((0, chunk), (120, chunk), (130, 3), (CONTEXT - chunk, chunk)):
        cache, query = cache_of(rng, position + length, heads), poison((chunk, heads.query, heads.size))
        cache[: max(0, position + 1 - window)] = np.nan
        query[:length] = query_of(rng, length, heads)
        out = kernel.run(query, cache, state(position, length))
        assert_close(out[:length], reference.attention(query[:length], cache, position, window))
        assert np.isnan(out[length:]).all()


@BOTH
@pytest.mark.parametrize(("heads", "chunk", "splits"), [(Heads(14, 2, 64, 64), 1, 3), (Heads(6, 2, 64, 64), 40, 1)])
def test_pieces_in_any_order_give_the_same_bytes(heads: Heads, chunk: int, splits: int, dtype: str) -> None:
    rng, shape = np.random.default_rng(0), AttentionShape(Cache(heads, CONTEXT, dtype), chunk, splits)
    cache, query = cache_of(rng, 333, shape.heads), query_of(rng, shape.chunk, shape.heads)
    words = state(333 - shape.chunk, shape.chunk)
    kernel = Attention(shape)
    assert kernel.run(query, cache, words).tobytes() == kernel.run(query, cache, words, shuffled=True).tobytes()


@BOTH
def test_large_scores_do_not_overflow(dtype: str) -> None:
    """Scores of several hundred, whose exponentials overflow f32 without the running maximum."""
    rng, heads = np.random.default_rng(1), Heads(2, 1, 64, 64)
    query, cache = 40 * query_of(rng, 1, heads), cache_of(rng, 200, heads)
    out = Attention(AttentionShape(Cache(heads, CONTEXT, dtype), 1, 1)).run(query, cache, state(199))
    want = reference.attention(query, cache, 199)
    # The scores themselves carry f32 errors of 1e-4, which the exponential makes relative.
    np.testing.assert_allclose(out, want, atol=2e-3 * np.abs(want).max())


def test_combine() -> None:
    """Splits whose maxima are far apart, and an empty one, as a short sequence leaves it."""
    rng = np.random.default_rng(0)
    heads, splits = Heads(5, 1, 72, 72), 7
    sums = rng.normal(0, 1, (heads.query, splits, heads.size)).astype(np.float32)
    tops = rng.uniform(-60, 60, (heads.query, splits)).astype(np.float32)
    totals = rng.uniform(1, 9, (heads.query, splits)).astype(np.float32)
    sums[:, 4], tops[:, 4], totals[:, 4] = 0, attention.LOWEST, 0
    partial = poison((heads.query, splits, heads.size + 4))
    partial[..., : heads.size], partial[..., heads.size], partial[..., heads.size + 1] = sums, tops, totals
    function = attention.combine("combine", AttentionShape(Cache(heads, CONTEXT, "float32"), 1, splits))
    module = WasmModule(wasm.compile_module({"combine": function}))
    out = module.run("combine", [partial, poison((heads.query, heads.size))], heads.query)[1]
    assert_close(out, reference.combine(sums, tops, totals))


@pytest.mark.parametrize("heads", [param.values[0] for param in HEADS])
@pytest.mark.parametrize("context", [128, 4096])
def test_a_long_context_gives_every_thread_an_item(heads: Heads, context: int) -> None:
    items = heads.query // attention.queries_of_item(heads, 1) * attention.splits_for(heads, context)
    assert context < 512 or items >= attention.ITEMS
    assert attention.splits_for(heads, 128) == 1


@pytest.mark.parametrize("heads", [Heads(2, 1, 64, 64), Heads(4, 2, 20, 20)])
def test_halves_of_every_exponent(heads: Heads) -> None:
    """Subnormal keys and values, the largest, zeros of both signs."""
    rng, used = np.random.default_rng(5), 70
    cache = cache_of(rng, used, heads)
    exponents = rng.integers(-24, 16, cache[:used].shape)
    cache[:used] = np.ldexp(rng.integers(-1023, 1024, cache[:used].shape) / 1024, exponents).astype(np.float16)
    query = (query_of(rng, 1, heads) * 1e-4).astype(np.float32)
    kernel = Attention(AttentionShape(Cache(heads, CONTEXT, "float16"), 1, 1))
    assert_close(kernel.run(query, cache, state(used - 1)), reference.attention(query, cache, used - 1))
