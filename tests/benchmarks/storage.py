"""How fast the kernels read each storage scheme: weight bytes a second of a mat-vec and of a product, in one run.

    python -m tests.benchmarks.storage                        # every quantized scheme, GPU and WebAssembly
    python -m tests.benchmarks.storage --backend wasm --schemes q4f16_1 q4af16_g32

Times are the least of some rounds, in which the schemes take turns. Where the CPU computes, they are CPU time, which
other processes on the machine do not add to. The last two columns compare with the first scheme: weights, and bytes of
weights, a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from compiler.kernels import epilogue
from compiler.kernels.cpu import activation, products
from compiler.kernels.cpu.activation import Layout
from compiler.kernels.epilogue import OneRow
from compiler.kernels.shapes import MatrixShape
from compiler.kernels.webgpu import matmul, matvec
from compiler.kernels.webgpu.tuning import TUNING
from compiler.lowering import wasm
from compiler.models.base import matrix
from compiler.runtime.wgpu import request_adapter
from compiler.weights.quantize import quantize
from compiler.weights.schemes import SCHEMES
from compiler.weights.storage import Storage
from tests.cpu_kernels import STATE_WORDS, Arrays, poison, state
from tests.device.harness import Gpu
from tests.wasm_module import WasmModule

ROWS, COLUMNS = 1024, 2048
CHUNK = 32
REPEATS = {"mat-vec": 16, "product": 2}
ROUNDS = 7


@dataclass(frozen=True)
class Run:
    """A kernel of one scheme: `run(n)` runs it n times; `time` is the clock for it."""

    kind: str
    scheme: str
    weight_bytes: int
    run: Callable[[int], object]
    time: Callable[[], float]


def stored(scheme: str) -> list[NDArray]:
    """A random matrix: words, scales."""
    weight = np.random.default_rng(0).normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
    return [array for _, array in quantize(matrix("m", COLUMNS, {"m": ROWS}, "down", 0), weight, SCHEMES[scheme])]


def activations(kind: str) -> tuple[NDArray[np.float32], int]:
    chunk = 1 if kind == "mat-vec" else CHUNK
    return np.random.default_rng(1).normal(0, 1, (chunk, COLUMNS)).astype(np.float32), chunk


def gpu_runs(schemes: list[str]) -> list[Run]:
    """On the adapter that the native runtime takes."""
    gpu = Gpu.open(request_adapter())
    variant = "webgpu-f32-sg" if gpu.subgroups else "webgpu-f32"
    tuning, clock = TUNING[variant], time.perf_counter
    if gpu.adapter.info["adapter_type"] == "CPU":
        clock = time.process_time
    print(f"WebGPU: {gpu.adapter.info['device']}, kernels of {variant}")
    runs = []
    for scheme in schemes:
        storage, (weights, scales) = SCHEMES[scheme].storage, stored(scheme)
        for kind in REPEATS:
            x, chunk = activations(kind)
            declare = epilogue.Store(chunk, ROWS)
            arrays: Arrays = {"x": x, "weights": weights, "scales": scales, "out": poison((chunk, ROWS), "float32")}
            shape = MatrixShape(storage, chunk, ROWS, COLUMNS, ROWS, OneRow(), declare, STATE_WORDS)
            if chunk == 1:
                kernel = matvec.matvec(kind, shape, tuning.single)
            else:
                kernel = matmul.matmul(kind, shape, tuning.tiling)
                arrays["state"] = state(0, chunk)
            compiled = gpu.compile(kernel, gpu.subgroups)

            def run(times: int, compiled=compiled, arrays=arrays) -> object:
                return gpu.run([compiled], arrays, times)

            runs.append(Run(kind, scheme, weights.nbytes + scales.nbytes, run, clock))
    return runs


def wasm_runs(schemes: list[str]) -> list[Run]:
    """In wasmtime, one thread."""
    print("WebAssembly: wasmtime, one thread")
    runs = []
    for scheme in schemes:
        storage, (weights, scales) = SCHEMES[scheme].storage, stored(scheme)
        for kind in REPEATS:
            x, chunk = activations(kind)
            kernel = wasm_kernel(kind, storage, chunk)
            module, items = WasmModule(wasm.compile_module({kind: kernel}, True)), int(kernel.attrs["wisp.grid"][0])
            values = activation.quantize_rows(x, Layout.of(storage, COLUMNS))
            more = [state(0, chunk)] if chunk > 1 else []
            arrays = [*values, weights, scales, *more, poison((chunk, ROWS), "float32")]

            def run(times: int, module=module, kind=kind, arrays=arrays, items=items) -> object:
                return module.run(kind, arrays, items, [(0, items)] * times)

            runs.append(Run(kind, scheme, weights.nbytes + scales.nbytes, run, time.process_time))
    return runs


def wasm_kernel(kind: str, storage: Storage, chunk: int) -> tirx.PrimFunc:
    shape = MatrixShape(storage, chunk, ROWS, COLUMNS, ROWS, OneRow(), epilogue.Store(chunk, ROWS), STATE_WORDS)
    return (products.matvec if chunk == 1 else products.matmul)(kind, shape)


def seconds(runs: list[Run]) -> dict[tuple[str, str], float]:
    """The least time of each kernel, by kind and scheme, without what a call costs that runs it once."""
    best: dict[tuple[str, str, int], float] = {}
    for _ in range(ROUNDS):
        for run in runs:
            for count in (1, 1 + REPEATS[run.kind]):
                started = run.time()
                run.run(count)
                key = run.kind, run.scheme, count
                best[key] = min(best.get(key, float("inf")), run.time() - started)
    return {
        (run.kind, run.scheme): (best[run.kind, run.scheme, 1 + REPEATS[run.kind]] - best[run.kind, run.scheme, 1])
        / REPEATS[run.kind]
        for run in runs
    }


def show(runs: list[Run]) -> None:
    best = seconds(runs)
    for kind in REPEATS:
        first = next(run for run in runs if run.kind == kind)
        base = best[kind, first.scheme]
        print(f"{kind:12} {'ms':>8} {'GB/s':>7} {'weights':>8} {'bytes':>6}")
        for run in (run for run in runs if run.kind == kind):
            own = best[kind, run.scheme]
            ratio = base / own
            print(
                f"  {run.scheme:10} {own * 1e3:8.3f} {run.weight_bytes / own / 1e9:7.3f} {ratio:8.2f}"
                f" {ratio * run.weight_bytes / first.weight_bytes:6.2f}"
            )


def main() -> None:
    quantized = [name for name, scheme in SCHEMES.items() if scheme.group_size]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["webgpu", "wasm"])
    parser.add_argument("--schemes", nargs="+", choices=quantized, default=quantized)
    options = parser.parse_args()
    for name, make in (("webgpu", gpu_runs), ("wasm", wasm_runs)):
        if options.backend in (None, name):
            show(make(options.schemes))


if __name__ == "__main__":
    main()
