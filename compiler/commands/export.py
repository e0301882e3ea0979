"""`wisp export`: the page and its models as a directory of plain files."""

import argparse
from pathlib import Path

from ..config import ARTIFACTS

HELP = "write the page and its models as plain files, for any static host"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("output", type=Path, metavar="DIR", help="a new directory, or an earlier export to replace")
    add_site(command)


def add_site(command: argparse.ArgumentParser) -> None:
    """What the site holds, and where it will lie."""
    command.add_argument(
        "--artifacts", type=Path, default=ARTIFACTS, metavar="DIR", help="where models are (artifacts)"
    )
    command.add_argument("--model", action="append", default=[], metavar="ID", help="only this one (again: several)")
    base = "the path that it will lie below, for the host files: the page itself opens anywhere (/)"
    command.add_argument("--base", default="/", metavar="/SUB/", help=base)


def run(parsed: argparse.Namespace) -> None:
    from ..progress import Terminal
    from ..site.export import export

    export(parsed.artifacts, parsed.output, Terminal(), models=parsed.model, base=parsed.base)
