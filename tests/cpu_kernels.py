"""What the tests of the CPU's kernels share: kernels in modules, poisoned arrays, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from compiler.kernels.cpu.activation import Layout
from compiler.lowering import wasm
from tests.wasm_module import WasmModule

STATE_WORDS = 192
RELAXED = (False, True)
TOLERANCE = 2e-6  # of the largest wanted element: sums of f32 products err by 3e-7

Arrays = dict[str, NDArray[Any]]


class Modules:
    """Kernels by name, in two modules: without and with relaxed SIMD."""

    def __init__(self, functions: Mapping[str, tirx.PrimFunc]) -> None:
        self._names = {n: [p.name for p in f.params][: len(f.attrs["wisp.bindings"])] for n, f in functions.items()}
        self.items = {name: int(function.attrs["wisp.grid"][0]) for name, function in functions.items()}
        compiled = wasm.compile_modules(functions, RELAXED)
        self._modules = {relaxed: WasmModule(module) for relaxed, module in zip(RELAXED, compiled, strict=True)}

    def run(
        self, name: str, arrays: Arrays, relaxed: bool = False, pieces: Sequence[tuple[int, int]] | None = None
    ) -> Arrays:
        """Every array as it is afterwards."""
        names = self._names[name]
        assert set(arrays) == set(names), f"{name} binds {names}"
        results = self._modules[relaxed].run(name, [arrays[n] for n in names], self.items[name], pieces)
        return dict(zip(names, results, strict=True))

    def same_in_pieces(self, name: str, arrays: Arrays, whole: Arrays) -> bool:
        """Whether single items and random pieces, in random order, give the bytes that they give in one go."""
        rng, items = np.random.default_rng(0), self.items[name]
        cuts = sorted({0, items, *rng.integers(0, items + 1, 4).tolist()})
        for edges in (list(range(items + 1)), cuts):
            pieces = list(pairwise(edges))
            got = self.run(name, arrays, pieces=[pieces[i] for i in rng.permutation(len(pieces))])
            if any(got[n].tobytes() != whole[n].tobytes() for n in got):
                return False
        return True


def poison(shape: int | tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """An array of bytes of ones: NaN, or the largest integer."""
    array = np.empty(shape, dtype)
    array.view(np.uint8)[...] = 0xFF
    return array


def assert_close(got: NDArray[Any], want: NDArray[Any], tolerance: float = TOLERANCE) -> None:
    """Every element within `tolerance` of the largest wanted one."""
    assert got.shape == want.shape
    assert np.isfinite(got).all(), f"{np.count_nonzero(~np.isfinite(got))} of {got.size} elements were not written"
    error = np.abs(got.astype(np.float64) - want)
    worst = np.unravel_index(error.argmax(), error.shape)
    largest = np.abs(want).max()
    assert error[worst] <= tolerance * largest, f"{got[worst]} instead of {want[worst]} at {worst} (largest {largest})"


def assert_untouched(array: NDArray[Any]) -> None:
    assert (np.ascontiguousarray(array).view(np.uint8) == 0xFF).all()


def state(position: int = 0, length: int = 0) -> NDArray[np.uint32]:
    words: NDArray[np.uint32] = poison(STATE_WORDS, "uint32")
    words[:3] = position, 0xFFFFFFFF, length
    return words


def rows_in_steps(values: NDArray[np.int16], scales: NDArray[np.float32], layout: Layout) -> NDArray[np.float64]:
    """What quantized activations stand for, (rows, K), from the layout that `activation` describes."""
    rows = len(scales)
    steps = values.reshape(rows, layout.blocks, layout.block)
    if layout.planes:  # vector v, lane i: column (vectors) i + v
        steps = steps.reshape(rows, layout.blocks, -1, 8).swapaxes(2, 3).reshape(steps.shape)
    wide = steps.astype(np.float64) * scales[:, : layout.blocks, None]
    out: NDArray[np.float64] = wide.reshape(rows, -1)[:, : layout.k]
    return out
