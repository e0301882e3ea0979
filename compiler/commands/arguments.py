"""What commands' arguments have in common: types, addresses, and JSON on stdout."""

import argparse
import json
from typing import Any


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def positive(text: str) -> int:
    """A whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


positive.__name__ = "positive number"  # argparse says "invalid positive number value"


def add_json(command: argparse.ArgumentParser) -> None:
    """`--json`, for tools."""
    command.add_argument("--json", action="store_true", help="print JSON")


def print_json(value: Any) -> None:
    """As `--json` prints it."""
    print(json.dumps(value, indent=2))
