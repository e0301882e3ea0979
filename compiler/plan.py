"""The plan: buffers, kernels and dispatches, as data. Its format is in `compiler/FORMAT.md`.

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

from compiler.wgsl import KernelInfo

ALIGNMENT = 16  # bytes; a scratch buffer may be bound as vectors


@dataclass(frozen=True)
class Buffer:
    """A GPU buffer of the plan, as its JSON object."""

    description: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.description["name"])


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


def assemble(
    header: Mapping[str, Any],
    named: Mapping[str, Mapping[str, Any]],
    programs: Mapping[str, Program],
    kernels: Mapping[str, KernelInfo],
) -> dict[str, Any]:
    """The content of plan.json.

    `named` describes every buffer that is a parameter; those that no program uses are left out. `kernels` maps the
    names in the programs to rendered kernels; names that share an entry share the kernel.
    """
    sizes, places = share_storages(programs)
    used = {operand for program in programs.values() for call in program.calls for operand in call.operands}
    buffers: list[Mapping[str, Any]] = [description for name, description in named.items() if name in used]
    index = {str(name): i for i, name in enumerate(name for name in named if name in used)}
    scratch = len(buffers)
    buffers += [{"kind": "scratch", "name": f"scratch.{i}", "bytes": size} for i, size in enumerate(sizes)]
    entries: dict[str, int] = {}
    kernel_list: list[dict[str, Any]] = []
    for info in kernels.values():
        if info.entry not in entries:
            entries[info.entry] = len(kernel_list)
            kernel_list.append(
                {
                    "entry": info.entry,
                    "workgroup_size": list(info.workgroup_size),
                    "workgroup_bytes": info.workgroup_bytes,
                    "bindings": list(info.bindings),
                }
            )
    dispatches: dict[str, list[dict[str, Any]]] = {}
    for name, program in programs.items():
        dispatches[name] = []
        for call in program.calls:
            info = kernels[call.kernel]
            bind = []
            for parameter in info.parameters:
                operand = call.operands[parameter]
                bind.append(index[operand] if operand in index else scratch + places[name][operand])
            dispatches[name].append({"kernel": entries[info.entry], "bind": bind, "grid": list(info.grid)})
    return {**header, "buffers": [dict(b) for b in buffers], "kernels": kernel_list, "programs": dispatches}
