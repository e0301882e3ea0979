"""What the tests need of the machine: `python -m tests.machine` names what is missing, `--install` installs it first.

A row of `NEEDS`: what it is, Debian's packages, how to see that it is there. Exit status 1 while something is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import WispError
from tests import adapter, chromium, servers, speech

APT_INSTALL = Path(__file__).resolve().parent.parent / ".ci" / "apt-install"
VULKAN_HEADERS = (Path("/usr/include/vulkan/vulkan.h"), Path("/usr/local/include/vulkan/vulkan.h"))
WEBKIT_BROWSERS = "webkit2gtk-4.1/MiniBrowser"


@dataclass(frozen=True)
class Need:
    """`find` says what is there; None, or an exception that says why, when nothing is.

    `otherwise` is tried where the distribution's packages have not helped.
    """

    what: str
    packages: tuple[str, ...]
    find: Callable[[], str | None]
    otherwise: Callable[[], object] | None = None

    def missing(self) -> str | None:
        """Why the tests cannot have it; None when they can."""
        try:
            return (
                None if self.find() else f"{self.what} is missing; on Debian: apt-get install {' '.join(self.packages)}"
            )
        except WispError as error:
            return str(error)


def _command(*names: str) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


def _chromium() -> str | None:
    path = chromium.find()
    return str(path) if path else None


def _webkit() -> str | None:
    browsers = [path for root in ("/usr/lib", "/usr/libexec") for path in Path(root).glob(f"**/{WEBKIT_BROWSERS}")]
    return str(browsers[0]) if browsers and shutil.which("WebKitWebDriver") else None


def _vulkan_layer() -> str | None:
    """A C compiler and Vulkan's headers: what a layer for Chromium is made with."""
    compiler = _command("gcc", "cc")
    return compiler if any(path.is_file() for path in VULKAN_HEADERS) else None


def _radeon() -> str | None:
    found = adapter.radeon()
    return str(found) if found else None


def _recordings() -> str | None:
    found = sorted(speech.RECORDINGS.glob("*.wav"))
    return str(found[0]) if found else None


NEEDS = (
    Need("a Vulkan, Metal or D3D12 adapter", ("mesa-vulkan-drivers",), adapter.find),
    Need("Chromium", ("chromium",), _chromium, chromium.install),
    Need("Firefox", ("firefox-esr|firefox",), lambda: _command("firefox-esr", "firefox")),
    Need("WebKitGTK's WebDriver", ("webkit2gtk-driver",), _webkit),
    Need("Xvfb", ("xvfb",), lambda: _command("Xvfb")),
    Need("nginx", ("nginx-light|nginx",), servers.nginx),
    Need("Caddy", ("caddy",), servers.caddy),
    Need("Mesa's Radeon driver", ("mesa-vulkan-drivers",), _radeon),
    Need("recordings of speech", ("pocketsphinx-testdata",), _recordings),
    Need("a C compiler with Vulkan's headers", ("gcc", "libc6-dev", "libvulkan-dev"), _vulkan_layer),
)


def install(needs: Sequence[Need]) -> None:
    """Debian's packages in one go; then each need's own way, where it has one."""
    packages = [package for need in needs for package in need.packages]
    print("setup: installing", " ".join(packages), file=sys.stderr)
    subprocess.run([str(APT_INSTALL), *packages], stdout=sys.stderr, check=False)
    for need in needs:
        if need.otherwise is not None and need.missing():
            need.otherwise()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--install", action="store_true", help="install what is missing")
    wanted = parser.parse_args()
    lacking = [need for need in NEEDS if need.missing()]
    if lacking and wanted.install:
        install(lacking)
        # In another process: this one has loaded the drivers that were there.
        return subprocess.run([sys.executable, "-m", "tests.machine"], check=False).returncode
    for need in lacking:
        print(f"setup: {need.missing()}", file=sys.stderr)
    if lacking and os.environ.get("CI", "").lower() not in ("1", "true"):
        print("setup: the tests that need them will be skipped", file=sys.stderr)
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
