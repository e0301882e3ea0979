"""`wisp serve`: the page and a directory of artifacts."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..config import ARTIFACTS
from ..errors import WispError
from ..serving.app import ServeError
from ..serving.listen import bind, serve

HELP = "serve the page and a directory of artifacts"


def add_arguments(command: argparse.ArgumentParser) -> None:
    several = "directories of artifacts, or of one (artifacts)"
    command.add_argument("artifacts", nargs="*", type=Path, default=[ARTIFACTS], metavar="ARTIFACTS_DIR", help=several)
    add_address(command)


def add_address(command: argparse.ArgumentParser) -> None:
    """Where a server listens, and to which names it answers."""
    command.add_argument("--host", default="127.0.0.1", metavar="HOST")
    command.add_argument("--port", type=int, default=8000, metavar="PORT", help="0 takes a free one")
    allowed = "a name that requests may be to (a loopback answers its own names alone; given again: several)"
    command.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help=allowed)
    command.add_argument("--base", default="/", metavar="/SUB/", help="the path that everything lies below (/)")
    command.add_argument("--access-log", action="store_true", help="a line a request, on stdout")


def run(parsed: argparse.Namespace) -> None:
    serve_directories(parsed.artifacts, parsed)


def serve_directories(artifacts: Sequence[Path], parsed: argparse.Namespace, first: str | None = None) -> None:
    """Serves until interrupted; `first` is the id of the model that leads the list."""
    try:
        serve(
            artifacts,
            parsed.host,
            parsed.port,
            parsed.allowed_host,
            first=first,
            base=parsed.base,
            access_log=parsed.access_log,
        )
    except ServeError as error:
        raise WispError(str(error)) from error


def check_address(host: str, port: int) -> None:
    """Raises WispError when nothing can listen there."""
    try:
        bind(host, port).close()
    except ServeError as error:
        raise WispError(str(error)) from error
