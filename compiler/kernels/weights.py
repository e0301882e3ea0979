"""How the GPU's kernels read a weight matrix `[rows, K]` of any storage: 8 consecutive weights at a time.

The byte layout is that of `artifact/FORMAT.md`; the numpy twin is `weights.quantize.dequantize`. Integers come out as
they are stored, from 0 on, and where they stand in their word, which saves the shifts: what they are multiplied with
has to take `place_values` in. Scale, zero point and bias are applied to what a block of them becomes, since
`sum(x * (q * scale + bias)) = sum(x * q) * scale + sum(x) * bias`, and the sum of x serves all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import Array, Expr, Kernel, call, ceil_div, div, f32, lane
from compiler.weights.storage import Storage


def unpack(kernel: Kernel, storage: Storage, words: Sequence[Expr]) -> tuple[Expr, Expr]:
    """The words of a part (f32: its two `vec4`s) as two `vec4<f32>`."""
    match storage.bits:
        case 4:
            return kernel.in_place(words[0], 4), kernel.in_place(T.shift_right(words[0], T.uint32(16)), 4)
        case 8:
            return kernel.in_place(words[0], 8), kernel.in_place(words[1], 8)
        case 16:
            return kernel.f16x4(words[0], words[1]), kernel.f16x4(words[2], words[3])
    return words[0], words[1]


def place_values(storage: Storage) -> Expr:
    """What makes integers of those that `unpack` gives: powers of 2, so that nothing is rounded."""
    return tirx.Shuffle([f32(2.0 ** (-storage.bits * i)) for i in range(4)], [0, 1, 2, 3])


class Factors:
    """The scales of a matrix, with their biases where it has them, bound to a kernel."""

    def __init__(self, kernel: Kernel, storage: Storage, rows: int, k: int) -> None:
        self.kernel = kernel
        self.storage = storage
        self.groups = storage.groups(k)
        pairs = rows * self.groups if storage.bias else ceil_div(rows * self.groups, 2)
        self.array: Array = kernel.buffer("scales", pairs, "uint32")

    def of_group(self, row: Expr, group: Expr) -> tuple[Expr, Expr | None]:
        """Scale and bias of a group as f32; the bias is None where there is none."""
        kernel, place = self.kernel, self.kernel.let(row * self.groups + group)
        if not self.storage.bias:
            return kernel.let(kernel.f16(self.array, place)), None
        scale, bias = kernel.f16_pair(kernel.let(self.array[place]))
        return kernel.let(scale), kernel.let(bias)

    def of_block(self, row: Expr, block: Expr) -> tuple[Expr, Expr | None]:
        """The same of the group that a block lies in."""
        blocks = self.storage.blocks_per_group
        return self.of_group(row, div(block, blocks) if blocks > 1 else block)

    def line(self, row: Expr, block: Expr) -> tuple[Expr, Expr]:
        """Vectors of a block: an element is what `unpack` gives times the first, plus the second."""
        kernel, storage = self.kernel, self.storage
        scale, bias = self.of_block(row, block)
        offset = scale * f32(-float(storage.zero_point)) if bias is None else bias
        return kernel.let(T.broadcast(scale, 4) * place_values(storage)), kernel.let(T.broadcast(offset, 4))


class Matrix:
    """A weight matrix bound to a kernel that walks it in whole blocks: declares its bindings and loads blocks of it."""

    def __init__(self, kernel: Kernel, storage: Storage, rows: int, k: int) -> None:
        self.kernel = kernel
        self.storage = storage
        self.k = k
        self.blocks = storage.blocks(k)
        words = storage.words(storage.block)
        self._lanes = min(4, words)  # words of an element of the binding
        self._per_block = words // self._lanes
        self._per_row = storage.words_per_row(k) // self._lanes
        dtype = "float32x4" if storage.bits == 32 else f"uint32x{self._lanes}"
        self.weights: Array = kernel.buffer("weights", rows * self._per_row, dtype)
        self.factors = Factors(kernel, storage, rows, k) if storage.group_size else None

    def load(self, row: Expr, block: Expr) -> list[Expr]:
        """Load all elements of a whole block."""
        base = self.kernel.let(row * self._per_row + block * self._per_block)
        return [self.kernel.let(self.weights[base + i]) for i in range(self._per_block)]

    def load_part(self, row: Expr, block: Expr, part: int) -> list[Expr]:
        """Load just what one part of a block needs, in a list that `part` can index."""
        count, parts = self._per_block, self.storage.parts
        base = self.kernel.let(row * self._per_row + block * count)
        first, last = part * count // parts, max(part * count // parts + 1, (part + 1) * count // parts)
        return [self.kernel.let(self.weights[base + min(max(i, first), last - 1)]) for i in range(count)]

    def part(self, elements: Sequence[Expr], part: int) -> tuple[Expr, Expr]:
        """The 8 values of a part of a loaded block as two `vec4<f32>`."""
        if self.storage.bits == 32:
            return elements[2 * part], elements[2 * part + 1]
        count = self.storage.words(8)
        places = [divmod(part * count + i, self._lanes) for i in range(count)]
        return unpack(self.kernel, self.storage, [lane(elements[element], place) for element, place in places])


def load_vector4(vector: Array, f16: bool, index: Expr) -> Expr:
    """Four elements of a norm weight as `vec4<f32>`; f16 ones are bound as `uint32x2`, f32 ones as `float32x4`."""
    if not f16:
        return vector[index]
    pair = vector[index]
    return call("float32x4", "wisp_f16x4", lane(pair, 0), lane(pair, 1))


class WordMatrix:
    """The same matrix bound word by word, for kernels that walk it in a loop of parts (8 columns) instead of blocks."""

    def __init__(self, kernel: Kernel, storage: Storage, rows: int, k: int) -> None:
        self.kernel = kernel
        self.storage = storage
        self.k = k
        self.blocks = storage.blocks(k)
        vectors = 4 if storage.bits == 32 else 1
        self.words = storage.words(8) // vectors  # elements of a part
        self.per_row = storage.words_per_row(k) // vectors
        self.weights = kernel.buffer("weights", rows * self.per_row, "float32x4" if storage.bits == 32 else "uint32")
        self.factors = Factors(kernel, storage, rows, k) if storage.group_size else None

    def part(self, row: Expr, part: Expr) -> tuple[Expr, Expr]:
        """The 8 values of a part as two `vec4<f32>`."""
        base = self.kernel.let(row * self.per_row + part * self.words)
        return unpack(self.kernel, self.storage, [self.kernel.let(self.weights[base + i]) for i in range(self.words)])
