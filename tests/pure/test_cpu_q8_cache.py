"""Caches of 8 bits on the CPU against the numpy twins: what is kept of heads, and attention over it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.kernels import reference
from compiler.kernels.cache import Cache, Heads
from compiler.kernels.cpu import attention
from compiler.kernels.cpu.head_norm import normalize_rotate_chunk
from compiler.kernels.rope import rope_table
from compiler.kernels.shapes import AttentionShape, Norm
from compiler.lowering import wasm
from tests.caches import kept, plain, stored
from tests.wasm_module import WasmModule

CONTEXT, STATE_WORDS = 300, 64


def state(position: int, length: int = 0) -> NDArray[np.uint32]:
    words = np.full(STATE_WORDS, 0xFFFFFFFF, np.uint32)
    words[:3] = position, 0, length
    return words


def rows_of(rng: np.random.Generator, used: int, heads: Heads) -> NDArray[np.float32]:
    """Heads of very different magnitudes, one of zeros; rows beyond `used` are NaN: reading one shows."""
    rows = np.full((CONTEXT, 2, heads.key_value, heads.size), np.nan, np.float32)
    magnitudes = np.exp(rng.uniform(-3, 1, (used, 2, heads.key_value, 1)))
    rows[:used] = rng.normal(0, 1, (used, *rows.shape[1:])) * magnitudes
    rows[used // 2, :, 0] = 0
    return rows


@pytest.mark.parametrize(
    ("heads", "chunk", "splits", "window"),
    [
        (Heads(3, 1, 64, 64), 1, 3, None),
        (Heads(6, 2, 40, 40), 1, 1, 70),  # two words to a load
        (Heads(3, 3, 96, 96), 1, 1, None),  # one query an item
        (Heads(6, 3, 64, 64), 21, 1, 70),
        (Heads(4, 4, 40, 16), 16, 1, None),
    ],
)
def test_attention(heads: Heads, chunk: int, splits: int, window: int | None) -> None:
    rng = np.random.default_rng(heads.size)
    shape = AttentionShape(Cache(heads, CONTEXT, "q8"), chunk, splits, window)
    functions = {"attention": attention.attention("attention", shape, STATE_WORDS)}
    if splits > 1:
        functions["combine"] = attention.combine("combine", shape)
    items = {name: int(function.attrs["wisp.grid"][0]) for name, function in functions.items()}
    module = WasmModule(wasm.compile_module(functions))
    for position in (0, 1, 63, 130, CONTEXT - chunk):
        rows, query = rows_of(rng, position + chunk, heads), np.empty((chunk, heads.query, heads.size), np.float32)
        query[:] = rng.normal(0, 3, query.shape)
        if window is not None:
            rows[: max(0, position + 1 - window)] = np.nan
        out = np.full(query.shape if splits == 1 else (heads.query, splits, heads.size + 4), np.nan, np.float32)
        made = module.run(
            "attention", [query, stored(shape.cache, rows), state(position, chunk), out], items["attention"]
        )[-1]
        if splits > 1:
            made = module.run("combine", [made, np.full(query.shape, np.nan, np.float32)], items["combine"])[-1]
        want = reference.attention(query, kept(shape.cache, rows), position, window)
        assert np.isfinite(made).all()
        assert np.abs(made.reshape(want.shape) - want).max() <= 2e-5 * np.abs(want).max()


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "chunk"), [(Heads(4, 1, 64, 64), 1), (Heads(4, 2, 40, 24), 11)])
def test_keeping(heads: Heads, chunk: int, normed: bool) -> None:
    """Single items in any order; what is beyond the rows that are kept, and beyond a padded chunk, is not written."""
    rng, position, length = np.random.default_rng(9), 253, max(1, chunk - 3)
    pairs, cache = heads.rotary // 2, Cache(heads, CONTEXT, "q8")
    table = rope_table(10000.0 ** -(np.arange(pairs) / pairs), 1.0, CONTEXT)
    qkv = np.full((chunk, heads.rows), np.nan, np.float32)
    qkv[:length] = rng.normal(0, 2, (length, heads.rows))
    qkv[0, -heads.size :] = 0
    gammas = [rng.normal(1, 0.2, heads.size).astype(np.float16) for _ in range(2 if normed else 0)]
    function = normalize_rotate_chunk("keep", cache, chunk, Norm(1e-5, True) if normed else None, STATE_WORDS)
    items = int(function.attrs["wisp.grid"][0])
    blank = np.full((CONTEXT, cache.row_words), 0xFFFFFFFF, np.uint32)
    arrays: list[NDArray[Any]] = [qkv, *gammas, state(position, length), table, blank]
    query = np.full((chunk, heads.query, heads.size), np.nan, np.float32)
    pieces = [(item, item + 1) for item in reversed(range(items))]
    *_, got, queries = WasmModule(wasm.compile_module({"keep": function})).run("keep", [*arrays, query], items, pieces)

    split = qkv[:length].reshape(length, -1, heads.size).astype(np.float64)
    parts = np.split(split, [heads.query, heads.query + heads.key_value], axis=1)
    cos, sin = reference.cos_sin(table, CONTEXT, np.arange(position, position + length).astype(np.uint32))
    for i, gamma in enumerate(gammas):
        parts[i] = reference.rms_norm(parts[i], gamma.astype(np.float64), 1e-5)
    wanted, keys = (reference.rotate(part, cos, sin) for part in parts[:2])
    rows = np.stack([keys, parts[2]], axis=1)
    assert np.abs(queries[:length] - wanted).max() <= 1e-6 * np.abs(wanted).max()
    # Where the twin's sum is next to the middle of two steps, the kernel may take the other.
    steps = np.abs(plain(cache, got[position : position + length]) - rows) / np.abs(rows).max(
        axis=-1, keepdims=True
    ).clip(1e-30)
    assert steps.max() <= 0.5001 / 127
    q, tops = reference.in_8_bits(rows)
    words = stored(cache, rows.astype(np.float32))
    same = words[:, : cache.scales] == got[position : position + length, : cache.scales]
    assert same.mean() > 0.99
    assert tops[0, 1, -1] == 0
    assert (q[0, 1, -1] == 0).all()
    assert np.isnan(queries[length:]).all()
    assert (np.delete(got, np.s_[position : position + length], axis=0) == 0xFFFFFFFF).all()


def test_a_position_takes_a_byte_an_element_and_a_scale_a_head() -> None:
    """Phi-3-mini's, and one that is filled up to 16 bytes."""
    assert 4 * Cache(Heads(32, 32, 96, 96), 4096, "q8").row_words == 2 * 32 * (96 + 4)
    assert 4 * Cache(Heads(9, 3, 64, 64), 4096, "q8").row_words == 2 * 3 * (64 + 4) + 8
    assert 4 * Cache(Heads(32, 32, 96, 96), 4096, "float16").row_words == 2 * 32 * 96 * 2
