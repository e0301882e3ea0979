"""The plan: buffers, kernels and dispatches, as data. Its format is in `artifact/FORMAT.md`.

Knows Relax's planned functions (a straight list of allocations and calls) and turns each into dispatches over numbered
buffers. It knows nothing about what the kernels compute. Storages that Relax planned inside one program are shared
between programs, which never run at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from .wgsl import KernelInfo

ALIGNMENT = 16  # bytes; a scratch buffer may be bound as vectors


@dataclass(frozen=True)
class Call:
    """One kernel call of a program: operands are parameter names or `storage:N`."""

    kernel: str
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A planned program: its calls in order and the sizes of the storages that it needs."""

    calls: tuple[Call, ...]
    storages: tuple[int, ...]


@dataclass(frozen=True)
class AlternativePrograms:
    """Programs that compute what those of the same names do, with other kernels in a module of their own.

    `kernels` maps the names in the programs to rendered kernels: the plan's own (by entry) or the alternative's.
    """

    name: str
    kernels_file: str
    language_features: tuple[str, ...]
    preferred_on: tuple[str, ...]
    tolerance: float
    programs: Mapping[str, Program]
    kernels: Mapping[str, KernelInfo]


def read_program(
    function: relax.Function, parameters: Sequence[str], kernels: Mapping[tvm.ir.GlobalVar, str]
) -> Program:
    """Walk a planned Relax function. `parameters` names its parameters in order; `kernels` its callees.

    Raises `RuntimeError` at anything but allocations, calls and aliases: then Relax has not planned it.
    """
    places: dict[Any, Any] = {}  # variable -> operand name, or a tuple of them
    storages: list[int] = []
    calls: list[Call] = []

    def resolve(value: Any) -> Any:
        if isinstance(value, relax.Tuple):
            return tuple(resolve(item) for item in value.fields)
        if isinstance(value, relax.TupleGetItem):
            return resolve(value.tuple_value)[value.index]
        return places[value]

    for parameter, name in zip(function.params, parameters, strict=True):
        places[parameter] = name
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not isinstance(value, relax.Call):
                places[binding.var] = resolve(value)
                continue
            operator = getattr(value.op, "name", "")
            if isinstance(value.op, tvm.ir.GlobalVar):
                calls.append(Call(kernels[value.op], tuple(resolve(argument) for argument in value.args)))
            elif operator == "relax.memory.alloc_storage":
                places[binding.var] = f"storage:{len(storages)}"
                storages.append(int(value.args[0].values[0]))
            elif operator == "relax.memory.alloc_tensor":
                if int(value.args[1].value) != 0:
                    raise RuntimeError("a planned tensor does not begin its storage")
                places[binding.var] = resolve(value.args[0])
            elif operator == "relax.builtin.alloc_tensor":
                places[binding.var] = f"storage:{len(storages)}"
                storages.append(_tensor_bytes(binding.var))
            elif operator not in ("relax.memory.kill_storage", "relax.memory.kill_tensor"):
                raise RuntimeError(f"a planned program holds an unexpected call: {value}")
    return Program(tuple(calls), tuple(storages))


def _tensor_bytes(variable: relax.Var) -> int:
    tensor = variable.ty
    size = tvm.DataType(str(tensor.dtype)).itemsize if hasattr(tvm, "DataType") else 4
    for extent in tensor.shape.values:
        size *= int(extent)
    return int(size)


def share_storages(programs: Mapping[str, Program]) -> tuple[list[int], dict[str, dict[str, int]]]:
    """Give the programs common scratch buffers: (sizes, program -> `storage:N` -> index).

    The largest storage of each program goes to the first buffer, and so on, so that the sum is that of the program
    that needs most at each place.
    """
    sizes: list[int] = []
    places: dict[str, dict[str, int]] = {}
    for name, program in programs.items():
        order = sorted(range(len(program.storages)), key=lambda i: -program.storages[i])
        places[name] = {f"storage:{storage}": rank for rank, storage in enumerate(order)}
        for rank, storage in enumerate(order):
            size = -(-program.storages[storage] // ALIGNMENT) * ALIGNMENT
            if rank == len(sizes):
                sizes.append(size)
            sizes[rank] = max(sizes[rank], size)
    return sizes, places


def _describe_needs(alternative: AlternativePrograms) -> dict[str, Any]:
    return {
        "language_features": list(alternative.language_features),
        "preferred_on": list(alternative.preferred_on),
        "tolerance": alternative.tolerance,
    }


def assemble(
    header: Mapping[str, Any],
    named: Mapping[str, Mapping[str, Any]],
    programs: Mapping[str, Program],
    kernels: Mapping[str, KernelInfo],
    alternatives: Sequence[AlternativePrograms] = (),
) -> dict[str, Any]:
    """The content of plan.json.

    `named` describes every buffer that is a parameter; those that no program uses are left out. `kernels` maps the
    names in the programs to rendered kernels; names that share an entry share the kernel.
    """
    everything = {("", name): program for name, program in programs.items()}
    everything |= {(a.name, name): program for a in alternatives for name, program in a.programs.items()}
    sizes, places = share_storages({"@".join(key): program for key, program in everything.items()})
    used = {operand for program in everything.values() for call in program.calls for operand in call.operands}
    buffers: list[Mapping[str, Any]] = [description for name, description in named.items() if name in used]
    index = {str(name): i for i, name in enumerate(name for name in named if name in used)}
    scratch = len(buffers)
    buffers += [{"kind": "scratch", "name": f"scratch.{i}", "bytes": size} for i, size in enumerate(sizes)]

    def dispatch(
        call: Call, storages: Mapping[str, int], infos: Mapping[str, KernelInfo], numbers: Mapping[str, int]
    ) -> dict[str, Any]:
        info = infos[call.kernel]
        operands = [call.operands[parameter] for parameter in info.parameters]
        bind = [index[operand] if operand in index else scratch + storages[operand] for operand in operands]
        return {"kernel": numbers[info.entry], "bind": bind, "grid": list(info.grid)}

    def dispatches(
        owner: str, found: Mapping[str, Program], infos: Mapping[str, KernelInfo], numbers: Mapping[str, int]
    ) -> dict[str, list[dict[str, Any]]]:
        return {
            name: [dispatch(call, places[f"{owner}@{name}"], infos, numbers) for call in program.calls]
            for name, program in found.items()
        }

    own = _distinct(kernels)
    numbers = {entry: i for i, entry in enumerate(own)}
    plan = {
        **header,
        "buffers": [dict(b) for b in buffers],
        "kernels": [_describe_kernel(info) for info in own.values()],
        "programs": dispatches("", programs, kernels, numbers),
    }
    described = []
    for alternative in alternatives:
        more = {entry: info for entry, info in _distinct(alternative.kernels).items() if entry not in own}
        extended = numbers | {entry: len(own) + i for i, entry in enumerate(more)}
        described.append(
            {
                "name": alternative.name,
                "kernels_file": alternative.kernels_file,
                **_describe_needs(alternative),
                "kernels": [_describe_kernel(info) for info in more.values()],
                "programs": dispatches(alternative.name, alternative.programs, alternative.kernels, extended),
            }
        )
    return plan | ({"alternatives": described} if described else {})


def _distinct(kernels: Mapping[str, KernelInfo]) -> dict[str, KernelInfo]:
    """The kernels by entry, in the order of their first names."""
    found: dict[str, KernelInfo] = {}
    for info in kernels.values():
        found.setdefault(info.entry, info)
    return found


def _describe_kernel(info: KernelInfo) -> dict[str, Any]:
    return {
        "entry": info.entry,
        "workgroup_size": list(info.workgroup_size),
        "workgroup_bytes": info.workgroup_bytes,
        "bindings": list(info.bindings),
    }
