"""What the tests ask of a machine, and what they say where it is not there. Drivers are hidden, not removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import machine
from tests.conftest import ROOT

NO_VULKAN = {"VK_DRIVER_FILES": "/nonexistent", "VK_ICD_FILENAMES": "/nonexistent"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="hides the drivers of Linux's Vulkan loader")
def test_opengl_is_no_adapter() -> None:
    """llvmpipe over OpenGL is there wherever Mesa's libraries are: no test and no check may take it."""
    program = "from compiler.runtime.wgpu import request_adapter; request_adapter()"
    finished = run("-c", program, **NO_VULKAN)
    assert finished.returncode == 1
    error = finished.stderr.strip().splitlines()[-1]
    assert "no GPU adapter for wgpu: got " in error
    assert "expected a Vulkan, Metal or D3D12 driver" in error
    assert "mesa-vulkan-drivers" in error
    opengl = "import wgpu; print([a.info['backend_type'] for a in wgpu.gpu.enumerate_adapters_sync()])"
    if "OpenGL" in run("-c", opengl, **NO_VULKAN).stdout:
        assert " over OpenGL" in error


@pytest.mark.skipif(sys.platform != "linux", reason="hides the drivers of Linux's Vulkan loader")
@pytest.mark.parametrize("ci", [False, True])
def test_setup_names_what_is_missing_and_fails(ci: bool) -> None:
    finished = run("-m", "tests.machine", **NO_VULKAN, **({"CI": "true"} if ci else {}))
    assert finished.returncode == 1
    assert "setup: no GPU adapter for wgpu: got" in finished.stderr
    assert ("will be skipped" in finished.stderr) is not ci


def test_a_missing_program_is_named_with_its_packages() -> None:
    need = machine.Need("a browser", ("one|two", "three"), lambda: None)
    assert need.missing() == "a browser is missing; on Debian: apt-get install one|two three"
    assert machine.Need("a shell", (), lambda: "/bin/sh").missing() is None


def test_packages_are_installed_in_one_go_and_the_first_that_can_be_had_of_several(tmp_path: Path) -> None:
    """`.ci/apt-install` with an apt of ours: `absent` cannot be had."""
    log = tmp_path / "log"
    (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    (tmp_path / "apt-cache").write_text('#!/bin/sh\nfor last; do :; done\n[ "$last" != absent ]\n')
    (tmp_path / "sudo").write_text('#!/bin/sh\n[ "$2" = true ] || { shift; "$@"; }\n')
    for name in ("apt-get", "apt-cache", "sudo"):
        (tmp_path / name).chmod(0o755)

    def install(*packages: str) -> tuple[int, str]:
        log.unlink(missing_ok=True)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        command = [str(machine.APT_INSTALL), *packages]
        status = subprocess.run(command, env=os.environ | {"PATH": path}, check=False).returncode
        return status, log.read_text().splitlines()[-1]

    assert install("absent|one", "two") == (0, "install -y -qq --no-install-recommends one two")
    assert install("absent", "two") == (1, "install -y -qq --no-install-recommends two")
