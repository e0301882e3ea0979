"""Replays a plan of the CPU outside the browser, on one thread of wasmtime: the very modules that browsers get.

Knows what `artifact/FORMAT.md` says of CPU plans; what a program is run for, `session` knows. Correct, not fast:
wasmtime compiles the same code another way than browsers do, so nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import wasmtime

from ..artifact.writer import Artifact
from ..errors import WispError
from .session import ReadRows, Session, initial_content

PAGE = 65536
ALIGNMENT = 64  # bytes, of every buffer
SLACK = 64  # bytes that a kernel may read beyond the last buffer
LIMIT = 2**32 - PAGE  # bytes: what a 32-bit memory is filled up to


class WasmRuntime(Session):
    """A plan's module, instantiated, its buffers in one memory. Raises WispError when they exceed 4 GiB.

    `positions` are those that the KV cache holds; None: the whole context. Without `resident` only the weights of one
    dispatch are in memory, read anew for each: any model fits, at the cost of reading it once a token.
    """

    def __init__(
        self,
        plan: Mapping[str, Any],
        module: bytes,
        read_rows: ReadRows,
        constants: bytes,
        *,
        positions: int | None = None,
        resident: bool = True,
    ) -> None:
        super().__init__(plan)
        self.capacity = plan["context"] if positions is None else positions
        self._read_rows, self._resident = read_rows, resident
        config = wasmtime.Config()
        config.wasm_relaxed_simd = True
        engine = wasmtime.Engine(config)
        self._store = wasmtime.Store(engine)
        self._memory = wasmtime.Memory(self._store, wasmtime.MemoryType(wasmtime.Limits(1, 65536)))
        instance = wasmtime.Instance(self._store, wasmtime.Module(engine, module), [self._memory])
        self._exports = instance.exports(self._store)
        base: Any = self._exports["__heap_base"]
        sizes = [self._size(buffer, positions) for buffer in plan["buffers"]]
        self._addresses, self._arena = _addresses(sizes, int(base.value(self._store)))
        self._streamed: dict[int, int] = {}  # address by buffer of the weights in the arena behind the other buffers
        end = self._arena + (0 if resident else self._arena_bytes()) + SLACK
        if end > LIMIT:
            raise WispError(
                "the model does not fit the memory of WebAssembly",
                got=f"{end} bytes",
                expected=f"at most {LIMIT}",
                remedy="compile it with a smaller --context",
            )
        self._memory.grow(self._store, -(-end // PAGE) - 1)
        self._buffers: dict[str, tuple[int, int]] = {}
        for address, size, buffer in zip(self._addresses, sizes, plan["buffers"], strict=True):
            if self._streams(buffer):
                continue
            if buffer["kind"] != "scratch":
                self._buffers[buffer["name"]] = (address, size)
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
            streamed = self._stream(dispatch["bind"])
            addresses = [streamed.get(i, self._addresses[i]) for i in dispatch["bind"]]
            function: Any = self._exports[self.plan["kernels"][dispatch["kernel"]]["entry"]]
            function(self._store, *addresses, 0, dispatch["grid"][0])

    def _streams(self, buffer: Mapping[str, Any]) -> bool:
        return not self._resident and buffer["kind"] == "weight"

    def _size(self, buffer: Mapping[str, Any], positions: int | None) -> int:
        """Bytes that a buffer keeps for itself."""
        if self._streams(buffer):
            return 0
        if buffer["kind"] == "kv" and positions is not None:
            return buffer["bytes_per_position"] * positions
        return buffer["bytes"]

    def _weights(self, bind: Sequence[int]) -> list[int]:
        """Those of the bound buffers that are streamed."""
        return [i for i in dict.fromkeys(bind) if self._streams(self.plan["buffers"][i])]

    def _arena_bytes(self) -> int:
        """What the weights of the largest dispatch take."""
        buffers, programs = self.plan["buffers"], self.plan["programs"].values()
        binds = (self._weights(dispatch["bind"]) for program in programs for dispatch in program)
        return max(sum(_aligned(buffers[i]["bytes"]) for i in bind) for bind in binds)

    def _stream(self, bind: Sequence[int]) -> dict[int, int]:
        """Reads the weights that a dispatch binds, where they are streamed, and says where they are."""
        weights = self._weights(bind)
        if weights and weights != list(self._streamed):
            buffers = self.plan["buffers"]
            addresses, _ = _addresses([buffers[i]["bytes"] for i in weights], self._arena)
            for i, address in zip(weights, addresses, strict=True):
                buffer = buffers[i]
                self._memory.write(self._store, self._read_rows(buffer["name"], *buffer["rows"]), address)
            self._streamed = dict(zip(weights, addresses, strict=True))
        return self._streamed


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _addresses(sizes: Iterable[int], base: int) -> tuple[list[int], int]:
    """Where buffers of these sizes lie one behind the other, and the end of the last."""
    addresses, at = [], _aligned(base)
    for size in sizes:
        addresses.append(at)
        at += _aligned(size)
    return addresses, at


def open_wasm_variant(
    artifact: Artifact, name: str, relaxed: bool = False, positions: int | None = None
) -> WasmRuntime:
    """A CPU variant of an artifact; with `relaxed` the module for engines that have relaxed SIMD."""
    entry = next(variant for variant in artifact.model["variants"] if variant["name"] == name)
    return WasmRuntime(
        artifact.plans[name],
        (artifact.path / entry["kernels_relaxed" if relaxed else "kernels"]).read_bytes(),
        lambda tensor, start, stop: artifact.tensor(tensor, start, stop).tobytes(),
        artifact.constants(),
        positions=positions,
    )
