"""Measures a variant natively through wgpu: prefill, decode, and each kernel by timestamps.

Knows the plan's format and the native runtime; nothing of browsers or reports. Outputs are checked before anything is
timed. Figures are medians after a warm-up; one that would take longer than a limit is left out, with the reason.
"""

import statistics
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import wgpu

from ..artifact.state import SamplingParameters
from ..runtime.wgpu import NativeRuntime
from .device import measure_device
from .steps import step_programs, step_seconds, timestamp_period

PREFILL_TOKENS = (32, 128, 512, 2048)
FIRST_TOKEN_PROMPT = 128
DECODE_CONTEXTS = (32, 512, 2048)
RUNS = 5
MOST_DECODE_STEPS = 64
QUERY_SET_SIZE = 4096  # WebGPU's most


@dataclass(frozen=True)
class Timing:
    """The median of some runs."""

    seconds: float
    runs: int


def measure(run: Callable[[], float], limit: float) -> Timing:
    """Median seconds that `run` reports, after a warm-up, of up to RUNS runs within about `limit` seconds.

    A warm-up that alone takes half of it is the measurement.
    """
    started = time.perf_counter()
    warm_up = run()
    if time.perf_counter() - started > limit / 2:
        return Timing(warm_up, 1)
    seconds: list[float] = []
    while len(seconds) < RUNS and (not seconds or time.perf_counter() - started < limit):
        seconds.append(run())
    return Timing(statistics.median(seconds), len(seconds))


def bench_native(runtime: NativeRuntime, limit: float, windows: Sequence[int | None] = ()) -> dict[str, Any]:
    """Every native figure of a loaded variant; none of them takes much longer than `limit` seconds.

    `windows` are the positions that each layer's queries see at most.
    """
    check_outputs(runtime)
    skipped: list[str] = []
    prefill = prefill_figures(runtime, limit, skipped)
    decode, counters = decode_figures(runtime, limit, skipped)
    device = measure_device(runtime.adapter)
    programs = step_programs(runtime.plan, decode_contexts(runtime.plan["context"]))
    steps = step_seconds(runtime, programs, limit, skipped)
    kernels = None
    if "timestamp-query" in runtime.device.features:
        kernels = {}
        for program, position, length in timed_programs(runtime.plan):
            seconds = dispatch_seconds(runtime, program, position, length, limit)
            moved = dispatch_bytes(runtime.plan, program, position, length, windows)
            most = device["bandwidth"]["bytes_per_second"]
            kernels[program] = kernel_figures(runtime.plan, (program, position, length), seconds, moved, most)
    else:
        skipped.append("kernels: the adapter has no timestamp-query")
    return {
        "load": {
            "cold_s": None,
            "warm_s": runtime.upload_seconds,
            "compile_s": runtime.compile_seconds,
            "compile_warm_s": None,
        },
        "time_to_first_token_s": first_token_seconds(prefill),
        "prefill": prefill,
        "decode": decode,
        "counters": counters,
        **device,
        **steps,
        "kernels": kernels,
        "skipped": skipped,
    }


def first_token_seconds(prefill: Sequence[Mapping[str, Any]]) -> float | None:
    """Of the prompt of FIRST_TOKEN_PROMPT tokens, or of the longest below it."""
    fitting = [row for row in prefill if row["tokens"] <= FIRST_TOKEN_PROMPT]
    return fitting[-1]["seconds"] if fitting else None


def prompt_sizes(context: int) -> tuple[int, ...]:
    """Prompt lengths to measure; half the context when it is very small."""
    return tuple(n for n in PREFILL_TOKENS if n <= context) or (max(2, context // 2),)


def decode_contexts(context: int) -> tuple[int, ...]:
    """Positions to decode from that leave room for a few steps."""
    return tuple(n for n in DECODE_CONTEXTS if n + 8 <= context) or (max(1, context // 2),)


def random_ids(count: int, vocab_size: int, seed: int) -> list[int]:
    """A prompt that shares nothing with those of other seeds."""
    ids: list[int] = np.random.default_rng(seed).integers(0, vocab_size, size=count).tolist()
    return ids


# ------------------------------------------------------------------------------------------------------- whole programs


def check_outputs(runtime: NativeRuntime) -> None:
    """A shader that writes zeros is very fast: logits are finite, not all equal, and the same twice."""
    ids = random_ids(min(32, runtime.plan["context"]), runtime.plan["vocab_size"], 0)
    first, second = runtime.logits(ids), runtime.logits(ids)
    if not np.isfinite(first).all() or float(np.ptp(first)) == 0 or not np.array_equal(first, second):
        raise RuntimeError(f"the logits of {runtime.plan['variant']} are not to be trusted; run `wisp check`")


def prefill_rows(
    sizes: Sequence[int], limit: float, skipped: list[str], prompt: Callable[[int], Callable[[], float]]
) -> list[dict[str, Any]]:
    """Time from a prompt of n tokens to its first answer token, and n over that time.

    `prompt(n)` gives what runs one and says how many seconds it took. `skipped` is told what would take too long.
    """
    figures: list[dict[str, Any]] = []
    for count in sizes:
        if figures and figures[-1]["seconds"] * count / figures[-1]["tokens"] > limit:
            skipped.append(f"prefill of {count}: would take more than {limit:g} s")
            continue
        timing = measure(prompt(count), limit)
        figures.append(
            {
                "tokens": count,
                "seconds": timing.seconds,
                "tokens_per_second": count / timing.seconds,
                "runs": timing.runs,
            }
        )
    return figures


def prefill_figures(runtime: NativeRuntime, limit: float, skipped: list[str]) -> list[dict[str, Any]]:
    """`prefill_rows` of a native runtime: to the first token on the CPU."""
    vocab_size = runtime.plan["vocab_size"]

    def prompt(count: int) -> Callable[[], float]:
        ids = random_ids(count, vocab_size, count)

        def run() -> float:
            started = time.perf_counter()
            runtime.reset()
            runtime.prefill(ids)
            runtime.run("decode")
            runtime.read("token_ring", "uint32")
            return time.perf_counter() - started

        return run

    runtime.set_sampling(SamplingParameters())
    return prefill_rows(prompt_sizes(runtime.plan["context"]), limit, skipped, prompt)


def decode_figures(
    runtime: NativeRuntime, limit: float, skipped: list[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Time of a decode step at some positions: a run of submits, then one readback of the token ring.

    The KV rows before the position hold what they hold: their content does not change the time.
    """
    figures: list[dict[str, Any]] = []
    context, steps = runtime.plan["context"], 1

    def run(position: int, steps: int) -> float:
        started = time.perf_counter()
        seek(runtime, position)
        for _ in range(steps):
            runtime.run("decode")
        runtime.read("token_ring", "uint32")
        return time.perf_counter() - started

    for position in decode_contexts(context):
        run(position, 1)
        once = run(position, 1)
        if once > limit:
            skipped.append(f"decode at {position}: a step takes more than {limit:g} s")
            continue
        steps = max(1, min(MOST_DECODE_STEPS, context - position, int(limit / (2 * RUNS) / once)))
        timing = measure(lambda at=position, n=steps: run(at, n), limit)  # type: ignore[misc]
        step = timing.seconds / steps
        figures.append(
            {
                "context": position,
                "seconds_per_token": step,
                "tokens_per_second": 1 / step,
                "steps": steps,
                "runs": timing.runs,
            }
        )
    counters = {
        "dispatches_per_token": len(runtime.plan["programs"]["decode"]),
        "submits_per_token": 1.0,
        "readbacks_per_token": 1 / steps,
        "bytes_uploaded_per_token": 12 / steps,
        "bytes_read_back_per_token": 4 * runtime.plan["ring_size"] / steps,
    }
    return figures, counters


def seek(runtime: NativeRuntime, position: int, chunk_length: int = 0) -> None:
    """As if `position` tokens were in the KV cache."""
    runtime.write("state", struct.pack("<III", position, 0, chunk_length))


# -------------------------------------------------------------------------------------------------------------- kernels


def timed_programs(plan: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(program, position, valid tokens) of what is timed kernel by kernel: `decode` and the largest prefill chunk."""
    programs = [("decode", decode_contexts(plan["context"])[-1], 1)]
    if plan["prefill_chunks"]:
        chunk = max(plan["prefill_chunks"])
        programs.append((f"prefill_{chunk}", 0, chunk))
    return programs


def kernel_figures(
    plan: Mapping[str, Any],
    timed: tuple[str, int, int],
    seconds: Sequence[float],
    moved: Sequence[int],
    bandwidth: float,
) -> dict[str, Any]:
    """The `seconds` of the dispatches of a program as a row a kernel, the most expensive first.

    `timed` is one of `timed_programs`, `moved` what `dispatch_bytes` says of it.
    """
    program, position, length = timed
    total = sum(seconds)
    rows: dict[str, dict[str, Any]] = {}
    for dispatch, taken, nbytes in zip(plan["programs"][program], seconds, moved, strict=True):
        entry = plan["kernels"][dispatch["kernel"]]["entry"]
        row = rows.setdefault(entry, {"kernel": entry, "dispatches": 0, "seconds": 0.0, "bytes": 0})
        row["dispatches"] += 1
        row["seconds"] += taken
        row["bytes"] += nbytes
    for row in rows.values():
        rate = row["bytes"] / row["seconds"] if row["seconds"] else 0.0
        row.update(
            share=row["seconds"] / total if total else 0.0,
            bytes_per_second=rate,
            bandwidth_share=rate / bandwidth,
        )
    return {
        "position": position,
        "tokens": length,
        "seconds": total,
        "bytes": sum(moved),
        "kernels": sorted(rows.values(), key=lambda row: -row["seconds"]),
    }


def dispatch_seconds(runtime: NativeRuntime, program: str, position: int, length: int, limit: float) -> list[float]:
    """Median device seconds of each dispatch of a program, a pass of its own a dispatch, by timestamps."""
    period = timestamp_period(runtime.device)
    samples: list[list[float]] = []
    started = time.perf_counter()
    while len(samples) < RUNS and (len(samples) < 2 or time.perf_counter() - started < limit):
        seek(runtime, position, length)
        samples.append(_timed_run(runtime, program, period))
    return [statistics.median(times) for times in zip(*samples[1:], strict=True)]


def _timed_run(runtime: NativeRuntime, program: str, period: float) -> list[float]:
    device, calls = runtime.device, runtime.dispatches(program)
    batch = QUERY_SET_SIZE // 2
    seconds: list[float] = []
    for first in range(0, len(calls), batch):
        part = calls[first : first + batch]
        queries = device.create_query_set(type="timestamp", count=2 * len(part))
        usage = wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
        resolved = device.create_buffer(size=16 * len(part), usage=usage)
        encoder = device.create_command_encoder()
        for i, (_, pipeline, group, grid) in enumerate(part):
            writes = {
                "query_set": queries,
                "beginning_of_pass_write_index": 2 * i,
                "end_of_pass_write_index": 2 * i + 1,
            }
            compute = encoder.begin_compute_pass(timestamp_writes=writes)
            compute.set_pipeline(pipeline)
            compute.set_bind_group(0, group)
            compute.dispatch_workgroups(*grid)
            compute.end()
        encoder.resolve_query_set(queries, 0, 2 * len(part), resolved, 0)
        device.queue.submit([encoder.finish()])
        ticks = np.frombuffer(device.queue.read_buffer(resolved), "<u8").reshape(-1, 2).astype(np.int64)
        seconds += ((ticks[:, 1] - ticks[:, 0]).clip(min=0) * period * 1e-9).tolist()
    return seconds


def dispatch_bytes(
    plan: Mapping[str, Any], program: str, position: int, length: int, windows: Sequence[int | None] = ()
) -> list[int]:
    """The least bytes each dispatch of a program has to move: weights, KV rows and logits it binds, not activations.

    An embedding kernel reads a row a token, attention reads the KV rows that its layer's window (of `windows`, the
    layers in order) leaves of those so far, the others append theirs.
    """
    moved, layers = [], iter(windows)
    for dispatch in plan["programs"][program]:
        kernel = plan["kernels"][dispatch["kernel"]]
        total, attends = 0, kernel["entry"].startswith("attention")
        window = next(layers, None) if attends else None
        seen = position + length if window is None else min(position, window - 1) + length
        for index in dispatch["bind"]:
            buffer = plan["buffers"][index]
            match buffer["kind"]:
                case "weight" if kernel["entry"].startswith("embed"):
                    rows = buffer["rows"][1] - buffer["rows"][0]
                    total += buffer["bytes"] // rows * min(rows, length)
                case "weight":
                    total += buffer["bytes"]
                case "kv":
                    total += buffer["bytes_per_position"] * (seen if attends else length)
                case "io" if buffer["name"] == "logits":
                    total += buffer["bytes"]
        moved.append(total)
    return moved
