"""A Chromium whose WebGPU runs on Mesa's lavapipe, a Vulkan driver on the CPU that has shader-f16 and subgroups.

Chromium refuses Debian 12's lavapipe for a few answers that it does not give; a Vulkan layer (lavapipe_layer.c) gives
them. And Chromium would take its own SwiftShader, so what is launched is a directory of links to its files without it.
It ranks no kernels, as it is a CPU, but it is Chromium's own compiler with f16 and subgroups.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.browser.drivers.native import build_library
from tests.browser.drivers.tab import Unavailable

LAYER_SOURCE = Path(__file__).with_name("lavapipe_layer.c")
LAYER_NAME = "VK_LAYER_WISP_lavapipe_for_chromium"
ICD_DIRECTORIES = (Path("/usr/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"), Path("/usr/local/share/vulkan/icd.d"))
DEBIAN_CHROMIUM = Path("/usr/lib/chromium/chromium")  # /usr/bin/chromium is a script that starts it
FLAGS = (
    "--use-webgpu-adapter=default",
    "--use-vulkan=native",
    "--use-angle=vulkan",
    "--enable-features=Vulkan",
    "--ignore-gpu-blocklist",
    "--disable-vulkan-surface",
)


@dataclass(frozen=True)
class Place:
    executable: Path
    environment: dict[str, str]


def prepare(chromium: Path, cache: Path) -> Place:
    """Builds in `cache` what is not there yet, one process at a time. @raises Unavailable: what package is missing"""
    driver = find_driver()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        _build_layer(cache)
        executable = _without_swiftshader(chromium, cache / "chromium")
    environment = {
        "VK_DRIVER_FILES": str(driver),
        "VK_ICD_FILENAMES": str(driver),  # the same, for Vulkan loaders before 1.3.207
        "VK_LAYER_PATH": str(cache),
        "VK_INSTANCE_LAYERS": LAYER_NAME,
    }
    return Place(executable, environment)


def find_driver() -> Path:
    """The file that tells Vulkan of lavapipe. @raises Unavailable"""
    found = sorted(path for directory in ICD_DIRECTORIES for path in directory.glob("lvp_icd*.json"))
    if not found:
        raise Unavailable("Mesa's lavapipe is not installed: install mesa-vulkan-drivers")
    return found[0]


def _build_layer(cache: Path) -> None:
    library = cache / "layer.so"
    build_library(LAYER_SOURCE, library)
    layer = {
        "name": LAYER_NAME,
        "type": "GLOBAL",
        "library_path": str(library.resolve()),
        "api_version": "1.3.239",
        "implementation_version": "1",
        "description": "Answers that Chromium asks of lavapipe",
    }
    (cache / "layer.json").write_text(json.dumps({"file_format_version": "1.1.2", "layer": layer}))


def _without_swiftshader(chromium: Path, copy: Path) -> Path:
    """Chromium finds its files beside its executable: that one is linked or copied, the others lead there."""
    executable = DEBIAN_CHROMIUM if chromium.resolve() == Path("/usr/bin/chromium") else chromium.resolve()
    if not executable.is_file() or executable.read_bytes()[:4] != b"\x7fELF":
        raise Unavailable(f"{chromium} is no executable but starts one: set WISP_CHROMIUM to the executable itself")
    made = copy / executable.name
    if made.exists() and made.stat().st_mtime >= executable.stat().st_mtime:
        return made
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in executable.parent.iterdir():
        if path != executable and "vk_swiftshader" not in path.name:
            (copy / path.name).symlink_to(path)
    try:
        os.link(executable, made)
    except OSError:  # another file system
        shutil.copy2(executable, made)
    return made
