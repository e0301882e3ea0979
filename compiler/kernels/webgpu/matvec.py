"""Decode: one row of activations times a quantized matrix, with the norm before it and the epilogue after it fused.

Knows the quantized layout through `weights.Matrix` and how to share rows between the invocations of a workgroup. Knows
nothing about layers. One generator serves every matrix of a decode step:

* Integers are unpacked raised (`Kernel.raised`), so that each costs less than an instruction. That, zero points and
  biases cost a sum of the activations, which all rows of an invocation share.
* RMS norm costs nothing extra: `sum(W x g) * rsqrt(mean(x^2) + eps)`, so the sum of squares is gathered while the row
  is multiplied, and the scalar is applied at the end. No dispatch, no barrier.
* A *unit* is what the epilogue needs together: one row, or two rows (gate and up; the two halves of a rotary pair).
* `Tuning.mode` says who shares a row: a `subgroup` of whatever size the device has (no barrier), all subgroups of a
  `workgroup`, or a fixed number of `lanes`; the last two meet once in workgroup memory. Of one lane nobody shares it.

The numpy twin is `reference.matvec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...weights.storage import PART
from ..builder import Array, Expr, Kernel, all_of, call, ceil_div, div, dot, dot8, f32, fma, i32, mod
from ..epilogue import Epilogue
from ..shapes import MatrixShape, Norm
from ..weights import Matrix, load_vector4

LEAST_SUBGROUP = 4  # invocations: of any device, WebGPU says


@dataclass(frozen=True)
class Tuning:
    """How a mat-vec is spread over invocations."""

    mode: Literal["subgroup", "workgroup", "lanes"]
    workgroup: int  # invocations
    lanes: int  # invocations a row; 0 in mode "subgroup", all in mode "workgroup"
    units: int  # units that an invocation carries at once
    units_per_workgroup: int = 0  # in mode "subgroup": units of a workgroup, shared by its subgroups

    @property
    def units_of_workgroup(self) -> int:
        """Units of a workgroup, in any mode."""
        return self.units_per_workgroup or self.units * self.workgroup // self.lanes


def matvec(name: str, shape: MatrixShape, tuning: Tuning, norm: Norm | None = None) -> tirx.PrimFunc:
    """Build `[1, k] x [rows, k]^T`: a shape whose chunk is 1.

    Bindings: x (f32 x4, k/4), [gamma (k)], weights, [scales], then what the shape's `declare` declares.
    """
    k = shape.k
    with Kernel(name) as kernel:
        x = kernel.buffer("x", k // 4, "float32x4")
        gamma = None
        if norm:
            gamma = kernel.buffer("gamma", k // 4, "uint32x2" if norm.f16_weight else "float32x4")
        matrix = Matrix(kernel, shape.storage, shape.rows, k)
        product = _Product(kernel, shape, tuning, norm, x, gamma, matrix, shape.declare(kernel))
        {"subgroup": _by_subgroup, "workgroup": _by_workgroup, "lanes": _by_lanes}[tuning.mode](product)
    return kernel.function


@dataclass(frozen=True)
class _Product:
    """A mat-vec while its kernel is made: what is bound, and the steps that every mode takes."""

    kernel: Kernel
    shape: MatrixShape
    tuning: Tuning
    norm: Norm | None
    x: Array
    gamma: Array | None
    matrix: Matrix
    epilogue: Epilogue

    def accumulate(self, first_unit: Expr, lane: Expr, lanes: Expr) -> tuple[list[list[Array]], Array]:
        """Sums of `tuning.units` units over every `lanes`-th block: [unit][stream] registers, sum of squares."""
        kernel, matrix, count, unit_rows = self.kernel, self.matrix, self.tuning.units, self.shape.unit_rows
        streams = len(unit_rows(0))
        sums = [[kernel.registers() for _ in range(streams)] for _ in range(count)]
        squares = kernel.registers()
        squares[0] = f32(0.0)
        for unit in sums:
            for register in unit:
                register[0] = f32(0.0)
        indices = [[kernel.let(row) for row in unit_rows(self.clamped(first_unit + u))] for u in range(count)]
        static = isinstance(lanes, int)
        steps = ceil_div(matrix.blocks, lanes) if static else kernel.let(div(matrix.blocks + lanes - 1, lanes))
        ragged = not static or matrix.blocks % lanes != 0
        with kernel.loop(steps) as step:
            block = kernel.let(step * lanes + lane)
            with kernel.when(all_of([block < matrix.blocks if ragged else True])):
                self.add_block(indices, sums, squares, block)
        return sums, squares

    def clamped(self, unit: Expr) -> Expr:
        """A unit index that is safe to load; the store is guarded separately."""
        exact = self.shape.units % self.tuning.units_of_workgroup == 0
        return self.kernel.let(unit) if exact else self.kernel.let(tirx.min(unit, self.shape.units - 1))

    def add_block(
        self, indices: Sequence[Sequence[Expr]], sums: Sequence[Sequence[Array]], squares: Array, block: Expr
    ) -> None:
        """Multiply one block of columns for all units of this invocation."""
        kernel, matrix, storage, factors = self.kernel, self.matrix, self.matrix.storage, self.matrix.factors
        parts_in_last = (matrix.k % storage.block) // PART or storage.parts
        whole = parts_in_last == storage.parts
        rows = [row for unit in indices for row in unit]
        registers = [register for unit in sums for register in unit]
        loaded = [matrix.load(row, block) for row in rows] if whole else None
        halves = self.activations(squares, block, parts_in_last)
        if factors:
            # The sum of the activations serves all rows.
            total = halves[0]
            for half in halves[1:]:
                total = total + half
            total = kernel.let(dot(kernel.let(total), T.broadcast(f32(1.0), 4)))
            products = [kernel.registers() for _ in rows]
            offset = kernel.let(total * f32(-factors.above))
            for product in products:
                product[0] = offset
        else:
            products = registers
        for part in range(storage.parts):
            with kernel.when(_inside(matrix, block, part, parts_in_last)):
                for i, (row, product) in enumerate(zip(rows, products, strict=True)):
                    elements = loaded[i] if loaded else matrix.load_part(row, block, part)
                    weights = matrix.part(elements, part)
                    product[0] = dot8(product[0], (halves[2 * part], halves[2 * part + 1]), weights)
        if factors:
            for row, product, register in zip(rows, products, registers, strict=True):
                scale, bias = factors.of_block(row, block)
                if bias is not None:
                    register[0] = fma(total, bias, register[0])
                register[0] = fma(product[0], scale, register[0])

    def activations(self, squares: Array, block: Expr, parts_in_last: int) -> list[Expr]:
        """A block's, times the norm's weight where there is a norm, two `vec4<f32>` a part; 0 beyond K."""
        kernel, storage, norm = self.kernel, self.matrix.storage, self.norm
        halves = []
        for half in range(2 * storage.parts):
            index = block * (storage.block // 4) + half
            inside = _inside(self.matrix, block, half // 2, parts_in_last)
            value = kernel.registers(1, "float32x4")
            if inside is not True:
                value[0] = T.broadcast(f32(0.0), 4)
            with kernel.when(inside):
                value[0] = self.x[index]
                if norm and self.gamma:
                    squares[0] = squares[0] + dot(value[0], value[0])
                    value[0] = value[0] * load_vector4(self.gamma, norm.f16_weight, index)
            halves.append(value[0])
        return halves

    def finish(self, unit: Expr, exact: bool, values: Sequence[Expr], squares: Expr) -> None:
        """Apply the norm's scalar and the epilogue to one unit, if it exists."""
        kernel, norm = self.kernel, self.norm
        with kernel.when(True if exact else unit < self.shape.units):
            if norm:
                factor = kernel.let(T.rsqrt(squares / f32(float(self.shape.k)) + f32(norm.epsilon)))
                values = [value * factor for value in values]
            self.epilogue(kernel, 0, unit, [kernel.let(value) for value in values])


def _inside(matrix: Matrix, block: Expr, part: int, parts_in_last: int) -> Expr:
    """Whether a part of a block is within K: those beyond are neither in x nor, without padding, in the weights."""
    return True if part < parts_in_last else block * matrix.storage.block + part * PART < matrix.k


def _by_subgroup(product: _Product) -> None:
    """A subgroup takes `tuning.units` units at a time; the subgroups of a workgroup share `units_per_workgroup`."""
    kernel, tuning, units, norm = product.kernel, product.tuning, product.shape.units, product.norm
    block, _ = kernel.grid(ceil_div(units, tuning.units_per_workgroup))
    thread = kernel.threads(tuning.workgroup)
    size, lane = _subgroup(kernel)
    subgroups = kernel.let(div(tuning.workgroup, size))
    subgroup = kernel.let(div(thread, size))
    batches = tuning.units_per_workgroup // tuning.units
    exact = units % tuning.units_per_workgroup == 0
    with kernel.loop(kernel.let(div(batches + subgroups - 1, subgroups))) as turn:
        batch = kernel.let(turn * subgroups + subgroup)
        first = kernel.let(block * tuning.units_per_workgroup + batch * tuning.units)
        # Uniform within a subgroup, which is what its operations need.
        with kernel.when(batch < batches):
            sums, squares = product.accumulate(first, lane, size)
            _add_subgroup([register for unit in sums for register in unit] + ([squares] if norm else []))
            with kernel.when(lane == 0):
                for u, unit in enumerate(sums):
                    product.finish(first + u, exact, [r[0] for r in unit], squares[0])


def _subgroup(kernel: Kernel) -> tuple[Expr, Expr]:
    """Size of the subgroup, and the invocation's place in it."""
    size = kernel.let(i32(call("uint32", "subgroupAdd", T.uint32(1))))
    return size, kernel.let(i32(call("uint32", "subgroupExclusiveAdd", T.uint32(1))))


def _add_subgroup(registers: Sequence[Array]) -> None:
    """Each register becomes the sum of the subgroup's."""
    for register in registers:
        register[0] = call("float32", "subgroupAdd", register[0])


def _by_workgroup(product: _Product) -> None:
    """All invocations share `tuning.units` units: of few rows there are as many more in flight as it has subgroups."""
    kernel, tuning, units, norm = product.kernel, product.tuning, product.shape.units, product.norm
    block, _ = kernel.grid(ceil_div(units, tuning.units))
    thread = kernel.threads(tuning.workgroup)
    size, lane = _subgroup(kernel)
    first = kernel.let(block * tuning.units)
    sums, squares = product.accumulate(first, thread, tuning.workgroup)
    registers = [register for unit in sums for register in unit] + ([squares] if norm else [])
    _add_subgroup(registers)
    places = tuning.workgroup // LEAST_SUBGROUP
    meeting = kernel.shared(len(registers) * places)
    subgroup = kernel.let(div(thread, size))
    with kernel.when(lane == 0):
        for i, register in enumerate(registers):
            meeting[i * places + subgroup] = register[0]
    kernel.barrier()
    subgroups = kernel.let(div(tuning.workgroup, size))
    streams = len(sums[0])

    def total(place: Expr) -> Expr:
        whole = kernel.registers()
        whole[0] = f32(0.0)
        with kernel.loop(subgroups) as other:
            whole[0] = whole[0] + meeting[place * places + other]
        return whole[0]

    with kernel.when(thread < tuning.units):
        values = [total(kernel.let(thread * streams + s)) for s in range(streams)]
        norm_of_all = total(tuning.units * streams) if norm else None
        exact = units % tuning.units == 0
        product.finish(kernel.let(first + thread), exact, values, norm_of_all)


def _by_lanes(product: _Product) -> None:
    """`lanes` invocations share `tuning.units` units and meet once in workgroup memory; one lane needs no meeting."""
    kernel, tuning, units, norm = product.kernel, product.tuning, product.shape.units, product.norm
    teams = tuning.workgroup // tuning.lanes
    per_workgroup = teams * tuning.units
    block, _ = kernel.grid(ceil_div(units, per_workgroup))
    thread = kernel.threads(tuning.workgroup)
    exact = units % per_workgroup == 0
    team, lane = kernel.let(div(thread, tuning.lanes)), kernel.let(mod(thread, tuning.lanes))
    first = kernel.let(block * per_workgroup + team * tuning.units)
    sums, squares = product.accumulate(first, lane if tuning.lanes > 1 else 0, tuning.lanes)
    if tuning.lanes == 1:
        for u, unit in enumerate(sums):
            product.finish(first + u, exact, [r[0] for r in unit], squares[0])
        return
    streams = len(sums[0])
    meeting = kernel.shared(streams * per_workgroup * tuning.lanes)
    norms = kernel.shared(tuning.workgroup) if norm else None
    for u, unit in enumerate(sums):
        for s, register in enumerate(unit):
            meeting[((s * teams + team) * tuning.units + u) * tuning.lanes + lane] = register[0]
    if norms:
        norms[thread] = squares[0]
    kernel.barrier()
    with kernel.when(True if per_workgroup == tuning.workgroup else thread < per_workgroup):
        totals = [kernel.registers() for _ in range(streams)]
        total_squares = kernel.registers()
        total_squares[0] = f32(0.0)
        for s, total in enumerate(totals):
            total[0] = f32(0.0)
            for other in range(tuning.lanes):
                total[0] = total[0] + meeting[(s * per_workgroup + thread) * tuning.lanes + other]
        if norms:
            for other in range(tuning.lanes):
                total_squares[0] = total_squares[0] + norms[div(thread, tuning.units) * tuning.lanes + other]
        unit_index = kernel.let(block * per_workgroup + thread)
        product.finish(unit_index, exact, [t[0] for t in totals], total_squares[0])
