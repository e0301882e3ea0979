"""Runs single kernels on a wgpu device: render, bind, dispatch, read back. Knows nothing of plans or models.

Every buffer has a guard of `GUARD` bytes of ones behind it (NaN in every float type): a kernel that reads beyond its
buffer computes NaN, one that writes there is caught when the guard comes back changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import wgpu
from numpy.typing import NDArray
from tvm import tirx

from compiler.lowering import wgsl
from compiler.runtime.wgpu import missing_features, native_source

GUARD = 64
# WebGPU's, https://www.w3.org/TR/webgpu/#limits; wgpu would otherwise give all that the adapter has.
DEFAULT_LIMITS = {
    "max-storage-buffers-per-shader-stage": 8,
    "max-storage-buffer-binding-size": 128 << 20,
    "max-compute-workgroup-storage-size": 16384,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroups-per-dimension": 65535,
}
USAGE = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC


@dataclass(frozen=True)
class Compiled:
    """A kernel on the device; `names` are its PrimFunc's parameters in binding order."""

    info: wgsl.KernelInfo
    names: tuple[str, ...]
    layout: Any
    pipeline: Any


@dataclass(frozen=True)
class Gpu:
    """A device and what it can do."""

    adapter: Any
    device: Any
    f16: bool
    subgroups: bool

    @classmethod
    def open(cls, adapter: Any) -> Gpu:
        """A device of WebGPU's default limits, with the features that kernels may use where the adapter has them."""
        f16, subgroups = (not missing_features(adapter, [name]) for name in ("shader-f16", "subgroups"))
        features = [name for name, there in (("shader-f16", f16), ("subgroup", subgroups)) if there]
        device = adapter.request_device_sync(required_features=features, required_limits=DEFAULT_LIMITS)
        return cls(adapter, device, f16, subgroups)

    def compile(self, function: tirx.PrimFunc, subgroups: bool = False) -> Compiled:
        """Render a kernel and make its pipeline."""
        info = wgsl.render(function, "kernel_under_test")
        source = native_source(wgsl.join({info.entry: info}, subgroups))
        entries = [
            {
                "binding": i,
                "visibility": wgpu.ShaderStage.COMPUTE,
                "buffer": {"type": "storage" if access == "read_write" else "read-only-storage"},
            }
            for i, access in enumerate(info.bindings)
        ]
        layout = self.device.create_bind_group_layout(entries=entries)
        pipeline = self.device.create_compute_pipeline(
            layout=self.device.create_pipeline_layout(bind_group_layouts=[layout]),
            compute={"module": self.device.create_shader_module(code=source), "entry_point": info.entry},
        )
        parameters = [parameter.name for parameter in function.params]
        return Compiled(info, tuple(parameters[i] for i in info.parameters), layout, pipeline)

    def run(
        self, calls: Sequence[Compiled], arrays: Mapping[str, NDArray[Any]], repeat: int = 1
    ) -> dict[str, NDArray[Any]]:
        """Dispatch the kernels in order, `repeat` times; a kernel's parameter takes the array of its name.

        Returns the content, afterwards, of every array that a kernel may write.
        """
        buffers = {name: self._upload(array) for name, array in arrays.items()}
        encoder = self.device.create_command_encoder()
        compute = encoder.begin_compute_pass()
        groups = [self._bind(call, buffers) for call in calls]
        for _ in range(repeat):
            for call, group in zip(calls, groups, strict=True):
                compute.set_pipeline(call.pipeline)
                compute.set_bind_group(0, group)
                compute.dispatch_workgroups(*call.info.grid)
        compute.end()
        self.device.queue.submit([encoder.finish()])
        written = {
            name: arrays[name]
            for call in calls
            for name, access in zip(call.names, call.info.bindings, strict=True)
            if access == "read_write"
        }
        return {name: self._download(name, buffers[name], array) for name, array in written.items()}

    def run_kernel(
        self, function: tirx.PrimFunc, arrays: Mapping[str, NDArray[Any]], subgroups: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Render one kernel, dispatch it once, and return what it may have written."""
        compiled = self.compile(function, subgroups)
        unknown = set(arrays) ^ set(compiled.names)
        if unknown:
            raise ValueError(f"the kernel binds {compiled.names}, the test gives {sorted(arrays)}")
        return self.run([compiled], arrays)

    def _bind(self, call: Compiled, buffers: Mapping[str, Any]) -> Any:
        entries = [
            {"binding": i, "resource": {"buffer": buffers[name], "offset": 0, "size": buffers[name].size}}
            for i, name in enumerate(call.names)
        ]
        return self.device.create_bind_group(layout=call.layout, entries=entries)

    def _upload(self, array: NDArray[Any]) -> Any:
        data = np.ascontiguousarray(array).tobytes()
        size = -(-len(data) // 16) * 16 + GUARD
        buffer = self.device.create_buffer(size=size, usage=USAGE)
        self.device.queue.write_buffer(buffer, 0, data.ljust(size, b"\xff"))
        return buffer

    def _download(self, name: str, buffer: Any, like: NDArray[Any]) -> NDArray[Any]:
        data = bytes(self.device.queue.read_buffer(buffer))
        content, guard = data[: like.nbytes], data[like.nbytes :]
        assert guard == b"\xff" * len(guard), f"the kernel wrote beyond the end of {name}"
        return np.frombuffer(content, like.dtype).reshape(like.shape)


def poison(shape: int | tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An array of bytes of ones: NaN, or the largest integer."""
    array = np.empty(shape, dtype)
    array.view(np.uint8)[...] = 0xFF
    return array


def assert_close(got: NDArray[Any], want: NDArray[Any], tolerance: float = 1e-5) -> None:
    """Every element within `tolerance` of the largest wanted one: f32 sums allow 1e-5, rounding to f16 1e-3."""
    assert got.shape == want.shape
    assert np.isfinite(got).all(), f"{np.count_nonzero(~np.isfinite(got))} of {got.size} elements were not written"
    error = np.abs(got.astype(np.float64) - want)
    worst = np.unravel_index(error.argmax(), error.shape)
    largest = np.abs(want).max()
    assert error[worst] <= tolerance * largest, f"{got[worst]} instead of {want[worst]} at {worst} (largest {largest})"


def assert_untouched(array: NDArray[Any]) -> None:
    """Nothing was written over the poison."""
    assert (np.ascontiguousarray(array).view(np.uint8) == 0xFF).all()
