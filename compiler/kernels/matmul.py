"""Prefill: a chunk of rows of activations times a quantized matrix, tiled in registers, epilogue fused.

An invocation holds `TILE_ROWS` x `tile_units` sums and walks K in parts of 8, so each unpacked weight serves
`TILE_ROWS` rows and each activation `tile_units` units. No workgroup memory and no barrier. Workgroups whose rows are
all padding (at or beyond the chunk's valid length) do nothing. The numpy twin is `reference.matmul`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from compiler.kernels.builder import Expr, Kernel, cast4, ceil_div, div, dot, f32, i32, mod
from compiler.kernels.epilogue import Declare
from compiler.kernels.weights import GROUP, PART, STORAGE, WordMatrix

COLUMNS = 16  # invocations of a workgroup along the units
ROWS = 4  # and along the rows
TILE_ROWS = 4  # rows that an invocation holds


def matmul(
    name: str,
    scheme: str,
    chunk: int,
    rows: int,
    k: int,
    units: int,
    unit_rows: Callable[[Expr], Sequence[Expr]],
    declare: Declare,
    state_words: int,
    activation: str,
) -> tirx.PrimFunc:
    """Build `[chunk, k] x [rows, k]^T`; bindings: x (activation x4), weights, [scales], state, then the epilogue's."""
    with Kernel(name) as kernel:
        x = kernel.buffer("x", chunk * k // 4, f"{activation}x4")
        matrix = WordMatrix(kernel, STORAGE[scheme], rows, k)
        state = kernel.buffer("state", state_words, "uint32")
        epilogue = declare(kernel)
        streams = len(unit_rows(0))
        tile_units = 4 // streams
        block_x, block_y = kernel.grid(
            ceil_div(units, COLUMNS * tile_units), ceil_div(chunk, ROWS * TILE_ROWS), varies=True
        )
        thread = kernel.threads(COLUMNS * ROWS)
        length = kernel.let(i32(state[2]))
        first_row = kernel.let((block_y * ROWS + div(thread, COLUMNS)) * TILE_ROWS)
        first_unit = kernel.let(block_x * COLUMNS * tile_units + mod(thread, COLUMNS))
        with kernel.when(first_row < length):
            wanted = [kernel.let(first_unit + u * COLUMNS) for u in range(tile_units)]
            safe = [kernel.let(tirx.min(unit, units - 1)) for unit in wanted]
            indices = [[kernel.let(row) for row in unit_rows(unit)] for unit in safe]
            x_rows = [kernel.let(tirx.min(first_row + r, length - 1) * (k // 4)) for r in range(TILE_ROWS)]
            sums = [[[kernel.registers() for _ in range(streams)] for _ in range(tile_units)] for _ in range(TILE_ROWS)]
            for register in (s for row in sums for unit in row for s in unit):
                register[0] = f32(0.0)
            with kernel.loop(matrix.groups) as group:
                scales = [[matrix.scale(row, group) for row in unit] for unit in indices]
                parts = 4 if k % GROUP == 0 else tirx.min(4, k // PART - group * 4)
                with kernel.loop(parts) as step:
                    part = kernel.let(group * 4 + step)
                    values = [
                        [kernel.let(cast4(x[base + part * 2 + half], "float32")) for half in range(2)]
                        for base in x_rows
                    ]
                    for u, unit in enumerate(indices):
                        for s, row in enumerate(unit):
                            low, high = (kernel.let(v) for v in matrix.part(row, part))
                            for r, (a, b) in enumerate(values):
                                product = dot(a, low) + dot(b, high)
                                if matrix.scales:
                                    product = product * scales[u][s]
                                sums[r][u][s][0] = sums[r][u][s][0] + product
            for u, unit in enumerate(wanted):
                with kernel.when(True if units % (COLUMNS * tile_units) == 0 else unit < units):
                    for r in range(TILE_ROWS):
                        row = kernel.let(first_row + r)
                        with kernel.when(row < length):
                            epilogue(kernel, row, unit, [register[0] for register in sums[r][u]])
    return kernel.function
