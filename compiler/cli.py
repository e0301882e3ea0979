"""The command line: `wisp compile | serve | demo | models | inspect | check | bench`. Parses arguments and calls.

Exit status: 0 good, 2 bad input (one line on stderr), 1 a bug or a bound that `check` found broken, 130 interrupted.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from compiler import __version__
from compiler.config import ARTIFACTS, DEFAULT_SCALES, resolve_config
from compiler.errors import WispError
from compiler.lowering.tvm_import import import_tvm
from compiler.target.variants import VARIANTS
from compiler.weights.choice import AUTO, DEFAULT_QUANTIZATION
from compiler.weights.scales import RULES
from compiler.weights.schemes import SCHEMES

QUANTIZATION_HELP = (
    f"{AUTO} (what the source has quantized is kept, floats become {DEFAULT_QUANTIZATION}) | {' | '.join(SCHEMES)}"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except WispError as error:
        print(f"wisp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wisp: interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # everything is unwound; what TVM would still tear down may abort or raise once more
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _terminate(*_: object) -> NoReturn:
    """Ends as by Ctrl-C, so that nothing half-written stays."""
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------------ commands


def _compile(parsed: argparse.Namespace) -> None:
    from compiler.incremental import build_if_stale
    from compiler.progress import Terminal

    config = resolve_config(
        parsed.source,
        revision=parsed.revision,
        output=parsed.output,
        identifier=parsed.name,
        quantization=parsed.quant,
        context=parsed.context,
        variants=parsed.variants,
        weights=parsed.weights,
        mlc_shards=parsed.mlc_shards,
        lora=parsed.lora,
        dump=parsed.dump,
        scales=parsed.scales,
        calibration=parsed.calibration,
        ignore_fields=parsed.ignore_field,
    )
    build_if_stale(config, Terminal(), force=parsed.force)


def _serve(parsed: argparse.Namespace) -> None:
    _serve_directory(parsed.artifacts, parsed)


def _demo(parsed: argparse.Namespace) -> None:
    from compiler.demo import build_demo
    from compiler.progress import Terminal

    if not parsed.compile_only:
        _check_address(parsed.host, parsed.port)  # before the wait, not after it
    demo = build_demo(parsed.output or ARTIFACTS / "demo", Terminal(), small=parsed.small)
    if not parsed.compile_only:
        _serve_directory(demo.artifacts, parsed, demo.first)


def _serve_directory(artifacts: Path, parsed: argparse.Namespace, first: str | None = None) -> None:
    import server

    try:
        server.serve(artifacts, parsed.host, parsed.port, parsed.allowed_host, first=first)
    except server.ServeError as error:
        raise WispError(str(error)) from error


def _check_address(host: str, port: int) -> None:
    import server

    try:
        server.bind(host, port).close()
    except server.ServeError as error:
        raise WispError(str(error)) from error


def _models(parsed: argparse.Namespace) -> None:
    import_tvm()
    from compiler.recipes import print_recipes, recipe_paths, recipes_json, summarize_recipe

    summaries = [summarize_recipe(path) for path in recipe_paths()]
    if parsed.json:
        _print_json(recipes_json(summaries))
    else:
        print_recipes(summaries)


def _inspect(parsed: argparse.Namespace) -> None:
    from compiler.artifact.inspect import inspect, print_summary

    summary = inspect(parsed.artifact, verify=parsed.verify)
    if parsed.json:
        _print_json(summary)
    else:
        print_summary(summary)


def _check(parsed: argparse.Namespace) -> None:
    import_tvm()
    from compiler.check.parity import check, exit_status, print_report
    from compiler.progress import Terminal

    report = check(
        parsed.artifact,
        parsed.reference,
        variants=parsed.variants,
        tokens=parsed.tokens,
        text=parsed.text,
        lora=parsed.lora,
        progress=Terminal(),
    )
    if parsed.json:
        _print_json(report)
    else:
        print_report(report)
    if exit_status(report):
        raise SystemExit(1)


def _bench(parsed: argparse.Namespace) -> None:
    from compiler.bench.report import check_plot, print_report, write_plot

    if parsed.plot is not None:
        check_plot(parsed.plot)
    import_tvm()
    from compiler.bench.run import bench
    from compiler.progress import Terminal

    report = bench(
        parsed.artifact,
        shape=parsed.shape,
        backend=parsed.backend,
        variant=parsed.variant,
        threads=parsed.threads,
        quantization=parsed.quant,
        limit=parsed.limit,
        progress=Terminal(),
    )
    if parsed.json:
        _print_json(report)
    else:
        print_report(report)
    if parsed.plot is not None:
        write_plot(report, parsed.plot)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


# ----------------------------------------------------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaint as one line like every other."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


_positive.__name__ = "positive number"  # argparse says "invalid positive number value"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wisp", description="Compile a Llama or Phi checkpoint for the browser, and serve it.")
    parser.add_argument("--version", action="version", version=f"wisp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    command = commands.add_parser("compile", help="compile a checkpoint into an artifact")
    sources = "recipe.toml, a Hub id org/name[/FILE.gguf][@revision], a directory or a GGUF file"
    command.add_argument("source", metavar="SOURCE", help=sources)
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="the artifact's directory (artifacts/<id>)")
    command.add_argument("--quant", metavar="SCHEME", help=QUANTIZATION_HELP)
    command.add_argument("--context", type=_positive, metavar="N", help="most tokens of a conversation (up to 4096)")
    command.add_argument("--variants", type=_names, metavar="A,B", help=f"some of {', '.join(VARIANTS)} (all)")
    command.add_argument("--name", metavar="ID", help="the model's id (the source's name)")
    command.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub")
    command.add_argument("--weights", choices=("full", "none"), default="full", help="none: plans and kernels only")
    command.add_argument(
        "--mlc-shards", action="store_true", help="never split a tensor, so that MLC's tools can read it"
    )
    command.add_argument("--lora", type=Path, metavar="DIR", help="merge a PEFT adapter into the weights")
    command.add_argument("--scales", metavar="RULE", help=f"{' | '.join(RULES)} ({DEFAULT_SCALES})")
    command.add_argument(
        "--calibration", type=Path, metavar="FILE", help="weigh errors by the activations on this text (runs the model)"
    )
    ignored = "compile although config.json has this field, which Wisp does not know (can be given again)"
    command.add_argument("--ignore-field", action="append", default=[], metavar="NAME", help=ignored)
    command.add_argument("--force", action="store_true", help="compile even when nothing has changed")
    command.add_argument("--dump", type=Path, metavar="DIR", help="write the program after each pass, WGSL and plan")
    command.set_defaults(run=_compile)

    command = commands.add_parser("serve", help="serve the page and a directory of artifacts")
    command.add_argument("artifacts", nargs="?", type=Path, default=ARTIFACTS, metavar="ARTIFACTS_DIR")
    _add_address(command)
    command.set_defaults(run=_serve)

    command = commands.add_parser("demo", help="get and compile the demo models if needed, then serve them")
    embedded = "the embedded model's artifact (artifacts/demo); the others lie beside it"
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help=embedded)
    command.add_argument("--small", action="store_true", help="the small embedded model alone: nothing is downloaded")
    command.add_argument("--compile-only", action="store_true", help="do not serve")
    _add_address(command)
    command.set_defaults(run=_demo)

    command = commands.add_parser("models", help="list the recipes that come along, and what each costs")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_models)

    command = commands.add_parser("inspect", help="say what is in an artifact")
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("--verify", action="store_true", help="check the SHA-256 of every file")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_inspect)

    command = commands.add_parser("check", help="compare an artifact with its checkpoint, on this machine's GPU")
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("--reference", required=True, metavar="SOURCE", help="the checkpoint it was compiled from")
    command.add_argument("--variants", type=_names, metavar="A,B", help="which variants (all this machine can run)")
    command.add_argument("--tokens", type=_positive, metavar="N", help="tokens to compare (64; of kept weights 512)")
    command.add_argument("--lora", type=Path, metavar="DIR", help="the adapter that was merged into it")
    command.add_argument("--text", type=Path, metavar="FILE", help="a text to run (a paragraph that comes along)")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_check)

    command = commands.add_parser("bench", help="measure load, prefill and decode, here or in a headless browser")
    command.add_argument("artifact", nargs="?", type=Path, metavar="ARTIFACT")
    command.add_argument("--shape", metavar="NAME", help="random weights of this shape instead: llama-3.2-1b, ...")
    command.add_argument("--quant", metavar="SCHEME", help="of --shape (q4f16_1)")
    backends = "through wgpu | WebGPU in a headless browser | the browser's CPU, variant wasm-simd (native)"
    command.add_argument("--backend", choices=("native", "browser", "wasm"), default="native", help=backends)
    command.add_argument("--variant", metavar="NAME", help="which variant (the best one)")
    command.add_argument("--threads", type=_positive, metavar="N", help="of --backend wasm (what the engine chooses)")
    command.add_argument("--limit", type=_positive, default=60, metavar="S", help="seconds a figure may take (60)")
    command.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw tokens a second against the context")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_bench)
    return parser


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", metavar="HOST")
    command.add_argument("--port", type=int, default=8000, metavar="PORT", help="0 takes a free one")
    allowed = "a name that requests may be to (a loopback answers its own names alone; given again: several)"
    command.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help=allowed)


if __name__ == "__main__":
    sys.exit(main())
