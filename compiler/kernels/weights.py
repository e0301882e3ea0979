"""How the GPU's kernels read a weight matrix `[rows, K]` of any storage: 8 consecutive weights at a time.

The byte layout is that of `artifact/FORMAT.md`; the numpy twin is `weights.quantize.dequantize`. Integers come out with
`Kernel.raised` added. Scale, zero point and bias are applied to what a block of them becomes, since
`sum(x * (q * scale + bias)) = sum(x * q) * scale + sum(x) * bias`, and the sum of x serves all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..weights.storage import LOW, PART, Storage
from .builder import Array, Expr, Kernel, call, ceil_div, div, f32, lane, mod, select


def unpack(kernel: Kernel, storage: Storage, words: Sequence[Expr]) -> tuple[Expr, Expr]:
    """The words of a part (f32: its two `vec4`s; of elements in two pieces: `joined` ones) as two `vec4<f32>`."""
    if storage.codebook:
        return kernel.unpack_coded(words[0], storage.codebook)
    if storage.group_size:
        return kernel.unpack(words, storage.bits)
    if storage.bits == 16:
        return kernel.f16x4(words[0], words[1]), kernel.f16x4(words[2], words[3])
    return words[0], words[1]


def joined(storage: Storage, low: tuple[Expr, Expr], high: tuple[Expr, Expr]) -> Expr:
    """Four elements in the bytes of a word, of the words that their pieces lie in and the bits at which they begin."""

    def field(word: Expr, shift: Expr, bits: int) -> Expr:
        moved = word if isinstance(shift, int) and shift == 0 else T.shift_right(word, tirx.Cast("uint32", shift))
        return T.bitwise_and(moved, T.uint32(0x01010101 * (2**bits - 1)))

    above = T.shift_left(field(*high, storage.high_bits), T.uint32(LOW))
    return T.bitwise_or(field(*low, LOW), above)


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
        scale, second = kernel.f16_pair(kernel.let(self.array[place]))
        scale = kernel.let(scale)
        return scale, kernel.let(second * scale * f32(-1.0) if self.storage.zeros else second)

    def of_block(self, row: Expr, block: Expr) -> tuple[Expr, Expr | None]:
        """The same of the group that a block lies in."""
        blocks = self.storage.blocks_per_group
        return self.of_group(row, div(block, blocks) if blocks > 1 else block)

    @property
    def above(self) -> float:
        """What the integers that `unpack` gives are above those that scales multiply."""
        if self.storage.codebook:
            return 0.0
        return float(self.kernel.raised[self.storage.bits] + self.storage.zero_point)

    def line(self, row: Expr, block: Expr) -> tuple[Expr, Expr]:
        """Vectors of a block: an element is what `unpack` gives times the first, plus the second."""
        kernel = self.kernel
        scale, bias = self.of_block(row, block)
        offset = scale * f32(-self.above)
        if bias is not None:
            offset = offset + bias
        return kernel.let(T.broadcast(scale, 4)), kernel.let(T.broadcast(offset, 4))


class Matrix:
    """A weight matrix bound to a kernel that walks it in whole blocks: declares its bindings and loads blocks of it."""

    def __init__(self, kernel: Kernel, storage: Storage, rows: int, k: int) -> None:
        self.kernel = kernel
        self.storage = storage
        self.k = k
        self.blocks = storage.blocks(k)
        words = storage.words(storage.block)
        self._lanes = math.gcd(4, words)  # words of an element of the binding
        self._per_block = words // self._lanes
        self._per_row = storage.words_per_row(k) // self._lanes
        vector = f"x{self._lanes}" if self._lanes > 1 else ""
        dtype = "float32x4" if storage.bits == 32 else f"uint32{vector}"
        self.weights: Array = kernel.buffer("weights", rows * self._per_row, dtype)
        self.factors = Factors(kernel, storage, rows, k) if storage.group_size else None

    def load(self, row: Expr, block: Expr) -> list[Expr]:
        """Load all elements of a whole block."""
        base = self.kernel.let(row * self._per_row + block * self._per_block)
        return [self.kernel.let(self.weights[base + i]) for i in range(self._per_block)]

    def load_part(self, row: Expr, block: Expr, part: int) -> list[Expr]:
        """Load just what one part of a block needs, in a list that `part` can index."""
        base = self.kernel.let(row * self._per_row + block * self._per_block)
        needed = sorted({word // self._lanes for word in self.storage.words_of_part(part)})
        loaded = {i: self.kernel.let(self.weights[base + i]) for i in needed}
        return [loaded.get(i, loaded[needed[0]]) for i in range(self._per_block)]

    def part(self, elements: Sequence[Expr], part: int) -> tuple[Expr, Expr]:
        """The 8 values of a part of a loaded block as two `vec4<f32>`."""
        if self.storage.bits == 32:
            return elements[2 * part], elements[2 * part + 1]
        words = self._words(elements)
        if not self.storage.high_bits:
            return unpack(self.kernel, self.storage, [words[index] for index in self.storage.words_of_part(part)])
        joint = []
        for half in range(2):
            low, high = self.storage.pieces(2 * part + half)
            joint.append(self.kernel.let(joined(self.storage, (words[low[0]], low[1]), (words[high[0]], high[1]))))
        return unpack(self.kernel, self.storage, joint)

    def parts_of(self, block: Expr) -> Expr:
        """Parts of a block that K does not cut off."""
        parts = self.storage.parts
        return tirx.min(parts, self.k // PART - block * parts) if self.k % self.storage.block else parts

    def words_at(self, elements: Sequence[Expr], step: Expr) -> list[Expr]:
        """The words of part `step` of a loaded block; of elements in two pieces two words of four bytes each."""
        kernel, storage = self.kernel, self.storage
        words = self._words(elements)
        if not storage.high_bits:
            count = storage.words(PART)
            return [self._pick(words[i::count], step) for i in range(count)]
        found = []
        for half in range(2):
            vector = kernel.let(step * 2 + half)
            low = self._pick(words[: storage.low_words], vector), div(vector, storage.low_words) * LOW
            shift = div(vector, storage.high_words) * storage.high_bits
            high = self._pick(words[storage.low_words :], vector), shift
            found.append(kernel.let(joined(storage, low, high)))
        return found

    def part_at(self, place: tuple[Expr, Expr], elements: Sequence[Expr] | None, step: Expr) -> tuple[Expr, Expr]:
        """The 8 values of part `step` of the block at (row, block), which is loaded where it has not been."""
        if elements is not None:
            return unpack(self.kernel, self.storage, self.words_at(elements, step))
        row, block = place
        count = self._per_block // self.storage.parts
        base = self.kernel.let(row * self._per_row + block * self._per_block + step * count)
        return self.part([self.kernel.let(self.weights[base + i]) for i in range(count)], 0)

    def _words(self, elements: Sequence[Expr]) -> list[Expr]:
        """The words of loaded elements, one after the other."""
        return [lane(e, i) if self._lanes > 1 else e for e in elements for i in range(self._lanes)]

    def _pick(self, choices: Sequence[Expr], index: Expr) -> Expr:
        """`choices[index % len(choices)]`, of a power of 2."""
        bit = 1
        while len(choices) > 1:
            odd = tirx.bitwise_and(index, bit) != 0
            choices = [self.kernel.let(select(odd, b, a)) for a, b in zip(choices[::2], choices[1::2], strict=True)]
            bit *= 2
        return self.kernel.let(choices[0])


def load_vector4(vector: Array, f16: bool, index: Expr) -> Expr:
    """Four elements of a norm weight as `vec4<f32>`; f16 ones are bound as `uint32x2`, f32 ones as `float32x4`."""
    if not f16:
        return vector[index]
    pair = vector[index]
    return call("float32x4", "wisp_f16x4", lane(pair, 0), lane(pair, 1))


class WordMatrix:
    """The same matrix bound word by word, for kernels that take single parts (8 columns) of it."""

    def __init__(self, kernel: Kernel, storage: Storage, rows: int, k: int) -> None:
        self.kernel = kernel
        self.storage = storage
        self.k = k
        self.blocks = storage.blocks(k)
        vectors = 4 if storage.bits == 32 else 1
        self._words = storage.words(PART) // vectors  # elements of a part in one piece
        self._per_row = storage.words_per_row(k) // vectors
        self.weights = kernel.buffer("weights", rows * self._per_row, "float32x4" if storage.bits == 32 else "uint32")
        self.factors = Factors(kernel, storage, rows, k) if storage.group_size else None

    def part(self, row: Expr, part: Expr) -> tuple[Expr, Expr]:
        """The 8 values of a part as two `vec4<f32>`."""
        return unpack(self.kernel, self.storage, self.words(row, part))

    def words(self, row: Expr, part: Expr) -> list[Expr]:
        """The words of a part; of elements in two pieces two words of four bytes each."""
        kernel, storage = self.kernel, self.storage
        if not storage.high_bits:
            base = kernel.let(row * self._per_row + part * self._words)
            return [kernel.let(self.weights[base + i]) for i in range(self._words)]
        block = div(part, storage.parts)
        base = kernel.let(row * self._per_row + block * storage.words(storage.block))
        found = []
        for half in range(2):
            vector = kernel.let(mod(part, storage.parts) * 2 + half)
            low = self.weights[base + mod(vector, storage.low_words)], div(vector, storage.low_words) * LOW
            place, shift = mod(vector, storage.high_words), div(vector, storage.high_words) * storage.high_bits
            high = self.weights[base + storage.low_words + place], shift
            found.append(kernel.let(joined(storage, low, high)))
        return found
