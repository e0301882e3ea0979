"""Imports of the compiler point one way: the contracts in pyproject.toml hold, and no import hides in a function."""

import ast
from pathlib import Path

from importlinter import cli

ROOT = Path(__file__).resolve().parents[2]
# The command line imports what a command needs when it runs: `wisp --help` is to be there at once.
START_UP = {"commands", "incremental.py"}


def test_the_contracts_hold() -> None:
    assert cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_imports_do_not_say_what_the_folder_is_called() -> None:
    """Where it is installed it is called `wisp`."""
    named = set()
    for path in (ROOT / "compiler").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            if any(name.split(".")[0] in ("compiler", "wisp") for name in names):
                named.add(path.relative_to(ROOT))
    assert named == set()


def test_only_the_command_line_imports_late() -> None:
    late = set()
    for path in (ROOT / "compiler").rglob("*.py"):
        functions = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef))
        imports = (n for f in functions for n in ast.walk(f) if isinstance(n, ast.ImportFrom))
        if any(n.level > 0 for n in imports):
            late.add(path.relative_to(ROOT / "compiler").parts[0])
    assert late == START_UP
