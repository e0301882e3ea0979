"""Where the files are that are no Python: beside this package in the repository, inside it where it was installed."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_ROOT = PACKAGE if (PACKAGE / "web").is_dir() else PACKAGE.parent

WEB = _ROOT / "web"
"""The page: `dist` (built), `templates`, `icons`."""
CONFIGS = _ROOT / "configs"
"""Recipes, and the embedded checkpoint."""
