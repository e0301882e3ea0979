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
    if not cache.halves:
        return rows.astype(np.float32).reshape(len(rows), -1)
    keys = queries_for(cache, rows[:, :1])
    return np.concatenate([keys, rows[:, 1:]], axis=1).astype(np.float16).reshape(len(rows), -1).view(np.uint32)


def plain(cache: Cache, words: NDArray[Any]) -> NDArray[np.float32]:
    """The reverse of `stored`."""
    heads = cache.heads
    rows = words.view(np.float16 if cache.halves else np.float32).astype(np.float32)
    rows = rows.reshape(len(words), 2, heads.key_value, heads.size)
    if cache.halves:
        rows[:, 0] = rows[:, 0][..., np.argsort(reference.pair_order(heads.size, heads.rotary))]
    return rows
