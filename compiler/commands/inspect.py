"""`wisp inspect`: what is in an artifact."""

import argparse
from pathlib import Path

from .arguments import add_json, print_json

HELP = "say what is in an artifact"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("--verify", action="store_true", help="check the SHA-256 of every file")
    add_json(command)


def run(parsed: argparse.Namespace) -> None:
    from ..artifact.inspect import inspect, print_summary

    summary = inspect(parsed.artifact, verify=parsed.verify)
    if parsed.json:
        print_json(summary)
    else:
        print_summary(summary)
