"""Head norms and rotation of the CPU against the numpy twins."""

import numpy as np
import pytest

from compiler.kernels import reference
from compiler.kernels.cache import Cache, Heads
from compiler.kernels.cpu.embed import normalize_rotate_chunk
from compiler.kernels.webgpu.embed import rope_table
from compiler.kernels.webgpu.matvec import Norm
from compiler.lowering import wasm
from tests.wasm_module import WasmModule

CONTEXT, STATE_WORDS, EPSILON = 300, 64, 1e-5


@pytest.mark.parametrize("f16", [False, True])
@pytest.mark.parametrize("heads", [Heads(4, 1, 64, 64), Heads(4, 2, 40, 24), Heads(3, 3, 20, 20), Heads(2, 1, 8, 4)])
@pytest.mark.parametrize(("chunk", "length"), [(1, 1), (11, 8)])
def test_normalize_rotate_chunk(chunk: int, length: int, heads: Heads, f16: bool) -> None:
    """Queries and keys have their norms, values none; a chunk of one is a decode step. Pieces may be single items.

    The chunk is padded and lies over the seam of the rotary table's blocks; nothing else of the cache is written.
    """
    rng, position = np.random.default_rng(9), 253
    table = rope_table(10000.0 ** -(np.arange(heads.rotary // 2) / heads.rotary * 2), 0.9, CONTEXT)
    qkv = np.full((chunk, heads.rows), np.nan, np.float32)
    qkv[:length] = rng.normal(0, 2, (length, heads.rows))
    gammas = [rng.normal(1, 0.2, heads.size).astype(np.float16 if f16 else np.float32) for _ in range(2)]
    state = np.full(STATE_WORDS, 0xFFFFFFFF, np.uint32)
    state[:3] = position, 0, length if chunk > 1 else 0
    cache = np.full((CONTEXT, 2 * heads.key_value * heads.size), np.nan, np.float32)
    query = np.full((chunk, heads.query * heads.size), np.nan, np.float32)
    function = normalize_rotate_chunk(
        "rotate", Cache(heads, CONTEXT, "float32"), chunk, Norm(EPSILON, f16), STATE_WORDS
    )
    items = int(function.attrs["wisp.grid"][0])
    assert items == chunk * (heads.query + 2 * heads.key_value)
    module = WasmModule(wasm.compile_module({"rotate": function}))
    pieces = [(item, item + 1) for item in reversed(range(items))]
    *_, got_cache, got_query = module.run("rotate", [qkv, *gammas, state, table, cache, query], items, pieces)

    split = qkv[:length].reshape(length, -1, heads.size).astype(np.float64)
    queries, keys, values = np.split(split, [heads.query, heads.query + heads.key_value], axis=1)
    cos, sin = reference.cos_sin(table, CONTEXT, np.arange(position, position + length).astype(np.uint32))
    queries, keys = (
        reference.rotate(reference.rms_norm(part, gamma.astype(np.float64), EPSILON), cos, sin)
        for part, gamma in zip((queries, keys), gammas, strict=True)
    )
    kept = np.concatenate([keys, values], axis=1).reshape(length, -1)
    for got, want in (
        (got_query[:length], queries.reshape(length, -1)),
        (got_cache[position : position + length], kept),
    ):
        assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()
    assert np.isnan(got_query[length:]).all()
    assert np.isnan(np.delete(got_cache, np.s_[position : position + length], axis=0)).all()
