"""What a device can do at most: bytes read, bytes copied, multiply-adds in a loop. What programs are held against.

Knows devices; nothing of plans. `web/src/bench/device.ts` measures the same in a browser, with the same shaders' twins.
"""

import statistics
import struct
import time
from collections.abc import Callable
from typing import Any

import wgpu

from ..runtime.wgpu import NATIVE_FEATURES, missing_features

RUNS = 5
SECONDS = 0.1  # a measurement takes about this long
COPY_BYTES = 128 << 20

COPY_KERNEL = """
@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> destination: array<vec4<f32>>;
@compute @workgroup_size(256) fn copy(@builtin(global_invocation_id) at: vec3<u32>) {
  if (at.x < arrayLength(&source)) { destination[at.x] = source[at.x]; }
}
"""

# The loop's bound and stride are the grid's: every invocation reads on, each time beside its neighbours.
READ_WORKGROUPS = 1024
READ_KERNEL = """
@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;
@compute @workgroup_size(256) fn read_all(@builtin(global_invocation_id) at: vec3<u32>) {
  var sum = vec4<u32>();
  for (var i = at.x; i < arrayLength(&source); i += READ_WORKGROUPSu * 256u) { sum += source[i]; }
  sums[at.x] = sum.x + sum.y + sum.z + sum.w;
}
""".replace("READ_WORKGROUPS", str(READ_WORKGROUPS))

# Eight chains of four lanes a thread, so that no multiply-add waits for the one before it. x = x / 2 + 1 comes to rest
# at 2, which shows that the loop has run; factor and summand come from memory, so that no compiler can know them.
CHAINS, LANES, ROUNDS, WORKGROUP = 8, 4, 512, 256
MULTIPLY_ADDS_A_THREAD = CHAINS * LANES * ROUNDS
ARRIVED = 2.0 * CHAINS * LANES
MULTIPLY_ADD_KERNEL = """
@group(0) @binding(0) var<storage, read> factors: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@compute @workgroup_size(WORKGROUP) fn multiply_add(@builtin(global_invocation_id) at: vec3<u32>) {
  let a = vec4<TYPE>(TYPE(factors[0]));
  let b = vec4<TYPE>(TYPE(factors[1]));
  let start = vec4<TYPE>(TYPE(at.x & 1u));
  var x0 = start; var x1 = start + b; var x2 = x1 + b; var x3 = x2 + b;
  var x4 = x3 + b; var x5 = x4 + b; var x6 = x5 + b; var x7 = x6 + b;
  for (var i = 0u; i < ROUNDSu; i++) {
    x0 = fma(x0, a, b); x1 = fma(x1, a, b); x2 = fma(x2, a, b); x3 = fma(x3, a, b);
    x4 = fma(x4, a, b); x5 = fma(x5, a, b); x6 = fma(x6, a, b); x7 = fma(x7, a, b);
  }
  let x = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7));
  sums[at.x] = f32(x.x + x.y + x.z + x.w);
}
"""


def multiply_add_source(dtype: str) -> str:
    """The loop over `f32` or `f16`, as WGSL."""
    source = MULTIPLY_ADD_KERNEL.replace("TYPE", dtype)
    source = source.replace("WORKGROUP", str(WORKGROUP)).replace("ROUNDS", str(ROUNDS))
    return f"enable f16;\n{source}" if dtype == "f16" else source


def measure_device(adapter: Any) -> dict[str, Any]:
    """`bandwidth` and `multiply_adds` of an adapter, on a device of its own. Raises RuntimeError for wrong results."""
    has_f16 = not missing_features(adapter, ["shader-f16"])
    device = adapter.request_device_sync(required_features=[NATIVE_FEATURES.get("shader-f16", "shader-f16")] * has_f16)
    return {
        "bandwidth": measure_bandwidth(device),
        "multiply_adds": {
            "f32_per_second": measure_multiply_adds(device, "f32"),
            "f16_per_second": measure_multiply_adds(device, "f16") if has_f16 else None,
        },
    }


def measure_bandwidth(device: Any, size: int = COPY_BYTES) -> dict[str, Any]:
    """Bytes a second of reading alone, and read and written of a copy by a kernel and by the queue; the fastest counts.

    A step reads its weights and writes next to nothing: where memory turns around between reads and writes, a copy says
    too little.
    """
    size = min(size, device.limits["max-storage-buffer-binding-size"])
    usage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST
    source, destination = (device.create_buffer(size=size, usage=usage) for _ in range(2))
    pipeline, group = _pipeline(device, COPY_KERNEL, "copy", (source, destination))

    def by_kernel(encoder: Any) -> None:
        compute = encoder.begin_compute_pass()
        compute.set_pipeline(pipeline)
        compute.set_bind_group(0, group)
        compute.dispatch_workgroups(-(-size // 16 // 256))
        compute.end()

    def by_queue(encoder: Any) -> None:
        encoder.copy_buffer_to_buffer(source, 0, destination, 0, size)

    rates = {
        name: 2 * size / seconds_each(device, copy, destination)
        for name, copy in (("kernel", by_kernel), ("queue", by_queue))
    }
    pipeline_of_read, group_of_read = _pipeline(device, READ_KERNEL, "read_all", (source, destination))

    def by_reading(encoder: Any) -> None:
        compute = encoder.begin_compute_pass()
        compute.set_pipeline(pipeline_of_read)
        compute.set_bind_group(0, group_of_read)
        compute.dispatch_workgroups(READ_WORKGROUPS)
        compute.end()

    reading = size / seconds_each(device, by_reading, destination)
    for buffer in (source, destination):
        buffer.destroy()
    return {
        "bytes_per_second": max(reading, *rates.values()),
        "read_bytes_per_second": reading,
        "copy_kernel_bytes_per_second": rates["kernel"],
        "copy_queue_bytes_per_second": rates["queue"],
        "buffer_bytes": size,
    }


def measure_multiply_adds(device: Any, dtype: str, workgroups: int = 4096) -> float:
    """Fused multiply-adds a second, of `f32` or `f16`. Raises RuntimeError when the loop has not run."""
    usage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST
    factors = device.create_buffer(size=16, usage=usage)
    sums = device.create_buffer(size=4 * workgroups * WORKGROUP, usage=usage)
    device.queue.write_buffer(factors, 0, struct.pack("<ff", 0.5, 1.0))
    pipeline, group = _pipeline(device, multiply_add_source(dtype), "multiply_add", (factors, sums))
    # A software adapter takes a second for what a GPU does in a millisecond: begin with one workgroup a core or so.
    count = 16

    def run(encoder: Any) -> None:
        compute = encoder.begin_compute_pass()
        compute.set_pipeline(pipeline)
        compute.set_bind_group(0, group)
        compute.dispatch_workgroups(count)
        compute.end()

    while count < workgroups and _seconds(device, run, 1, sums) < SECONDS / 16:
        count *= 2
    each = seconds_each(device, run, sums)
    arrived = struct.unpack("<f", device.queue.read_buffer(sums, 4 * (count * WORKGROUP - 1), 4))[0]
    for buffer in (factors, sums):
        buffer.destroy()
    if arrived != ARRIVED:
        raise RuntimeError(f"the loop of multiply-adds of {dtype} ends at {arrived}, expected {ARRIVED}")
    return MULTIPLY_ADDS_A_THREAD * WORKGROUP * count / each


def seconds_each(device: Any, record: Callable[[Any], None], written: Any) -> float:
    """Median seconds of what `record` puts into an encoder, many times a submit; `written` is a buffer it writes."""
    _seconds(device, record, 1, written)
    count = max(1, min(64, int(SECONDS / _seconds(device, record, 1, written))))
    return statistics.median(_seconds(device, record, count, written) for _ in range(RUNS)) / count


def _seconds(device: Any, record: Callable[[Any], None], count: int, written: Any) -> float:
    encoder = device.create_command_encoder()
    for _ in range(count):
        record(encoder)
    started = time.perf_counter()
    device.queue.submit([encoder.finish()])
    device.queue.read_buffer(written, 0, 16)
    return time.perf_counter() - started


def _pipeline(device: Any, source: str, entry: str, buffers: tuple[Any, ...]) -> tuple[Any, Any]:
    module = device.create_shader_module(code=source)
    pipeline = device.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": entry})
    entries = [{"binding": i, "resource": {"buffer": b, "offset": 0, "size": b.size}} for i, b in enumerate(buffers)]
    return pipeline, device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
