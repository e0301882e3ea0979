"""The elementary functions that the CPU's kernels bring along, in wasmtime, against numpy in f64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.kernels.builder import ceil_div
from compiler.kernels.cpu import builder
from tests.cpu_kernels import RELAXED, Modules, poison

COUNT = 4096
FUNCTIONS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "exp": (builder.exp, "float32"),
    "log": (builder.log, "float32"),
    "half": (builder.f16_bits_to_f32, "uint16"),
    "to_half": (lambda kernel, x: builder.convert(builder.f32_to_f16_bits(kernel, x), "float32"), "float32"),
}


@pytest.fixture(scope="module")
def elementary() -> Modules:
    functions = {}
    for label, (make, dtype) in FUNCTIONS.items():
        for lanes in (1, 4):
            with builder.CpuKernel(f"{label}_{lanes}") as kernel:
                x, out = kernel.buffer("x", COUNT, dtype), kernel.buffer("out", COUNT, "float32")
                item, _ = kernel.grid(ceil_div(COUNT, lanes))
                if lanes == 1:
                    out[item] = make(kernel, kernel.let(x[item]))
                else:
                    builder.store(out, item * 4, make(kernel, kernel.let(builder.load(x, item * 4, 4))))
            functions[f"{label}_{lanes}"] = kernel.function
    return Modules(functions)


def ulps(got: NDArray[np.float32], want: NDArray[np.float64]) -> float:
    """The largest error, in units in the last place of the wanted value."""
    assert np.isfinite(got).all()
    return float((np.abs(got - want) / np.spacing(np.abs(want).astype(np.float32))).max())


def evaluate(elementary: Modules, label: str, x: NDArray[Any], relaxed: bool) -> NDArray[np.float32]:
    """The function of each x, which scalars and vectors have to agree on."""
    padded = np.resize(x, ceil_div(len(x), COUNT) * COUNT)
    results = []
    for lanes in (1, 4):
        parts = [
            elementary.run(f"{label}_{lanes}", {"x": part, "out": poison(COUNT)}, relaxed)["out"]
            for part in padded.reshape(-1, COUNT)
        ]
        results.append(np.concatenate(parts)[: len(x)])
    np.testing.assert_array_equal(results[0], results[1])
    return results[1]


@pytest.mark.parametrize("relaxed", RELAXED)
def test_exp(elementary: Modules, relaxed: bool) -> None:
    """Two units in the last place from -87 to 88; beyond, clamped: never infinite, never negative, never NaN."""
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-87.3, 88.3, 40_000), rng.normal(0, 1e-3, 8000), [0.0, -0.0, 1e-45, 1.0]])
    x = x.astype(np.float32)
    assert ulps(evaluate(elementary, "exp", x, relaxed), np.exp(x.astype(np.float64))) <= 2
    far = np.array([-1e30, -1000, -88, 89, 1000, 1e30, -np.inf, np.inf], np.float32)
    got = evaluate(elementary, "exp", far, relaxed)
    assert ((got[:3] >= 0) & (got[:3] < 1.3e-38)).all()
    assert (got[3:6] > 2.2e38).all()
    assert np.isfinite(got).all()


@pytest.mark.parametrize("relaxed", RELAXED)
def test_log(elementary: Modules, relaxed: bool) -> None:
    """Two units in the last place over every normal number; near 1 absolutely, where the logarithm vanishes."""
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [np.exp(rng.uniform(-87.3, 88.7, 40_000)), 2.0 ** np.arange(-126, 128), rng.uniform(0.5, 2, 8000)]
    )
    x = x.astype(np.float32)
    want = np.log(x.astype(np.float64))
    got = evaluate(elementary, "log", x, relaxed)
    assert (np.abs(got - want) <= np.maximum(2 * np.spacing(np.abs(want).astype(np.float32)), 6e-8)).all()
    assert got[x == 1].tolist() == [0.0] * int((x == 1).sum())


@pytest.mark.parametrize("relaxed", RELAXED)
def test_half_precision_is_exact(elementary: Modules, relaxed: bool) -> None:
    """Every finite value of 16 bits, subnormal ones and both zeros among them."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    got = evaluate(elementary, "half", halves.view(np.uint16), relaxed)
    np.testing.assert_array_equal(got.view(np.uint32), halves.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("relaxed", RELAXED)
def test_rounding_to_half_precision(elementary: Modules, relaxed: bool) -> None:
    """As numpy rounds: every half, what lies midway between two and just beside, and any number; clamped."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    beside = [np.nextafter(middles, np.float32(end)) for end in (0, np.inf)]
    others = np.random.default_rng(2).integers(0, 0x7F800000, 20_000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([halves, middles, *beside, others, [np.float32(np.inf)]])
    x = np.concatenate([x, -x])
    want = np.clip(x, -65504, 65504).astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(evaluate(elementary, "to_half", x, relaxed).astype(np.uint16), want)
