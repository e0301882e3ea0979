"""Finds the graphics adapter of the native tests: `python -m tests.adapter` prints it, and fails when there is none."""

import sys
from pathlib import Path

from compiler.errors import WispError

REQUIRED = ("shader-f16", "subgroups")  # what some variant or kernel needs, so that every test can run


def find() -> str:
    """The name of the adapter that tests take. Raises WispError when there is none that runs them all."""
    from compiler.runtime.wgpu import missing_features, request_adapter

    adapter = request_adapter()
    name = str(adapter.info["device"])
    if missing := missing_features(adapter, REQUIRED):
        raise WispError(
            "the GPU adapter cannot run every test",
            got=f"{name} without {' and '.join(missing)}",
            expected=", ".join(REQUIRED),
            remedy="install another driver (on Debian, the package mesa-vulkan-drivers has a software one)",
        )
    return name


def radeon() -> Path | None:
    """Mesa's driver of AMD's GPUs, as the Vulkan loader is told of it: it compiles where there is no such GPU."""
    return next(iter(sorted(Path("/usr/share/vulkan/icd.d").glob("radeon_icd*.json"))), None)


if __name__ == "__main__":
    try:
        print(find(), file=sys.stderr)
    except WispError as error:
        sys.exit(str(error))
