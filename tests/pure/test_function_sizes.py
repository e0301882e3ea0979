"""Functions stay short: what has no room here is two things."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.conftest import ROOT

MOST_LINES = 60


def functions() -> Iterator[tuple[str, int]]:
    """Where each of the product's functions is, and its lines, from its name to its end."""
    for path in [*sorted((ROOT / "compiler").rglob("*.py")), ROOT / "server.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def test_functions_are_short() -> None:
    lines = dict(functions())
    assert len(lines) > 1000
    assert {place: count for place, count in lines.items() if count > MOST_LINES} == {}
