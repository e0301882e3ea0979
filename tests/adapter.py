"""Finds the graphics adapter of the native tests: `python -m tests.adapter` prints it, and fails when there is none."""

import sys


def describe() -> str | None:
    """The name of the adapter that wgpu takes, or None."""
    import wgpu

    try:
        return wgpu.gpu.request_adapter_sync(power_preference="high-performance").info["device"]
    except RuntimeError:
        return None


if __name__ == "__main__":
    found = describe()
    print(
        found or "no Vulkan adapter found; install a driver, for example the package mesa-vulkan-drivers",
        file=sys.stderr,
    )
    sys.exit(found is None)
