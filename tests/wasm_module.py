"""Runs a kernel module of the CPU in wasmtime, with numpy arrays as its buffers.

Behind every buffer lie `GUARD` bytes of ones, NaN in every float type: what a kernel reads there shows in its results,
and what it writes there is caught.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import wasmtime
from numpy.typing import NDArray

PAGE = 65536
ALIGNMENT = 64
GUARD = 64


class WasmModule:
    """One instance with memory of its own. `run` is the whole interface."""

    def __init__(self, code: bytes) -> None:
        config = wasmtime.Config()
        config.wasm_relaxed_simd = True
        self._store = wasmtime.Store(wasmtime.Engine(config))
        module = wasmtime.Module(self._store.engine, code)
        assert [(i.module, i.name) for i in module.imports] == [("env", "memory")]
        self._memory = wasmtime.Memory(self._store, wasmtime.MemoryType(wasmtime.Limits(1, 65536)))
        self._exports = wasmtime.Instance(self._store, module, [self._memory]).exports(self._store)
        self._base = int(self._exports["__heap_base"].value(self._store))

    def run(
        self, entry: str, arrays: Sequence[NDArray], items: int, pieces: Sequence[tuple[int, int]] | None = None
    ) -> list[NDArray]:
        """Compute `items` items (or just `pieces` of them, in order); returns every array as it is afterwards."""
        addresses, at = [], _aligned(self._base)
        for array in arrays:
            addresses.append(at)
            at = _aligned(at + array.nbytes + GUARD)
        missing = -(-at // PAGE) - self._memory.size(self._store)
        if missing > 0:
            self._memory.grow(self._store, missing)
        for address, array in zip(addresses, arrays, strict=True):
            data = np.ascontiguousarray(array).tobytes()
            self._memory.write(self._store, data + b"\xff" * GUARD, address)
        for begin, end in pieces or [(0, items)]:
            self._exports[entry](self._store, *addresses, begin, end)
        return [self._read(address, array) for address, array in zip(addresses, arrays, strict=True)]

    def _read(self, address: int, like: NDArray) -> NDArray:
        data = bytes(self._memory.read(self._store, address, address + like.nbytes + GUARD))
        assert data[like.nbytes :] == b"\xff" * GUARD, "the kernel wrote beyond the end of a buffer"
        return np.frombuffer(data[: like.nbytes], like.dtype).reshape(like.shape)


def _aligned(address: int) -> int:
    return -(-address // ALIGNMENT) * ALIGNMENT
