"""`wisp check`: an artifact against its checkpoint."""

import argparse
from pathlib import Path

from ..lowering.tvm_import import import_tvm
from .arguments import add_json, names, positive, print_json

HELP = "compare an artifact with its checkpoint, on this machine's GPU"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("--reference", required=True, metavar="SOURCE", help="the checkpoint it was compiled from")
    command.add_argument("--variants", type=names, metavar="A,B", help="which variants (all this machine can run)")
    command.add_argument("--tokens", type=positive, metavar="N", help="tokens to compare (64; of kept weights 512)")
    command.add_argument("--lora", type=Path, metavar="DIR", help="the adapter that was merged into it")
    command.add_argument("--text", type=Path, metavar="FILE", help="a text to run (a paragraph that comes along)")
    add_json(command)


def run(parsed: argparse.Namespace) -> None:
    import_tvm()
    from ..check.parity import check, exit_status, print_report
    from ..progress import Terminal

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
        print_json(report)
    else:
        print_report(report)
    if exit_status(report):
        raise SystemExit(1)
