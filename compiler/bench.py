"""`wisp bench`: how fast an artifact loads, reads a prompt and answers, natively or in a headless browser.

Chooses what to measure and prints it; `bench_native.py` and `bench_browser.py` measure, `bench_shapes.py` makes
artifacts with random weights. Both backends give the same figures under the same names; what one cannot know is null.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from compiler.artifact import Artifact, load_artifact
from compiler.check import adapter_name, choose_variants, wide_console
from compiler.errors import WispError
from compiler.native import missing_features, open_variant, request_adapter
from compiler.progress import Report, Silent, human_bytes

DEFAULT_LIMIT = 60.0


def bench(
    artifact_path: Path | None = None,
    *,
    shape: str | None = None,
    backend: Literal["native", "browser"] = "native",
    variant: str | None = None,
    quantization: str | None = None,
    limit: float = DEFAULT_LIMIT,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Measures an artifact, or random weights of a named shape. No figure takes much longer than `limit` seconds.

    Without `variant` the best one that the device can run. Raises WispError for input that cannot be measured.
    """
    progress = progress or Silent()
    artifact = load_artifact(choose_artifact(artifact_path, shape, quantization, progress))
    choose_variants(artifact, None if variant is None else [variant])
    with progress.stage(f"bench, {backend}", 1) as advance:
        if backend == "native":
            measured = _native(artifact, variant, limit)
        else:
            from compiler.bench_browser import bench_browser

            measured = bench_browser(artifact, variant, limit)
        advance(1)
    model = artifact.model
    return {
        "artifact": model["id"],
        "backend": backend,
        "machine": machine(),
        "architecture": model["architecture"],
        "parameters": model["parameters"],
        "quantization": model["quantization"],
        "weight_bytes": model["weight_bytes"],
        "context": model["context"],
        **measured,
    }


def choose_artifact(path: Path | None, shape: str | None, quantization: str | None, progress: Report) -> Path:
    """The one artifact that was asked for, compiled now when it is a shape."""
    if (path is None) == (shape is None):
        raise WispError(
            "say what to measure",
            got="nothing" if path is None else "both an artifact and --shape",
            expected="an artifact's directory or --shape NAME",
        )
    if path is not None:
        if quantization is not None:
            raise WispError("--quant is for --shape", remedy="compile the artifact with another --quant instead")
        return path
    from compiler.bench_shapes import shape_artifact

    assert shape is not None
    return shape_artifact(shape, quantization, progress)


def _native(artifact: Artifact, variant: str | None, limit: float) -> dict[str, Any]:
    from compiler.bench_native import bench_native

    adapter = request_adapter()
    entries = [v for v in artifact.model["variants"] if variant is None or v["name"] == variant]
    lacking = {v["name"]: missing_features(adapter, v["required_features"]) for v in entries}
    chosen = next((name for name, missing in lacking.items() if not missing), None)
    if chosen is None:
        raise WispError(
            "this machine's adapter cannot run the artifact",
            got="; ".join(f"{name}: no {', '.join(missing)}" for name, missing in lacking.items()),
            remedy="compile the variant webgpu-f32, which needs nothing",
        )
    runtime = open_variant(artifact, chosen, adapter)
    return {"variant": chosen, "adapter": adapter_name(adapter), **bench_native(runtime, limit)}


def machine() -> dict[str, Any]:
    """Where it was measured, and how busy that was."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": load,
    }


# ----------------------------------------------------------------------------------------------------------- for people


def print_report(report: Mapping[str, Any]) -> None:
    """The report as tables on stdout."""
    console = wide_console()

    def say(line: str) -> None:
        console.print(line, markup=False)

    say(f"{report['artifact']} ({report['quantization']}, {human_bytes(report['weight_bytes'])} of weights)")
    say(f"  {report['variant']}, {report['backend']}, on {report['adapter']}")
    load = {"from the network": "cold_s", "from the disk": "warm_s", "shaders": "compile_s"}
    parts = [f"{what} {report['load'][key]:.2f} s" for what, key in load.items() if report["load"][key] is not None]
    say(f"  load             {', '.join(parts)}")
    if report["time_to_first_token_s"] is not None:
        say(f"  first token      {report['time_to_first_token_s']:.3g} s")
    for row in report["prefill"]:
        say(f"  prefill {row['tokens']:>6}   {row['tokens_per_second']:.4g} tokens a second")
    for row in report["decode"]:
        say(f"  decode at {row['context']:>4}   {row['tokens_per_second']:.4g} tokens a second")
    counters = report["counters"]
    say(
        f"  a token          {counters['dispatches_per_token']:.4g} dispatches, "
        f"{counters['submits_per_token']:.3g} submits, {counters['readbacks_per_token']:.3g} readbacks, "
        f"{counters['bytes_read_back_per_token']:.4g} bytes read back"
    )
    if report["bandwidth"] is not None:
        say(f"  bandwidth        {report['bandwidth']['bytes_per_second'] / 1e9:.4g} GB/s by a copy")
    for program, figures in (report["kernels"] or {}).items():
        say(f"  {program}, {figures['tokens']} tokens at {figures['position']}: {figures['seconds'] * 1e3:.4g} ms")
        console.print(kernel_table(figures["kernels"]))
    for reason in report["skipped"]:
        say(f"  left out: {reason}")


def kernel_table(rows: list[dict[str, Any]]) -> Table:
    """Kernels, the most expensive first."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("kernel", "dispatches", "us each", "share", "MB each", "GB/s", "of bandwidth"):
        table.add_column(heading, justify="left" if heading == "kernel" else "right", no_wrap=True)
    for row in rows:
        count = row["dispatches"]
        table.add_row(
            row["kernel"],
            str(count),
            f"{row['seconds'] / count * 1e6:.1f}",
            f"{row['share']:.1%}",
            f"{row['bytes'] / count / 1e6:.3f}",
            f"{row['bytes_per_second'] / 1e9:.3g}",
            f"{row['bandwidth_share']:.1%}",
        )
    return table
