"""Finds a Chromium for the browser tests: `python -m tests.chromium` prints its path.

Looked for in order: $WISP_CHROMIUM, a system browser on PATH, Playwright's own download.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# WebGPU on the CPU (SwiftShader), nothing that phones home, and usable as root in a container.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find() -> Path | None:
    """The browser to test with, or None."""
    named = os.environ.get("WISP_CHROMIUM")
    if named:
        found = shutil.which(named)
        return Path(found) if found else None
    for command in COMMANDS:
        path = shutil.which(command)
        if path and _runs(path):
            return Path(path)
    return _playwright_chromium()


def _runs(path: str) -> bool:
    """Whether it starts: Ubuntu's `chromium-browser` may be a stub that asks for snap."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _playwright_chromium() -> Path | None:
    path = _playwright_path()
    return path if path.is_file() and _runs(str(path)) else None


def _playwright_path() -> Path:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Path(playwright.chromium.executable_path)


def install() -> None:
    """Playwright's build, for where the distribution has no package of its own."""
    _attempt([sys.executable, "-m", "playwright", "install", "chromium"])
    if find() is None and _playwright_path().is_file():  # there, but libraries are missing
        _attempt([sys.executable, "-m", "playwright", "install-deps", "chromium"])


def _attempt(command: list[str]) -> None:
    print("+", " ".join(command), file=sys.stderr)
    try:
        subprocess.run(command, stdout=sys.stderr, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)


def main() -> int:
    path = find()
    if path is None:
        print("no Chromium found; install one or set WISP_CHROMIUM to its path", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
