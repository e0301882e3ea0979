"""Prefill: a chunk of rows of activations times a quantized matrix, tiled in registers, epilogue fused.

An invocation walks K in parts of 8, so each unpacked weight serves all rows of its tile and each activation all its
columns; scales and zero points are in the weights by then. No workgroup memory and no barrier. The numpy twin is
`reference.matmul`.
"""

from __future__ import annotations

from tvm import tirx

from ..builder import Expr, Kernel, dot8, fma
from ..shapes import MatrixShape
from ..weights import Matrix
from .tiles import Tile, Tiling, clear


def matmul(name: str, shape: MatrixShape, tiling: Tiling) -> tirx.PrimFunc:
    """Build the product; bindings: x (f32 x4), weights, [scales], state, then the epilogue's."""
    storage, k = shape.storage, shape.k
    with Kernel(name) as kernel:
        x = kernel.buffer("x", shape.chunk * k // 4, "float32x4")
        matrix = Matrix(kernel, storage, shape.rows, k)
        tile = Tile(kernel, shape, tiling)
        with kernel.when(tile.inside):
            columns = tile.columns()
            x_rows = [kernel.let(tile.row(r) * (k // 4)) for r in range(tiling.tile_rows)]
            sums = tile.registers()
            clear(sums)
            with kernel.loop(matrix.blocks) as block:
                weights = [Column(kernel, matrix, row, block) for row in columns]
                with kernel.loop(matrix.parts_of(block)) as step:
                    part = kernel.let(block * storage.parts + step)
                    values = [column.part(step) for column in weights]
                    for base, row_sums in zip(x_rows, sums, strict=True):
                        # One row after the other, so that they need not all be in registers at once.
                        halves = kernel.let(x[base + part * 2]), kernel.let(x[base + part * 2 + 1])
                        for register, value in zip(row_sums, values, strict=True):
                            register[0] = dot8(register[0], halves, value)
            tile.store(sums)
    return kernel.function


class Column:
    """A block of a matrix row on its way into a product."""

    def __init__(self, kernel: Kernel, matrix: Matrix, row: Expr, block: Expr) -> None:
        self._kernel, self._matrix, self._place = kernel, matrix, (row, block)
        self._line = matrix.factors.line(row, block) if matrix.factors else None
        # Floats are too many for the registers.
        self._loaded = matrix.load(row, block) if matrix.factors else None

    def part(self, step: Expr) -> tuple[Expr, Expr]:
        """The 8 weights of a part as they are multiplied: what that costs serves all rows of the tile."""
        low, high = self._matrix.part_at(self._place, self._loaded, step)
        if self._line is None:
            return self._kernel.let(low), self._kernel.let(high)
        return self._kernel.let(fma(low, *self._line)), self._kernel.let(fma(high, *self._line))
