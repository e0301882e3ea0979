"""How tests make and read KV caches: keys and values in plain order <-> what the kernels bind."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.kernels import reference
from compiler.kernels.cache import Cache


def queries_for(cache: Cache, query: NDArray[Any]) -> NDArray[Any]:
    """Queries `(..., size)` in the order in which the cache keeps keys."""
    heads = cache.heads
    return query[..., reference.pair_order(heads.size, heads.rotary)] if cache.halves else query


def stored(cache: Cache, rows: NDArray[Any]) -> NDArray[Any]:
    """Rows `(positions, 2, key_value heads, size)` of keys and values as the kernels bind them."""
    if cache.bytes:
        return _in_bytes(cache, rows)
    if not cache.halves:
        return rows.astype(np.float32).reshape(len(rows), -1)
    keys = queries_for(cache, rows[:, :1])
    return np.concatenate([keys, rows[:, 1:]], axis=1).astype(np.float16).reshape(len(rows), -1).view(np.uint32)


def plain(cache: Cache, words: NDArray[Any]) -> NDArray[np.float32]:
    """The reverse of `stored`."""
    heads = cache.heads
    if cache.bytes:
        q = words[:, : cache.scales].copy().view(np.int8).reshape(len(words), 2, heads.key_value, heads.size)
        tops = words[:, cache.scales : cache.scales + 2 * heads.key_value].copy().view(np.float32)
        return reference.from_8_bits(q, tops.reshape(len(words), heads.key_value, 2).swapaxes(1, 2))
    rows = words.view(np.float16 if cache.halves else np.float32).astype(np.float32)
    rows = rows.reshape(len(words), 2, heads.key_value, heads.size)
    if cache.halves:
        rows[:, 0] = rows[:, 0][..., np.argsort(reference.pair_order(heads.size, heads.rotary))]
    return rows


def kept(cache: Cache, rows: NDArray[Any]) -> NDArray[Any]:
    """Keys and values as a cache of 8 bits has them, those of others as they are; NaN stay."""
    if not cache.bytes:
        return rows
    there = np.isfinite(rows)
    return np.where(there, reference.from_8_bits(*reference.in_8_bits(np.where(there, rows, 0))), np.nan)


def _in_bytes(cache: Cache, rows: NDArray[Any]) -> NDArray[Any]:
    """NaN in a row become scales that are NaN, and so does what fills rows up."""
    there = np.isfinite(rows)
    q, tops = reference.in_8_bits(np.where(there, rows, 0))
    tops = np.where(there.all(axis=-1), tops, np.nan).astype(np.float32).swapaxes(1, 2).reshape(len(rows), -1)
    words = np.full((len(rows), cache.row_words), 0xFFFFFFFF, np.uint32)
    words[:, : cache.scales] = q.reshape(len(rows), -1).view(np.uint32)
    words[:, cache.scales : cache.scales + tops.shape[1]] = tops.view(np.uint32)
    return words
