"""Head norms and rotation of the CPU against the numpy twins."""

import numpy as np
import pytest

from compiler.kernels import reference
from compiler.kernels.cache import Cache, Heads
from compiler.kernels.cpu.head_norm import normalize_rotate_chunk
from compiler.kernels.rope import RopePart, rope_table
from compiler.kernels.shapes import Norm
from compiler.lowering import wasm
from tests.caches import plain, queries_for
from tests.wasm_module import WasmModule

CONTEXT, STATE_WORDS, EPSILON = 300, 64, 1e-5


@pytest.mark.parametrize("f16", [False, True])
@pytest.mark.parametrize(
    ("heads", "first", "whole"),
    [
        (Heads(4, 1, 64, 64), 0, False),
        (Heads(4, 2, 40, 24), 0, False),
        (Heads(3, 3, 20, 20), 0, False),
        (Heads(2, 1, 8, 4), 0, False),
        (Heads(4, 2, 40, 40), 0, True),  # a norm of all heads together
        (Heads(4, 2, 40, 24), 5, True),
        (Heads(4, 2, 32, 32), 16, False),  # frequencies behind those of other layers
        (Heads(4, 2, 32, 0), 0, False),  # nothing rotates
    ],
)
@pytest.mark.parametrize(("chunk", "length"), [(1, 1), (11, 8)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_normalize_rotate_chunk(
    dtype: str, chunk: int, length: int, heads: Heads, first: int, whole: bool, f16: bool
) -> None:
    """Queries and keys have their norms, values none; a chunk of one is a decode step. Pieces may be single items.

    The chunk is padded and lies over the seam of the rotary table's blocks; nothing else of the cache is written.
    """
    rng, position = np.random.default_rng(9), 253
    pairs = heads.rotary // 2
    own = 10000.0 ** -(np.arange(pairs) / max(pairs, 1))
    others = np.linspace(0.1, 0.9, first + 3 if first else 0)  # what other layers have, before and behind
    table = rope_table(np.concatenate([others[:first], own, others[first:]]), 0.9, CONTEXT)
    part = RopePart(first, pairs + len(others)) if pairs else None
    qkv = np.full((chunk, heads.rows), np.nan, np.float32)
    qkv[:length] = rng.normal(0, 2, (length, heads.rows))
    counts = (heads.query, heads.key_value) if whole else (1, 1)
    gammas = [rng.normal(1, 0.2, heads.size * n).astype(np.float16 if f16 else np.float32) for n in counts]
    state = np.full(STATE_WORDS, 0xFFFFFFFF, np.uint32)
    state[:3] = position, 0, length if chunk > 1 else 0
    described = Cache(heads, CONTEXT, dtype)
    cache = np.full((CONTEXT, described.row_words), 0xFFFFFFFF, np.uint32)  # NaN in both types
    query = np.full((chunk, heads.query * heads.size), np.nan, np.float32)
    function = normalize_rotate_chunk("rotate", described, chunk, Norm(EPSILON, f16), STATE_WORDS, part, whole)
    items = int(function.attrs["wisp.grid"][0])
    assert items == chunk * (heads.query + 2 * heads.key_value)
    module = WasmModule(wasm.compile_module({"rotate": function}))
    pieces = [(item, item + 1) for item in reversed(range(items))]
    tables = [table] if pairs else []
    *_, got_cache, got_query = module.run("rotate", [qkv, *gammas, state, *tables, cache, query], items, pieces)

    split = qkv[:length].reshape(length, -1, heads.size).astype(np.float64)
    queries, keys, values = np.split(split, [heads.query, heads.query + heads.key_value], axis=1)
    turned = reference.cos_sin(table, CONTEXT, np.arange(position, position + length).astype(np.uint32))
    cos, sin = (values_of_all[:, first : first + pairs] for values_of_all in turned)

    def normed(part: np.ndarray, gamma: np.ndarray) -> np.ndarray:
        flat = part.reshape(length, -1) if whole else part
        return reference.rms_norm(flat, gamma.astype(np.float64), EPSILON).reshape(part.shape)

    queries, keys = (
        reference.rotate(normed(part, gamma), cos, sin) for part, gamma in zip((queries, keys), gammas, strict=True)
    )
    got_rows = plain(described, got_cache[position : position + length])
    got_queries = got_query[:length].reshape(queries.shape)
    rounding = {"float32": 1e-6, "float16": 2.0**-11}[dtype]
    for got, want, tolerance in (
        (got_queries, queries_for(described, queries), 1e-6),
        (got_rows[:, 0], keys, rounding),
        (got_rows[:, 1], values, rounding),
    ):
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
    assert np.isnan(got_query[length:]).all()
    assert (np.delete(got_cache, np.s_[position : position + length], axis=0) == 0xFFFFFFFF).all()
