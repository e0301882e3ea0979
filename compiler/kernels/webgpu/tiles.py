"""The frame of prefill's products: which invocation has which rows and columns, and what becomes of its sums.

An invocation holds a tile of sums, `tile_rows` rows of activations by `tile_columns` rows of the matrix. Workgroups
that need the same weights follow each other, so that all but the first find them in a cache. Invocations whose rows are
all padding (at or beyond the chunk's valid length) do nothing. It knows nothing of how activations and weights are
stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from ..builder import Array, Expr, Kernel, ceil_div, div, f32, i32, mod
from ..shapes import MatrixShape


@dataclass(frozen=True)
class Tiling:
    """A workgroup is `columns` x `rows` invocations, each with `tile_rows` x `tile_columns` sums.

    With one row of invocations all of them need the same activations, which GPUs load once for a subgroup; with more,
    neighbours share weights in the cache.
    """

    columns: int  # invocations along the matrix's rows
    rows: int  # and along the activations'
    tile_rows: int
    tile_columns: int  # a unit of two matrix rows takes two


class Tile:
    """An invocation's tile. Making it binds the state and what the epilogue declares, and opens the grid."""

    def __init__(self, kernel: Kernel, shape: MatrixShape, tiling: Tiling) -> None:
        self.kernel, self.shape, self.tiling = kernel, shape, tiling
        state = kernel.buffer("state", shape.state_words, "uint32")
        self._epilogue = shape.declare(kernel)
        self.streams = len(shape.unit_rows(0))
        self._units = tiling.tile_columns // self.streams
        block_y, block_x = kernel.grid(
            ceil_div(shape.chunk, tiling.rows * tiling.tile_rows),
            ceil_div(shape.units, tiling.columns * self._units),
            varies=True,
        )
        thread = kernel.threads(tiling.columns * tiling.rows)
        self._length = kernel.let(i32(state[2]))
        self._first_row = kernel.let((block_y * tiling.rows + div(thread, tiling.columns)) * tiling.tile_rows)
        self._first_unit = kernel.let(block_x * tiling.columns * self._units + mod(thread, tiling.columns))

    @property
    def inside(self) -> Expr:
        """Whether a row of the tile is no padding."""
        return self._first_row < self._length

    def columns(self) -> list[Expr]:
        """The matrix rows of the tile's columns; those beyond the matrix are its last unit's."""
        last = self.shape.units - 1
        units = [self.kernel.let(tirx.min(unit, last)) for unit in self._wanted()]
        return [self.kernel.let(row) for unit in units for row in self.shape.unit_rows(unit)]

    def row(self, place: Expr) -> Expr:
        """The tile's row `place` of the activations; one of padding is the last valid one."""
        return tirx.min(self._first_row + place, self._length - 1)

    def registers(self, dtype: str = "float32") -> list[list[Array]]:
        """A register a sum, [row][column]."""
        tiling = self.tiling
        return [
            [self.kernel.registers(1, dtype) for _ in range(self._units * self.streams)]
            for _ in range(tiling.tile_rows)
        ]

    def store(self, sums: Sequence[Sequence[Array]]) -> None:
        """Hand the sums of what exists to the epilogue."""
        kernel, units = self.kernel, self.shape.units
        exact = units % (self.tiling.columns * self._units) == 0
        for u, unit in enumerate(self._wanted()):
            with kernel.when(True if exact else unit < units):
                for r, row_sums in enumerate(sums):
                    row = kernel.let(self._first_row + r)
                    with kernel.when(row < self._length):
                        values = [row_sums[u * self.streams + s][0] for s in range(self.streams)]
                        self._epilogue(kernel, row, unit, values)

    def _wanted(self) -> list[Expr]:
        return [self.kernel.let(self._first_unit + u * self.tiling.columns) for u in range(self._units)]


def clear(registers: Sequence[Sequence[Array]], zero: Expr | None = None) -> None:
    """Set all of them to 0, f32 unless another is given."""
    for row in registers:
        for register in row:
            register[0] = f32(0.0) if zero is None else zero
