"""TIR kernels as WGSL: names, registers, bindings, and what is taken out of TVM's text."""

import re

import pytest
from tvm import tirx

from compiler.kernels.builder import Kernel, f32, i32, mod
from compiler.lowering import wgsl
from compiler.runtime.wgpu import native_source


def toy(loops: int = 3, dynamic: bool = False) -> tirx.PrimFunc:
    """out[i] = sum of x + a constant, with registers at every depth and workgroup memory of two types."""
    with Kernel("toy") as kernel:
        out = kernel.buffer("out", 128, "float32x4")  # declared first, bound where TVM puts it
        x = kernel.buffer("x", 128, "float32")
        state = kernel.buffer("state", 64, "uint32")
        block, _ = kernel.grid(2)
        thread = kernel.threads(32)
        shared, marks = kernel.shared(33), kernel.shared(32, "int32")
        table = kernel.registers(4)
        for i in range(4):
            table[i] = f32(float(i))
        total = kernel.registers()
        total[0] = f32(0.1)
        with kernel.loop(loops) as step, kernel.when(step < i32(state[0])):
            value = kernel.let(x[step * 32 + thread] * f32(1 / 3))
            total[0] = total[0] + value * value + (table[mod(step, 4)] if dynamic else table[2])
        shared[thread], marks[thread] = total[0], thread
        kernel.barrier()
        out[block * 32 + thread] = tirx.Broadcast(shared[mod(thread + 1, 33)] + f32(marks[0]), 4)
    return kernel.function


def test_what_the_plan_says_of_a_kernel() -> None:
    info = wgsl.render(toy(), "first")
    assert info.entry == "first"
    assert info.grid == (2, 1, 1)
    assert info.workgroup_size == (32, 1, 1)
    assert info.workgroup_bytes == 144 + 128  # each array rounded up to 16 bytes
    by_parameter = dict(zip(info.parameters, info.bindings, strict=True))
    assert by_parameter == {0: "read_write", 1: "read", 2: "read"}


def test_bindings_are_numbered_as_the_parameters_say() -> None:
    info = wgsl.render(toy(), "first")
    names = ["out", "x", "state"]
    declared = re.findall(r"@binding\((\d+)\) var<storage, (\w+)> first_(\w+) :", info.source)
    assert [(int(i), access, name) for i, access, name in declared] == [
        (i, access, names[parameter])
        for i, (access, parameter) in enumerate(zip(info.bindings, info.parameters, strict=True))
    ]


def test_every_global_bears_the_name_of_its_kernel() -> None:
    """Two kernels of the same text in one module declare nothing twice."""
    kernels = {name: wgsl.render(toy(), name) for name in ("first", "second")}
    module = wgsl.join(kernels, subgroups=False)
    declared = re.findall(r"^(?:@\S+ |@\w+\(\d+\) )*(?:var<[^>]+>|fn|struct) ?(\w+)", module, re.MULTILINE)
    assert len(declared) == len(set(declared))
    assert {"first", "second", "first_x", "second_x"} <= set(declared)
    assert all(name.startswith(("first", "second", "wisp_")) for name in declared)


def test_the_uniform_for_wide_grids_is_gone() -> None:
    source = wgsl.render(toy(), "first").source
    for word in ("podArgs", "PODArgs", "uniform", "gridDim", "num_workgroups", "blockIdx.z", "enable "):
        assert word not in source


def test_registers_are_plain_variables_at_every_depth() -> None:
    source = wgsl.render(toy(), "first").source
    assert not re.search(r"^ +var \w+ : array<", source, re.MULTILINE)
    assert len(re.findall(r"^ +var \w+ : f32;", source, re.MULTILINE)) >= 6


def test_a_register_array_with_a_run_time_index_stays_an_array() -> None:
    source = wgsl.render(toy(dynamic=True), "first").source
    assert len(re.findall(r"^ +var \w+ : array<f32, 4>;", source, re.MULTILINE)) == 1


def test_constants_are_exact() -> None:
    """TVM writes seven digits; a constant that needs more comes as its bits."""
    source = wgsl.render(toy(), "first").source
    assert "bitcast<f32>(1051372203u)" in source  # 1/3
    assert "1.000000e-01f" in source


def test_directives_stand_first_and_naga_gets_those_it_knows() -> None:
    kernels = {"first": wgsl.render(toy(), "first")}
    module = wgsl.join(kernels, subgroups=True)
    assert module.splitlines()[:2] == ["enable subgroups;", "diagnostic(off, subgroup_uniformity);"]
    native = native_source(module)
    assert "subgroups;" not in native
    assert "diagnostic" not in native
    assert not wgsl.join(kernels, subgroups=False).startswith(("enable", "diagnostic"))


@pytest.mark.parametrize("missing", ["guard", "grid size", "uniform"])
def test_text_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """As another version of TVM might write it."""
    changed = {"guard": "_GUARD", "grid size": "_GRID_DIM", "uniform": "_POD"}[missing]
    value = re.compile("not in the text") if missing == "uniform" else "not in the text"
    monkeypatch.setattr(wgsl, changed, value)
    with pytest.raises(RuntimeError, match="lacks the expected"):
        wgsl.render(toy(), "first")


def test_a_kernel_opens_its_grid_within_the_limit() -> None:
    with pytest.raises(ValueError, match="grid 65536 x 1 exceeds 65535"), Kernel("wide") as kernel:
        kernel.grid(65536)
