"""Imports TVM without torch. Knows how TVM finds it; loads nothing until it is asked to."""

import importlib
import sys


def import_tvm() -> None:
    """Imports TVM for good, so that every later `import tvm` finds it.

    TVM imports torch wherever that is installed, to convert tensors that Wisp has none of: two seconds of a compile.
    Where torch is loaded already nothing is hidden; whoever needs it later imports it as ever.
    """
    if "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own mark for "not to be found"
    try:
        importlib.import_module("tvm.relax.frontend.nn")
    finally:
        del sys.modules["torch"]
