"""What goes into a wheel beside the files that pyproject.toml names.

The page, made anew where it is not there or is older than its sources. Into an editable one the name `wisp` for what
is `compiler/` in a clone.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT = "wisp.d.ts"  # what the last step of the build writes
SOURCES = ("src/**/*", "*.config.ts", "package-lock.json")
ANOTHER_NAME = '''"""The package of a clone, by the name that it has where it is installed."""

from pathlib import Path

__path__ = [{path!r}]
exec(Path(__path__[0], "__init__.py").read_text())
'''


class Hook(BuildHookInterface):
    """hatchling takes the class of this module that is a hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before files are collected. Of an editable install (`version`) `make build` makes the page."""
        if self.target_name != "wheel":
            return
        if version != "editable":
            build_page(Path(self.root, "web"))
            return
        self.scratch = tempfile.TemporaryDirectory()
        stub = Path(self.scratch.name, "__init__.py")
        stub.write_text(ANOTHER_NAME.format(path=str(Path(self.root, "compiler"))))
        build_data["force_include_editable"] = {str(stub): "wisp/__init__.py"}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version == "editable":
            self.scratch.cleanup()


def build_page(web: Path) -> None:
    """Raises RuntimeError without npm."""
    built = web / "dist" / BUILT
    newest = max(path.stat().st_mtime for pattern in SOURCES for path in web.glob(pattern) if path.is_file())
    if built.is_file() and built.stat().st_mtime >= newest:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("the page is not built and there is no npm: install Node 20 or later")
    if not (web / "node_modules").is_dir():
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=web, check=True)
    subprocess.run([npm, "run", "--silent", "build"], cwd=web, check=True)
