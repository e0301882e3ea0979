"""What lowering does once: a kernel is rendered once however many chunks, variants and models have it."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from tvm import tirx

from compiler.kernels.builder import Kernel, f32
from compiler.lowering import lower, wgsl


def scaled(name: str, factor: float, operand: str = "x") -> tirx.PrimFunc:
    """x times a constant."""
    with Kernel(name) as kernel:
        x = kernel.buffer(operand, 32, "float32")
        out = kernel.buffer("out", 32, "float32")
        block, _ = kernel.grid(1)
        thread = kernel.threads(32)
        out[block * 32 + thread] = x[thread] * f32(factor)
    return kernel.function


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[tirx.PrimFunc]:
    """Every function that is really rendered while the test runs."""
    functions: list[tirx.PrimFunc] = []
    render: Callable[..., wgsl.KernelInfo] = wgsl.render

    def counted(function: tirx.PrimFunc, entry: str) -> wgsl.KernelInfo:
        functions.append(function)
        return render(function, entry)

    monkeypatch.setattr(wgsl, "render", counted)
    monkeypatch.setattr(lower, "_RENDERED", {})
    return functions


def test_kernels_that_differ_in_name_alone_are_rendered_once(rendered: list[tirx.PrimFunc]) -> None:
    kernels = lower._render({name: scaled(name, 0.1) for name in ("one", "two")})
    again = lower._render({"three": scaled("three", 0.1)})
    assert len(rendered) == 1
    assert [info.entry for info in (*kernels.values(), *again.values())] == ["one", "one", "three"]
    assert again["three"].source == kernels["one"].source.replace("one", "three")
    assert again["three"] == wgsl.render(scaled("three", 0.1), "three")


def test_a_constant_that_prints_alike_is_another_kernel(rendered: list[tirx.PrimFunc]) -> None:
    close = float(np.nextafter(np.float32(0.1), np.float32(1)))
    kernels = lower._render({"one": scaled("one", 0.1), "close": scaled("close", close)})
    assert len(rendered) == 2
    assert kernels["close"].entry == "close"


def test_text_depends_on_no_kernel_that_was_rendered_before(rendered: list[tirx.PrimFunc]) -> None:
    """The names of bindings are text: equal structure under other names is rendered anew."""
    lower._render({"one": scaled("one", 0.1, "x")})
    other = lower._render({"one": scaled("one", 0.1, "residual")})["one"]
    assert len(rendered) == 2
    assert "one_residual" in other.source


def test_importing_tvm_leaves_torch_out_and_torch_can_be_had_afterwards() -> None:
    program = """
import sys
from compiler.lowering.tvm_import import import_tvm
import_tvm()
import compiler.build
assert "tvm" in sys.modules
assert "torch" not in sys.modules, "torch came along"
import torch
assert torch.ones(2).sum() == 2
"""
    subprocess.run([sys.executable, "-c", program], check=True)
