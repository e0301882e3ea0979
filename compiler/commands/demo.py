"""`wisp demo`: the demo models, compiled where needed and served."""

import argparse
from pathlib import Path

from ..config import ARTIFACTS
from .serve import add_address, check_address, serve_directories

HELP = "get and compile the demo models if needed, then serve them"


def add_arguments(command: argparse.ArgumentParser) -> None:
    embedded = "the embedded model's artifact (artifacts/demo); the others lie beside it"
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help=embedded)
    command.add_argument("--small", action="store_true", help="the small embedded model alone: nothing is downloaded")
    command.add_argument("--compile-only", action="store_true", help="do not serve")
    add_address(command)


def run(parsed: argparse.Namespace) -> None:
    from ..demo import build_demo
    from ..progress import Terminal

    if not parsed.compile_only:
        check_address(parsed.host, parsed.port)  # before the wait, not after it
    demo = build_demo(parsed.output or ARTIFACTS / "demo", Terminal(), small=parsed.small)
    if not parsed.compile_only:
        serve_directories([demo.artifacts], parsed, demo.first)
