"""`wisp bench`: how fast an artifact is."""

import argparse
from pathlib import Path

from ..errors import WispError
from ..lowering.tvm_import import import_tvm
from ..progress import Report, Terminal
from .arguments import add_json, positive, print_json

HELP = "measure load, prefill and decode, here or in a headless browser"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("artifact", nargs="?", type=Path, metavar="ARTIFACT")
    command.add_argument("--shape", metavar="NAME", help="random weights of this shape instead: llama-3.2-1b, ...")
    command.add_argument("--quant", metavar="SCHEME", help="of --shape (q4f16_1)")
    backends = "through wgpu | WebGPU in a headless browser | the browser's CPU, variant wasm-simd (native)"
    command.add_argument("--backend", choices=("native", "browser", "wasm"), default="native", help=backends)
    command.add_argument("--variant", metavar="NAME", help="which variant (the best one)")
    command.add_argument("--threads", type=positive, metavar="N", help="of --backend wasm (what the engine chooses)")
    command.add_argument("--limit", type=positive, default=60, metavar="S", help="seconds a figure may take (60)")
    command.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw tokens a second against the context")
    add_json(command)


def run(parsed: argparse.Namespace) -> None:
    from ..bench.report import check_plot, print_report, write_plot

    if parsed.plot is not None:
        check_plot(parsed.plot)
    from ..bench.run import bench, check_threads

    check_threads(parsed.threads, parsed.backend)
    progress = Terminal()
    report = bench(
        choose_artifact(parsed.artifact, parsed.shape, parsed.quant, progress),
        backend=parsed.backend,
        variant=parsed.variant,
        threads=parsed.threads,
        limit=parsed.limit,
        progress=progress,
    )
    if parsed.json:
        print_json(report)
    else:
        print_report(report)
    if parsed.plot is not None:
        write_plot(report, parsed.plot)


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
    assert shape is not None
    import_tvm()  # what is compiled already is measured without it
    from ..bench.shapes import shape_artifact

    return shape_artifact(shape, quantization, progress)
