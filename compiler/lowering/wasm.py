"""TIR kernels -> one WebAssembly module. Knows TVM's LLVM code generator and the linker; knows nothing about models.

TVM gives a CPU function its packed calling convention, which wants DLTensors; ours take plain addresses, so the passes
that add it are left out. The object that LLVM writes is linked by `wasm-ld` from the package `ziglang`. The module
imports memory and nothing else, and exports a function a kernel; `artifact/FORMAT.md` has the contract.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tvm
from tvm import tirx
from tvm.tirx.build import codegen_build
from tvm_ffi import StructuralKey

from ..errors import WispError
from ..kernels.cpu.builder import STACK_BYTES
from .wgsl import KernelInfo

FEATURES = ("+simd128", "+bulk-memory", "+nontrapping-fptoint", "+sign-ext", "+mutable-globals")
RELAXED = "+relaxed-simd"
PASSES = (
    tirx.transform.ConvertSSA,
    tirx.transform.FlattenBuffer,
    tirx.transform.ForceNarrowIndexToInt32,
    tirx.transform.UnrollLoop,
    tirx.transform.StmtSimplify,
    tirx.transform.RemoveNoOp,
    tirx.transform.LowerIntrin,
)


def describe(functions: Mapping[str, tirx.PrimFunc]) -> dict[str, KernelInfo]:
    """What a plan says of each kernel; kernels that compute alike share the entry of the first."""
    entries: dict[StructuralKey, str] = {}
    described = {}
    for name, function in functions.items():
        anonymous = function.without_attr("wisp.name").without_attr("wisp.grid")
        entry = entries.setdefault(StructuralKey(anonymous), name)
        bindings = tuple(str(access) for access in function.attrs["wisp.bindings"])
        items = int(function.attrs["wisp.grid"][0])
        described[name] = KernelInfo(
            entry=entry,
            workgroup_size=(1, 1, 1),
            workgroup_bytes=0,
            bindings=bindings,
            parameters=tuple(range(len(bindings))),
            grid=(items, 1, 1),
            source="",
        )
    return described


def plain_function(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with an address in place of every buffer parameter."""
    parameters, declarations = [], []
    for parameter in function.params:
        if not hasattr(parameter.ty, "shape"):
            parameters.append(parameter)
            continue
        element = tvm.ir.PrimType(str(parameter.ty.dtype))
        address = tirx.Var(f"{parameter.name}_address", tvm.ir.PointerType(element, "global"))
        parameters.append(address)
        declarations.append(tirx.DeclBuffer(parameter, data=address))
    body = tirx.SeqStmt([*declarations, function.body])
    return tirx.PrimFunc(parameters, body).with_attrs({"tirx.noalias": True})


def compile_module(functions: Mapping[str, tirx.PrimFunc], relaxed: bool = False) -> bytes:
    """One module that exports `functions` under their names.

    Raises `RuntimeError` when a kernel calls a library function: the linker takes no symbol that nothing defines, so
    memory is all that is left to import.
    """
    return compile_modules(functions, (relaxed,))[0]


def compile_modules(functions: Mapping[str, tirx.PrimFunc], relaxed: Sequence[bool]) -> list[bytes]:
    """`compile_module` for several choices of `relaxed`; what precedes LLVM is done once."""
    target = _target(False)
    plain = {
        name: plain_function(function).with_attr("global_symbol", name).with_attr("target", target)
        for name, function in functions.items()
    }
    with tvm.transform.PassContext(opt_level=3), target:
        module = tvm.transform.Sequential([make() for make in PASSES])(tvm.IRModule(plain))
    return [_assemble(module, _target(choice)) for choice in relaxed]


def _target(relaxed: bool) -> tvm.target.Target:
    attributes = [*FEATURES, *([RELAXED] if relaxed else [])]
    return tvm.target.Target(
        {"kind": "llvm", "mtriple": "wasm32-unknown-unknown", "mattr": attributes, "vector-width": 128}
    )


def _assemble(module: tvm.IRModule, target: tvm.target.Target) -> bytes:
    """LLVM's object of lowered functions, linked."""
    functions = {variable.name_hint: f.with_attr("target", target) for variable, f in module.functions.items()}
    with tvm.transform.PassContext(opt_level=3), target:
        built = codegen_build(tvm.IRModule(functions), target)
    with tempfile.TemporaryDirectory() as folder:
        compiled, linked = Path(folder) / "kernels.o", Path(folder) / "kernels.wasm"
        built.write_to_file(str(compiled), "o")
        _link(compiled, linked, list(functions))
        return linked.read_bytes()


def _link(compiled: Path, linked: Path, exports: list[str]) -> None:
    if importlib.util.find_spec("ziglang") is None:
        raise WispError(
            "the linker for WebAssembly is missing",
            got="no package ziglang",
            expected="ziglang beside apache-tvm",
            remedy="pip install ziglang, or leave the variant wasm-simd out with --variants",
        )
    names = [f"--export={name}" for name in (*exports, "__heap_base", "__stack_pointer")]
    options = ["--no-entry", "--import-memory", "--strip-all", "--gc-sections", "--max-memory=4294967296"]
    command = [sys.executable, "-m", "ziglang", "wasm-ld", *options, f"-zstack-size={STACK_BYTES}", *names]
    finished = subprocess.run(
        [*command, "-o", str(linked), str(compiled)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if finished.returncode != 0:
        raise RuntimeError(f"wasm-ld failed: {finished.stderr.strip()}")
