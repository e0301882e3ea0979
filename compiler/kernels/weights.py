"""How the kernels read a weight matrix `[rows, K]` of each quantization scheme: 8 consecutive weights at a time.

The byte layout is that of `artifact/FORMAT.md`; the numpy twin is `weights.quantize.dequantize`. A row is walked in
groups of 32 columns; each group is four parts of 8, each part two `vec4<f32>`. Values come out without the group's
scale, which the caller applies once a group. K is a multiple of 8, so a part is whole or absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compiler.kernels.builder import Array, Expr, Kernel, call, ceil_div, f32, lane

GROUP = 32  # columns that share a scale
PART = 8  # columns that are unpacked together


@dataclass(frozen=True)
class Storage:
    """The storage of a scheme, as the kernels bind it."""

    name: str
    dtype: str  # element of the weight binding
    vectors_per_group: int  # weight elements that hold 32 columns
    scaled: bool  # has a second binding with one f16 scale a group, read as u32 pairs
    unpack: Callable[[Kernel, list[Expr], int], tuple[Expr, Expr]]  # (kernel, elements, part) -> two vec4<f32>

    def vectors_per_row(self, k: int) -> int:
        """Weight elements of a row of `k` columns."""
        if self.scaled:
            return ceil_div(k, GROUP) * self.vectors_per_group
        return k * self.vectors_per_group // GROUP


def _q4(kernel: Kernel, elements: list[Expr], part: int) -> tuple[Expr, Expr]:
    return kernel.q4(lane(elements[0], part))


def _q8(kernel: Kernel, elements: list[Expr], part: int) -> tuple[Expr, Expr]:
    vector = elements[part // 2]
    first = (part % 2) * 2
    return kernel.q8(lane(vector, first)), kernel.q8(lane(vector, first + 1))


def _f16(kernel: Kernel, elements: list[Expr], part: int) -> tuple[Expr, Expr]:
    vector = elements[part]
    return kernel.f16x4(lane(vector, 0), lane(vector, 1)), kernel.f16x4(lane(vector, 2), lane(vector, 3))


def _f32(_: Kernel, elements: list[Expr], part: int) -> tuple[Expr, Expr]:
    return elements[2 * part], elements[2 * part + 1]


STORAGE = {
    storage.name: storage
    for storage in (
        Storage("q4f16_1", "uint32x4", 1, True, _q4),
        Storage("q8f16_1", "uint32x4", 2, True, _q8),
        Storage("q0f16", "uint32x4", 4, False, _f16),
        Storage("q0f32", "float32x4", 8, False, _f32),
    )
}


class Matrix:
    """A weight matrix `[rows, k]` bound to a kernel: declares its bindings and loads groups of it."""

    def __init__(self, kernel: Kernel, storage: Storage, rows: int, k: int) -> None:
        self.kernel = kernel
        self.storage = storage
        self.k = k
        self.groups = ceil_div(k, GROUP)
        self.per_row = storage.vectors_per_row(k)
        self.weights: Array = kernel.buffer("weights", rows * self.per_row, storage.dtype)
        self.scales: Array | None = None
        if storage.scaled:
            self.scales = kernel.buffer("scales", ceil_div(rows * self.groups, 2), "uint32")

    def load(self, row: Expr, group: Expr) -> list[Expr]:
        """Load all elements of a whole group."""
        base = self.kernel.let(row * self.per_row + group * self.storage.vectors_per_group)
        return [self.kernel.let(self.weights[base + i]) for i in range(self.storage.vectors_per_group)]

    def load_part(self, row: Expr, group: Expr, part: int) -> list[Expr]:
        """Load just what one part of a group needs, in a list that `unpack` can index."""
        count = self.storage.vectors_per_group
        base = self.kernel.let(row * self.per_row + group * count)
        first, last = part * count // 4, max(part * count // 4 + 1, (part + 1) * count // 4)
        return [self.kernel.let(self.weights[base + min(max(i, first), last - 1)]) for i in range(count)]

    def scale(self, row: Expr, group: Expr) -> Expr:
        """The group's scale as f32."""
        assert self.scales is not None
        return _scale(self.kernel, self.scales, row * self.groups + group)


def _scale(kernel: Kernel, scales: Array, place: Expr) -> Expr:
    """One of the f16 scales, which are bound as u32 pairs."""
    return kernel.let(kernel.f16(scales, kernel.let(place)))


def load_vector4(vector: Array, f16: bool, index: Expr) -> Expr:
    """Four elements of a norm weight as `vec4<f32>`; f16 ones are bound as `uint32x2`, f32 ones as `float32x4`."""
    if not f16:
        return vector[index]
    pair = vector[index]
    return call("float32x4", "wisp_f16x4", lane(pair, 0), lane(pair, 1))


class WordMatrix:
    """The same matrix bound word by word, for kernels that walk it in a loop of parts (8 columns) instead of groups."""

    def __init__(self, kernel: Kernel, storage: Storage, rows: int, k: int) -> None:
        self.kernel = kernel
        self.storage = storage
        self.k = k
        self.groups = ceil_div(k, GROUP)
        self.words = storage.vectors_per_group if storage.name != "q0f32" else 2  # elements of a part
        self.per_row = (self.groups * GROUP if storage.scaled else k) // PART * self.words
        self.weights = kernel.buffer("weights", rows * self.per_row, storage.dtype.replace("uint32x4", "uint32"))
        self.scales = kernel.buffer("scales", ceil_div(rows * self.groups, 2), "uint32") if storage.scaled else None

    def part(self, row: Expr, part: Expr) -> tuple[Expr, Expr]:
        """The 8 values of a part, without scale, as two `vec4<f32>`."""
        base = self.kernel.let(row * self.per_row + part * self.words)
        words = [self.weights[base + i] for i in range(self.words)]
        if self.storage.name == "q4f16_1":
            return self.kernel.q4(self.kernel.let(words[0]))
        if self.storage.name == "q8f16_1":
            return self.kernel.q8(words[0]), self.kernel.q8(words[1])
        if self.storage.name == "q0f16":
            return self.kernel.f16x4(*words[:2]), self.kernel.f16x4(*words[2:])
        return words[0], words[1]

    def scale(self, row: Expr, group: Expr) -> Expr:
        """The group's scale as f32; 1 where the scheme has none."""
        if self.scales is None:
            return f32(1.0)
        return _scale(self.kernel, self.scales, row * self.groups + group)
