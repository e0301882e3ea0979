"""The same thin layer as `kernels.builder`, for functions that a CPU thread runs over a range of items.

A kernel of the CPU is a function of buffer addresses and of `begin` and `end`: it computes the items between them, each
on its own, so that threads may share them in any way. `grid` opens the loop over items; there are no workgroups, no
barriers and no shared memory. Registers that are indexed by constants become WebAssembly locals; others go on the
thread's stack. Vectors have 128 bits: `float32x4`, `int32x4`, `int16x8`.

The elementary functions are series of our own (Cephes, Moshier 1992), since a module imports nothing but memory; they
take scalars and vectors alike and err by at most 2 units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, Kernel, div, mod, select

MAX_ITEMS = 2**31 - 1
STACK_BYTES = 64 * 1024  # what a thread is sure to have
# Cephes' expf and logf, highest power first.
EXP_TERMS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
LOG_TERMS = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1),
    *(2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)


class CpuKernel(Kernel):
    """A kernel under construction whose grid is a range of items."""

    raised: Mapping[int, int] = dict.fromkeys(Kernel.raised, 0)

    @property
    def function(self) -> tirx.PrimFunc:
        """As every kernel's, with the access of each binding as the attribute `wisp.bindings`."""
        access = ["read_write" if binding.written else "read" for binding in self.bindings]
        return super().function.with_attr("wisp.bindings", access)

    def grid(self, x: int, y: int = 1, varies: bool = False) -> tuple[Expr, Expr]:
        """Open the loop over x * y items; returns an item's two indices. `varies` means nothing here."""
        if x * y > MAX_ITEMS:
            raise ValueError(f"kernel {self.name}: {x} x {y} items exceed {MAX_ITEMS}")
        self._grid = (x * y, 1)
        begin = T.arg("begin", tirx.Var("begin", "int32"))
        end = T.arg("end", tirx.Var("end", "int32"))
        item = self._stack.enter_context(T.serial(begin, end))
        if y == 1:
            return item, 0
        return self.let(mod(item, x)), self.let(div(item, x))

    def threads(self, count: int) -> Expr:
        """Open a loop that stands for the invocations of a workgroup; they must not depend on each other."""
        return self._stack.enter_context(T.serial(0, count))

    def shared(self, length: int, dtype: str = "float32") -> Array:
        raise TypeError(f"kernel {self.name}: a CPU kernel has no workgroup memory")

    def barrier(self) -> None:
        raise TypeError(f"kernel {self.name}: a CPU kernel has no barrier")

    def exp(self, value: Expr) -> Expr:
        return exp(self, value)

    def f16(self, words: Array, index: Expr) -> Expr:
        odd = T.cast(mod(index, 2), "uint32")
        return f16_bits_to_f32(self, T.shift_right(words[div(index, 2)], odd * T.uint32(16)))

    def f16x4(self, low: Expr, high: Expr) -> Expr:
        return f16_bits_to_f32(
            self,
            tirx.Shuffle(
                [low, T.shift_right(low, T.uint32(16)), high, T.shift_right(high, T.uint32(16))], [0, 1, 2, 3]
            ),
        )

    def f16_pair(self, word: Expr) -> tuple[Expr, Expr]:
        return f16_bits_to_f32(self, word), f16_bits_to_f32(self, T.shift_right(word, T.uint32(16)))

    def pack_f16(self, low: Expr, high: Expr) -> Expr:
        """Words of two f16 each, of as many lanes as the values have."""
        bits = f32_to_f16_bits(self, high)
        return T.bitwise_or(f32_to_f16_bits(self, low), T.shift_left(bits, constant(16, "uint32", bits)))

    def unpack(self, words: Sequence[Expr], bits: int) -> tuple[Expr, Expr]:
        low, high = words if bits > 4 else (words[0], T.shift_right(words[0], T.uint32(16)))
        width = 4 if bits == 4 else 8
        masks = [T.uint32((2**width - 1) << (width * i)) for i in range(4)]
        # There is no shift of each lane by its own amount; powers of 2 round nothing.
        places = tirx.Shuffle([T.float32(2.0 ** (-width * i)) for i in range(4)], [0, 1, 2, 3])

        def integers(word: Expr) -> Expr:
            return convert(T.bitwise_and(splat(word), tirx.Shuffle(masks, [0, 1, 2, 3])), "float32") * places

        return integers(low), integers(high)

    def unpack_coded(self, word: Expr, codebook: Sequence[int]) -> tuple[Expr, Expr]:
        words = self.let(tirx.Shuffle([word, T.shift_right(word, T.uint32(4)), word, word], [0, 1, 2, 3]))
        nibbles = T.reinterpret("int8x16", T.bitwise_and(words, splat(T.uint32(0x0F0F0F0F))))
        values = self.let(coded(self, nibbles, codebook))
        low, high = ([i // 2 + 4 * (i % 2) for i in range(first, first + 4)] for first in (0, 4))
        return tuple(convert(tirx.Shuffle([values], lanes), "float32") for lanes in (low, high))

    def scratch(self, length: int, dtype: str = "float32") -> Array:
        """Memory on the thread's stack, which may be indexed by any value."""
        return self.registers(length, dtype)


def lanes_of(value: Expr) -> int:
    """Lanes of an expression's type; 1 for a scalar."""
    dtype = str(value.ty.dtype)
    return int(dtype.rpartition("x")[2]) if "x" in dtype else 1


def constant(value: float, dtype: str, like: Expr) -> Expr:
    """A constant of scalar type `dtype` with as many lanes as `like`; floats exactly, to the last bit."""
    scalar = T.float32(float(np.float32(value))) if dtype == "float32" else getattr(T, dtype)(value)
    lanes = lanes_of(like)
    return scalar if lanes == 1 else T.broadcast(scalar, lanes)


def retype(value: Expr, dtype: str) -> Expr:
    """Reinterpret lanes of 32 bits as another type of 32 bits."""
    lanes = lanes_of(value)
    return T.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def convert(value: Expr, dtype: str) -> Expr:
    """Convert each lane to `dtype`."""
    lanes = lanes_of(value)
    return T.cast(value, dtype if lanes == 1 else f"{dtype}x{lanes}")


def sum_lanes(vector: Expr) -> Expr:
    """The sum of the lanes of a four-lane vector."""
    first, second, third, fourth = (tirx.Shuffle([vector], [i]) for i in range(4))
    return (first + second) + (third + fourth)


def max_lanes(vector: Expr) -> Expr:
    """The largest lane of a four-lane vector."""
    first, second, third, fourth = (tirx.Shuffle([vector], [i]) for i in range(4))
    return tirx.max(tirx.max(first, second), tirx.max(third, fourth))


def sum_lanes_of_four(kernel: Kernel, vectors: Sequence[Expr]) -> Expr:
    """The sums of the lanes of four four-lane vectors, as one vector."""
    halves = []
    for a, b in (vectors[:2], vectors[2:]):
        halves.append(kernel.let(tirx.Shuffle([a, b], [0, 4, 1, 5]) + tirx.Shuffle([a, b], [2, 6, 3, 7])))
    return kernel.let(tirx.Shuffle(halves, [0, 1, 4, 5]) + tirx.Shuffle(halves, [2, 3, 6, 7]))


def wrapping(operation: Callable[[Expr, Expr], Expr], a: Expr, b: Expr) -> Expr:
    """A sum or a product of u32 modulo 2^32. (TVM tells LLVM that those of 32 bits never overflow.)"""
    return convert(operation(convert(a, "uint64"), convert(b, "uint64")), "uint32")


def any_lane(mask: Expr) -> Expr:
    """Whether a lane of an `int32x4` has a bit."""
    return T.call_llvm_pure_intrin("int32", "llvm.wasm.anytrue", mask) != 0


def splat(value: Expr, lanes: int = 4) -> Expr:
    return T.broadcast(value, lanes)


def dot_i16(a: Expr, b: Expr) -> Expr:
    """`i32x4.dot_i16x8_s`: products of eight pairs, neighbours added."""
    return T.call_llvm_pure_intrin("int32x4", "llvm.wasm.dot", a, b)


def coded(kernel: Kernel, indices: Expr, codebook: Sequence[int]) -> Expr:
    """`i8x16.swizzle`: of sixteen values those that sixteen bytes say the places of."""
    table = tirx.Shuffle([T.int8(value) for value in codebook], list(range(16)))
    return kernel.let(T.call_llvm_pure_intrin("int8x16", "llvm.wasm.swizzle", table, indices))


def load(array: Array, index: Expr, lanes: int) -> Expr:
    """`lanes` consecutive elements of an array of scalars, wherever they begin."""
    return array.buffer[T.ramp(index, 1, lanes)]


def store(array: Array, index: Expr, value: Expr) -> None:
    """Put the lanes of a vector into consecutive elements of an array of scalars."""
    array.written = True
    T.buffer_store(array.buffer, value, [T.ramp(index, 1, lanes_of(value))])


def f16_bits_to_f32(kernel: Kernel, bits: Expr) -> Expr:
    """IEEE half precision (the low 16 bits of unsigned lanes) -> f32, exactly; but for infinities and NaN."""
    wide = kernel.let(convert(bits, "uint32"))
    magnitude = T.shift_left(T.bitwise_and(wide, constant(0x7FFF, "uint32", wide)), constant(13, "uint32", wide))
    sign = T.shift_left(T.bitwise_and(wide, constant(0x8000, "uint32", wide)), constant(16, "uint32", wide))
    # The exponent's bias goes from 15 to 127 by a product, which rounds nothing.
    scaled = retype(magnitude, "float32") * constant(2.0**112, "float32", wide)
    return kernel.let(retype(T.bitwise_or(retype(scaled, "uint32"), sign), "float32"))


def f32_to_f16_bits(kernel: Kernel, value: Expr) -> Expr:
    """f32 -> IEEE half precision in the low 16 bits of unsigned lanes: the nearest, even ones of two, none infinite."""
    bits = kernel.let(retype(value, "uint32"))
    sign = T.bitwise_and(T.shift_right(bits, constant(16, "uint32", bits)), constant(0x8000, "uint32", bits))
    magnitude = retype(T.bitwise_and(bits, constant(0x7FFFFFFF, "uint32", bits)), "float32")
    magnitude = kernel.let(tirx.min(magnitude, constant(65504.0, "float32", value)))
    # A sum with 1/2 rounds to multiples of 2^-24, the subnormal ones' step, which then stand in its low bits.
    small = retype(magnitude + constant(0.5, "float32", value), "uint32") - constant(0x3F000000, "uint32", bits)
    wide = kernel.let(retype(magnitude, "uint32"))
    odd = T.bitwise_and(T.shift_right(wide, constant(13, "uint32", bits)), constant(1, "uint32", bits))
    # The exponent's bias goes from 127 to 15; half of the last place, less one where it is even, carries.
    normal = T.shift_right(wide - constant(0x38000000 - 0xFFF, "uint32", bits) + odd, constant(13, "uint32", bits))
    is_small = magnitude < constant(2.0**-14, "float32", value)
    return kernel.let(T.bitwise_or(select(is_small, small, normal), sign))


def exp(kernel: Kernel, value: Expr) -> Expr:
    """e^value; at the ends of f32's range clamped, never infinite."""
    low, high = constant(-87.3, "float32", value), constant(88.3, "float32", value)
    x = kernel.let(tirx.min(tirx.max(value, low), high))
    # The nearest integer stands in the low bits of what is larger by 1.5 * 2^23.
    magic = constant(1.5 * 2.0**23, "float32", x)
    shifted = kernel.let(x * constant(1.4426950408889634, "float32", x) + magic)
    n = kernel.let(shifted - magic)
    r = x - n * constant(0.693359375, "float32", x)
    r = kernel.let(r - n * constant(-2.12194440e-4, "float32", x))
    p = constant(EXP_TERMS[0], "float32", x)
    for term in EXP_TERMS[1:]:
        p = p * r + constant(term, "float32", x)
    p = kernel.let(p * (r * r) + r + constant(1.0, "float32", x))
    power = T.shift_left(retype(shifted, "int32"), constant(23, "int32", x))
    return kernel.let(retype(retype(p, "int32") + power, "float32"))


def log(kernel: Kernel, value: Expr) -> Expr:
    """Natural logarithm of a positive normal number."""
    bits = kernel.let(retype(value, "int32"))
    # The mantissa in [sqrt(1/2), sqrt(2)).
    offset = constant(0x3F3504F3, "int32", value)
    e = kernel.let(T.shift_right(bits - offset, constant(23, "int32", value)))
    m = kernel.let(retype(bits - T.shift_left(e, constant(23, "int32", value)), "float32"))
    x = kernel.let(m - constant(1.0, "float32", value))
    z = kernel.let(x * x)
    y = constant(0.0, "float32", value)
    for term in LOG_TERMS:
        y = y * x + constant(term, "float32", value)
    n = kernel.let(convert(e, "float32"))
    y = y * x * z + n * constant(-2.12194440e-4, "float32", value) - z * constant(0.5, "float32", value)
    return kernel.let(x + y + n * constant(0.693359375, "float32", value))
