"""The command line: `wisp COMMAND`. Parses arguments by the table below and runs one command.

Exit status: 0 good, 2 bad input (one line on stderr), 1 a bug or a bound that `check` found broken, 130 interrupted.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol

from . import __version__
from .commands import bench, chat, check, compile, demo, export, inspect, models, publish, serve, transcribe
from .errors import WispError


class Command(Protocol):
    """What a module of `commands` has."""

    HELP: str

    def add_arguments(self, command: argparse.ArgumentParser) -> None: ...

    def run(self, parsed: argparse.Namespace) -> None: ...


COMMANDS: dict[str, Command] = {
    "compile": compile,
    "serve": serve,
    "demo": demo,
    "chat": chat,
    "transcribe": transcribe,
    "export": export,
    "publish": publish,
    "models": models,
    "inspect": inspect,
    "check": check,
    "bench": bench,
}


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


# ----------------------------------------------------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaint as one line like every other."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wisp", description="Compile a Llama or Phi checkpoint for the browser, and serve it.")
    parser.add_argument("--version", action="version", version=f"wisp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
