"""Replays a plan of the CPU outside the browser, on one thread of wasmtime: the very modules that browsers get.

Knows what `compiler/FORMAT.md` says of CPU plans; what a program is run for, `session` knows. Correct, not fast:
wasmtime compiles the same code another way than browsers do, so nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import wasmtime

from compiler.artifact import Artifact
from compiler.errors import WispError
from compiler.session import ReadRows, Session, initial_content

PAGE = 65536
ALIGNMENT = 64  # bytes, of every buffer
SLACK = 64  # bytes that a kernel may read beyond the last buffer
LIMIT = 7 * 2**29  # 3.5 GiB: what a 32-bit memory is filled up to


class WasmRuntime(Session):
    """A plan's module, instantiated, its buffers in one memory. Raises WispError when they exceed 3.5 GiB."""

    def __init__(self, plan: Mapping[str, Any], module: bytes, read_rows: ReadRows, constants: bytes) -> None:
        super().__init__(plan)
        config = wasmtime.Config()
        config.wasm_relaxed_simd = True
        engine = wasmtime.Engine(config)
        self._store = wasmtime.Store(engine)
        self._memory = wasmtime.Memory(self._store, wasmtime.MemoryType(wasmtime.Limits(1, 65536)))
        instance = wasmtime.Instance(self._store, wasmtime.Module(engine, module), [self._memory])
        self._exports = instance.exports(self._store)
        base: Any = self._exports["__heap_base"]
        self._addresses, end = _addresses(plan, int(base.value(self._store)))
        if end > LIMIT:
            raise WispError(
                "the model does not fit the memory of WebAssembly",
                got=f"{end} bytes",
                expected=f"at most {LIMIT}",
                remedy="compile it with a smaller --context",
            )
        self._memory.grow(self._store, -(-end // PAGE) - 1)
        self._buffers: dict[str, tuple[int, int]] = {}
        for address, buffer in zip(self._addresses, plan["buffers"], strict=True):
            if buffer["kind"] != "scratch":
                self._buffers[buffer["name"]] = (address, buffer["bytes"])
            data = initial_content(buffer, read_rows, constants)
            if data is not None:
                self._memory.write(self._store, data, address)

    def write(self, name: str, data: bytes, offset: int = 0) -> None:
        self._memory.write(self._store, data, self._buffers[name][0] + offset)

    def read(self, name: str, dtype: str = "float32") -> np.ndarray:
        address, size = self._buffers[name]
        return np.frombuffer(self._memory.read(self._store, address, address + size), dtype)

    def run(self, program: str) -> None:
        for dispatch in self.plan["programs"][program]:
            function: Any = self._exports[self.plan["kernels"][dispatch["kernel"]]["entry"]]
            function(self._store, *(self._addresses[i] for i in dispatch["bind"]), 0, dispatch["grid"][0])


def _addresses(plan: Mapping[str, Any], base: int) -> tuple[list[int], int]:
    """Where each buffer lies, and the end of memory."""
    addresses, at = [], -(-base // ALIGNMENT) * ALIGNMENT
    for buffer in plan["buffers"]:
        addresses.append(at)
        at += -(-buffer["bytes"] // ALIGNMENT) * ALIGNMENT
    return addresses, at + SLACK


def open_wasm_variant(artifact: Artifact, name: str, relaxed: bool = False) -> WasmRuntime:
    """A CPU variant of an artifact; with `relaxed` the module for engines that have relaxed SIMD."""
    entry = next(variant for variant in artifact.model["variants"] if variant["name"] == name)
    return WasmRuntime(
        artifact.plans[name],
        (artifact.path / entry["kernels_relaxed" if relaxed else "kernels"]).read_bytes(),
        lambda tensor, start, stop: artifact.tensor(tensor, start, stop).tobytes(),
        artifact.constants(),
    )
