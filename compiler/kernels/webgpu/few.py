"""Prefill of a few rows, as of a short turn: a mat-vec that multiplies each unpacked weight with several rows.

Tiles would leave most of a GPU idle; here, as in a decode step, lanes share the columns of a few matrix rows and meet
once in workgroup memory. Rows of activations are taken four at a time, those that are all padding not at all. Knows
nothing of layers. The numpy twin is `reference.matmul`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from ..builder import Array, Expr, Kernel, ceil_div, div, dot8, f32, i32, mod
from ..epilogue import Epilogue
from ..shapes import MatrixShape
from ..weights import Matrix
from .matmul import Column
from .matvec import Tuning
from .tiles import clear

MOST = 8  # rows: sums of more do not fit the registers
TOGETHER = 4


def matmul(name: str, shape: MatrixShape, tuning: Tuning) -> tirx.PrimFunc:
    """Build the product of a chunk of at most `MOST` rows, shared by `tuning.lanes` lanes.

    Bindings: x (f32 x4), weights, [scales], state, then the epilogue's.
    """
    if shape.chunk > MOST:
        raise ValueError(f"kernel {name}: {shape.chunk} rows exceed {MOST}")
    with Kernel(name) as kernel:
        x = kernel.buffer("x", shape.chunk * shape.k // 4, "float32x4")
        matrix = Matrix(kernel, shape.storage, shape.rows, shape.k)
        state = kernel.buffer("state", shape.state_words, "uint32")
        epilogue = shape.declare(kernel)
        lanes, teams = tuning.lanes, tuning.workgroup // tuning.lanes
        block, _ = kernel.grid(ceil_div(shape.units, teams * tuning.units))
        thread = kernel.threads(tuning.workgroup)
        length = kernel.let(i32(state[2]))
        team, lane = kernel.let(div(thread, lanes)), kernel.let(mod(thread, lanes))
        first = kernel.let((block * teams + team) * tuning.units)
        units = [kernel.let(tirx.min(first + u, shape.units - 1)) for u in range(tuning.units)]
        work = _Work(kernel, shape, tuning, x, matrix, thread, block, length)
        columns = [kernel.let(row) for unit in units for row in shape.unit_rows(unit)]
        sums = [[kernel.registers() for _ in columns] for _ in range(shape.chunk)]
        clear(sums)
        bases = [kernel.let(tirx.min(r, length - 1) * (shape.k // 4)) for r in range(shape.chunk)]
        with kernel.loop(ceil_div(matrix.blocks, lanes)) as step:
            index = kernel.let(step * lanes + lane)
            with kernel.when(True if matrix.blocks % lanes == 0 else index < matrix.blocks):
                _multiply(work, columns, bases, sums, index)
        _meet(work, epilogue, sums)
    return kernel.function


@dataclass(frozen=True)
class _Work:
    """A kernel while it is made: what is bound, and where an invocation is."""

    kernel: Kernel
    shape: MatrixShape
    tuning: Tuning
    x: Array
    matrix: Matrix
    thread: Expr
    workgroup: Expr
    length: Expr  # valid rows of the chunk


def _multiply(
    work: _Work, columns: Sequence[Expr], bases: Sequence[Expr], sums: Sequence[Sequence[Array]], block: Expr
) -> None:
    """Add a block's products: of matrix rows `columns` with the rows of activations that begin at `bases`."""
    kernel, matrix, x, length = work.kernel, work.matrix, work.x, work.length
    weights = [Column(kernel, matrix, row, block) for row in columns]
    with kernel.loop(matrix.parts_of(block)) as step:
        part = kernel.let(block * matrix.storage.parts + step)
        values = [column.part(step) for column in weights]
        for start in range(0, len(sums), TOGETHER):
            with kernel.when(True if start == 0 else start < length):
                for base, registers in zip(bases[start : start + TOGETHER], sums[start:], strict=False):
                    halves = kernel.let(x[base + part * 2]), kernel.let(x[base + part * 2 + 1])
                    for register, value in zip(registers, values, strict=True):
                        register[0] = dot8(register[0], halves, value)


def _meet(work: _Work, epilogue: Epilogue, sums: Sequence[Sequence[Array]]) -> None:
    """Lanes bring their sums together; an invocation finishes a unit of one row."""
    kernel, shape, tuning, thread = work.kernel, work.shape, work.tuning, work.thread
    lanes, per_row = tuning.lanes, len(sums[0])
    streams = per_row // tuning.units
    meeting = kernel.shared(len(sums) * per_row * tuning.workgroup)
    for r, registers in enumerate(sums):
        for i, register in enumerate(registers):
            meeting[(r * per_row + i) * tuning.workgroup + thread] = register[0]
    kernel.barrier()
    of_workgroup = tuning.units_of_workgroup
    outputs = of_workgroup * shape.chunk
    with kernel.loop(ceil_div(outputs, tuning.workgroup)) as turn:
        output = kernel.let(turn * tuning.workgroup + thread)
        row, place = kernel.let(div(output, of_workgroup)), kernel.let(mod(output, of_workgroup))
        unit = kernel.let(work.workgroup * of_workgroup + place)
        with kernel.when(tirx.And(row < tirx.min(work.length, shape.chunk), unit < shape.units)):
            team, u = kernel.let(div(place, tuning.units)), kernel.let(mod(place, tuning.units))
            values = []
            for s in range(streams):
                base = kernel.let((row * per_row + u * streams + s) * tuning.workgroup + team * lanes)
                total = kernel.registers()
                total[0] = f32(0.0)
                with kernel.loop(lanes) as other:
                    total[0] = total[0] + meeting[base + other]
                values.append(total[0])
            epilogue(kernel, row, unit, values)
