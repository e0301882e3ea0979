"""Device time of whole programs, natively: one pass between two timestamps, as a session runs them.

A wall clock around submits from Python says what Python costs. Knows the native runtime and the plan's alternatives;
`web/src/bench/programs.ts` measures the same in a browser.
"""

import statistics
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import wgpu

from ..artifact.state import SamplingParameters
from ..runtime.wgpu import NativeRuntime

RUNS = 5
OWN = "own"
SAMPLERS = 3  # dispatches that end a decode step: scan, limit, draw
SAMPLING = {
    "greedy": SamplingParameters(),
    "top_p": SamplingParameters(temperature=0.6, top_p=0.9),
    "top_k_top_p": SamplingParameters(temperature=0.6, top_k=40, top_p=0.9),
}

Record = Callable[[Any, dict[str, Any]], None]  # (encoder, the pass's timestamps): one compute pass
TimedProgram = tuple[str, int, int]  # program, position, valid tokens


def step_programs(plan: Mapping[str, Any], contexts: Sequence[int]) -> list[TimedProgram]:
    """`decode` at each of `contexts`, and every prefill chunk, full, at the start."""
    return [
        *(("decode", context, 1) for context in contexts),
        *((f"prefill_{chunk}", 0, chunk) for chunk in plan["prefill_chunks"]),
    ]


def entrants(plan: Mapping[str, Any], program: str) -> list[str]:
    """Who has the program: the plan itself, then its alternatives."""
    return [OWN, *(a["name"] for a in plan.get("alternatives", []) if program in a["programs"])]


def step_seconds(
    runtime: NativeRuntime, programs: Sequence[TimedProgram], limit: float, skipped: list[str]
) -> dict[str, Any]:
    """`steps`, a row for each program and entrant, and `sampling`, by how tokens are drawn; None without timestamps.

    `skipped` is told what would take longer than `limit` seconds.
    """
    if "timestamp-query" not in runtime.device.features:
        return {"steps": None, "sampling": None}
    timer = _Timer(runtime)
    rows: list[dict[str, Any]] = []
    runtime.set_sampling(SAMPLING["greedy"])
    for program, position, length in programs:
        for name in entrants(runtime.plan, program):
            runtime.choose(None if name == OWN else name)
            seconds = timer.median(_whole(runtime, program), struct.pack("<III", position, 0, length), limit)
            if seconds is None:
                skipped.append(f"a pass of {program} by {name}: takes more than {limit:g} s")
            else:
                rows.append({"program": program, "alternative": name, "position": position, "seconds": seconds})
    runtime.choose(None)
    sampling = {}
    for name, parameters in SAMPLING.items():
        runtime.set_sampling(parameters)
        sampling[name] = timer.median(_samplers(runtime), struct.pack("<III", 9, 5, 0), limit)
    runtime.set_sampling(SAMPLING["greedy"])
    return {"steps": rows, "sampling": sampling}


def _whole(runtime: NativeRuntime, program: str) -> Record:
    return lambda encoder, writes: runtime.encode(encoder, program, timestamp_writes=writes)


def _samplers(runtime: NativeRuntime) -> Record:
    def record(encoder: Any, writes: dict[str, Any]) -> None:
        compute = encoder.begin_compute_pass(timestamp_writes=writes)
        for _, pipeline, group, grid in runtime.dispatches("decode")[-SAMPLERS:]:
            compute.set_pipeline(pipeline)
            compute.set_bind_group(0, group)
            compute.dispatch_workgroups(*grid)
        compute.end()

    return record


class _Timer:
    """Seconds between a pass's two timestamps."""

    def __init__(self, runtime: NativeRuntime) -> None:
        self._runtime = runtime
        device = runtime.device
        self._queries = device.create_query_set(type="timestamp", count=2)
        usage = wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
        self._resolved = device.create_buffer(size=16, usage=usage)
        self._tick = 1e-9 * timestamp_period(device)

    def median(self, record: Record, state: bytes, limit: float) -> float | None:
        """Of up to RUNS runs, each from the same words of the state, after a warm-up; None where one takes too long."""
        started = time.perf_counter()
        self._seconds(record, state)
        if time.perf_counter() - started > limit:
            return None
        return statistics.median(self._runs(record, state, started + limit))

    def _runs(self, record: Record, state: bytes, end: float) -> Iterator[float]:
        for run in range(RUNS):
            if run and time.perf_counter() > end:
                return
            yield self._seconds(record, state)

    def _seconds(self, record: Record, state: bytes) -> float:
        device = self._runtime.device
        self._runtime.write("state", state)
        encoder = device.create_command_encoder()
        writes = {
            "query_set": self._queries,
            "beginning_of_pass_write_index": 0,
            "end_of_pass_write_index": 1,
        }
        record(encoder, writes)
        encoder.resolve_query_set(self._queries, 0, 2, self._resolved, 0)
        device.queue.submit([encoder.finish()])
        begin, stop = struct.unpack("<QQ", device.queue.read_buffer(self._resolved))
        return max(0, stop - begin) * self._tick


def timestamp_period(device: Any) -> float:
    """Nanoseconds of a tick: wgpu-native hands out the driver's ticks."""
    from wgpu.backends.wgpu_native import lib

    return float(lib.wgpuQueueGetTimestampPeriod(device.queue._internal))
