"""Small libraries in C that a browser is started with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.browser.drivers.tab import Unavailable


def build_library(source: Path, library: Path) -> None:
    """A shared library of `source`, unless it is there and newer. @raises Unavailable naming what is missing"""
    if library.exists() and library.stat().st_mtime >= source.stat().st_mtime:
        return
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler found: install gcc")
    made = library.with_suffix(f".{os.getpid()}")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        missing = "vulkan/" in done.stderr and "No such file" in done.stderr
        raise Unavailable("install libvulkan-dev" if missing else f"{source.name} does not build: {done.stderr}")
    made.replace(library)
