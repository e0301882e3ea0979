"""Prefill: a chunk of rows of activations times a quantized matrix, tiled in registers, epilogue fused.

An invocation holds a tile of sums and walks K in parts of 8, so each unpacked weight serves all rows of the tile and
each activation all its columns. Where the device has subgroups, four neighbours load a quarter of the activations each
and broadcast it within their quad. No workgroup memory and no barrier. Invocations whose rows are all padding (at or
beyond the chunk's valid length) do nothing. The numpy twin is `reference.matmul`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from compiler.kernels.builder import Expr, Kernel, call, ceil_div, div, dot, f32, i32, mod, u32
from compiler.kernels.epilogue import Declare
from compiler.kernels.weights import WordMatrix
from compiler.weights.storage import PART, Storage


@dataclass(frozen=True)
class Tiling:
    """A workgroup is `columns` x `rows` invocations, each with `tile_rows` x `tile_columns` sums."""

    columns: int  # invocations along the matrix's rows
    rows: int  # and along the activations'
    tile_rows: int
    tile_columns: int  # a unit of two matrix rows takes two
    quads: bool  # four neighbouring invocations, which need the same activations, load each a quarter


def matmul(
    name: str,
    storage: Storage,
    chunk: int,
    rows: int,
    k: int,
    units: int,
    unit_rows: Callable[[Expr], Sequence[Expr]],
    declare: Declare,
    state_words: int,
    tiling: Tiling,
) -> tirx.PrimFunc:
    """Build `[chunk, k] x [rows, k]^T`; bindings: x (f32 x4), weights, [scales], state, then the epilogue's."""
    with Kernel(name) as kernel:
        x = kernel.buffer("x", chunk * k // 4, "float32x4")
        matrix = WordMatrix(kernel, storage, rows, k)
        state = kernel.buffer("state", state_words, "uint32")
        epilogue = declare(kernel)
        streams = len(unit_rows(0))
        tile_units = tiling.tile_columns // streams
        block_x, block_y = kernel.grid(
            ceil_div(units, tiling.columns * tile_units), ceil_div(chunk, tiling.rows * tiling.tile_rows), varies=True
        )
        thread = kernel.threads(tiling.columns * tiling.rows)
        length = kernel.let(i32(state[2]))
        first_row = kernel.let((block_y * tiling.rows + div(thread, tiling.columns)) * tiling.tile_rows)
        first_unit = kernel.let(block_x * tiling.columns * tile_units + mod(thread, tiling.columns))
        with kernel.when(first_row < length):
            wanted = [kernel.let(first_unit + u * tiling.columns) for u in range(tile_units)]
            safe = [kernel.let(tirx.min(unit, units - 1)) for unit in wanted]
            indices = [[kernel.let(row) for row in unit_rows(unit)] for unit in safe]
            # Each invocation loads every row of the tile, or one row in four and the rest from its quad.
            share = 4 if tiling.quads else 1
            own = mod(thread, 4) if tiling.quads else 0
            x_rows = [
                kernel.let(tirx.min(first_row + r * share + own, length - 1) * (k // 4))
                for r in range(tiling.tile_rows // share)
            ]
            sums = [
                [[kernel.registers() for _ in range(streams)] for _ in range(tile_units)]
                for _ in range(tiling.tile_rows)
            ]
            for register in (s for row in sums for unit in row for s in unit):
                register[0] = f32(0.0)
            with kernel.loop(matrix.blocks) as block:
                factors = matrix.factors
                lines = [[factors.line(row, block) if factors else None for row in unit] for unit in indices]
                parts: Expr = storage.parts
                if k % storage.block:
                    parts = tirx.min(parts, k // PART - block * parts)
                with kernel.loop(parts) as step:
                    part = kernel.let(block * storage.parts + step)
                    loaded = [[kernel.let(x[base + part * 2 + half]) for half in range(2)] for base in x_rows]
                    columns = [
                        (u, s, [kernel.let(v) for v in _values(matrix, row, part, lines[u][s])])
                        for u, unit in enumerate(indices)
                        for s, row in enumerate(unit)
                    ]
                    for r in range(tiling.tile_rows):
                        a, b = (_from_quad(kernel, half, r % share, share) for half in loaded[r // share])
                        for u, s, (low, high) in columns:
                            sums[r][u][s][0] = sums[r][u][s][0] + (dot(a, low) + dot(b, high))
            for u, unit in enumerate(wanted):
                with kernel.when(True if units % (tiling.columns * tile_units) == 0 else unit < units):
                    for r in range(tiling.tile_rows):
                        row = kernel.let(first_row + r)
                        with kernel.when(row < length):
                            epilogue(kernel, row, unit, [register[0] for register in sums[r][u]])
    return kernel.function


def _values(matrix: WordMatrix, row: Expr, part: Expr, line: tuple[Expr, Expr] | None) -> list[Expr]:
    """The 8 weights of a part as they are multiplied: what that costs serves all rows of the tile."""
    return [value * line[0] + line[1] if line else value for value in matrix.part(row, part)]


def _from_quad(kernel: Kernel, value: Expr, member: int, share: int) -> Expr:
    """The value that one member of the quad loaded; without sharing, one's own."""
    return kernel.let(call("float32x4", "quadBroadcast", value, u32(member))) if share > 1 else value
