"""A thin layer over TVMScript's builder for kernels whose bindings and unrolling are chosen in Python.

It knows how to declare buffers, open the launch grid, allocate registers and workgroup memory, and emit loops and
branches. It knows nothing about models or quantization. Every kernel of Wisp is a function that opens a `Kernel`,
declares its buffers in binding order, and emits straight-line code; the result is one TIR `PrimFunc`.

Python `for` loops unroll; `Kernel.loop` emits a loop. Registers are arrays indexed by constants only, which
`lowering.wgsl` turns into plain variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..target.limits import DEFAULT_LIMITS

MAX_GRID = DEFAULT_LIMITS["maxComputeWorkgroupsPerDimension"]
Expr = Any  # a TIR expression, or a Python number that TIR takes as one


class Array:
    """A buffer that reads and writes with `a[i]`; in registers, workgroup memory or a storage binding."""

    def __init__(self, buffer: Any, length: int) -> None:
        self.buffer = buffer
        self.length = length
        self.written = False

    def __getitem__(self, index: Expr) -> Expr:
        return self.buffer[index]

    def __setitem__(self, index: Expr, value: Expr) -> None:
        self.written = True
        T.buffer_store(self.buffer, value, [index])


class Kernel:
    """One kernel under construction: `with Kernel("name") as k: ...`, then `k.function`."""

    # What `unpack` adds to integers of so many bits: they become the mantissas of f16 of one exponent, which costs GPUs
    # a mask and no conversion, as they read f16 where they read f32. The larger it is, the more sums are rounded; 16
    # would do for 4 bits, with another shift.
    raised: Mapping[int, int] = {4: 64, 5: 64, 6: 64, 8: 256}

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = ExitStack()
        self._builder = IRBuilder()
        self._grid: tuple[int, int] | None = None
        self.bindings: list[Array] = []

    def __enter__(self) -> Self:
        self._stack.enter_context(self._builder)
        self._stack.enter_context(T.prim_func(private=True))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None and self._grid is None:
            raise RuntimeError(f"kernel {self.name} opens no grid")
        self._stack.__exit__(kind, error, trace)

    @property
    def function(self) -> tirx.PrimFunc:
        """The finished function, its grid as the attribute `wisp.grid`; read it after the `with` block."""
        assert self._grid is not None
        function = self._builder.get()
        return function.with_attrs({"tirx.noalias": True, "wisp.grid": list(self._grid), "wisp.name": self.name})

    def buffer(self, name: str, length: int, dtype: str) -> Array:
        """Declare the next storage binding: `length` elements of `dtype` (`float32x4` is a `vec4<f32>`)."""
        self.bindings.append(Array(T.arg(name, T.buffer((length,), dtype, layout=None)), length))
        return self.bindings[-1]

    def grid(self, x: int, y: int = 1, varies: bool = False) -> tuple[Expr, Expr]:
        """Open the grid of workgroups; returns the workgroup's indices.

        With `varies`, it is one of several grids that share the kernel: the text must not depend on an extent being 1.
        """
        if max(x, y) > MAX_GRID:
            raise ValueError(f"kernel {self.name}: grid {x} x {y} exceeds {MAX_GRID} workgroups a dimension")
        self._grid = (x, y)
        least = 2 if varies else 1
        block_x = self._stack.enter_context(T.launch_thread("blockIdx.x", max(x, least)))
        if y == 1 and not varies:
            return block_x, 0
        return block_x, self._stack.enter_context(T.launch_thread("blockIdx.y", max(y, 2)))

    def threads(self, count: int) -> Expr:
        """Open a one-dimensional workgroup of `count` invocations; returns the invocation's index."""
        return self._stack.enter_context(T.launch_thread("threadIdx.x", count))

    def registers(self, length: int = 1, dtype: str = "float32") -> Array:
        """Private memory of an invocation. Index it with Python integers only."""
        return Array(T.alloc_buffer((length,), dtype, scope="local", layout=None), length)

    def shared(self, length: int, dtype: str = "float32") -> Array:
        """Workgroup memory."""
        return Array(T.alloc_buffer((length,), dtype, scope="shared", layout=None), length)

    def let(self, value: Expr) -> Expr:
        """Name a value, so that it is computed once. (TVM's simplifier inlines its own `let`s.)"""
        if isinstance(value, int | tirx.Var | tirx.IntImm):
            return value
        register = self.registers(1, str(value.ty.dtype))
        register[0] = value
        return register[0]

    @contextmanager
    def loop(self, count: Expr) -> Iterator[Expr]:
        """A loop from 0 to `count`, which may be a run-time value."""
        with T.serial(0, count) as index:
            yield index

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Run the block where `condition` holds. A Python `True` emits the block alone."""
        if condition is True:
            yield
            return
        with T.If(condition), T.Then():
            yield

    # What devices spell differently; `cpu.builder.CpuKernel` has its own.

    def exp(self, value: Expr) -> Expr:
        """e^value, f32."""
        return T.exp(value)

    def f16(self, words: Array, index: Expr) -> Expr:
        """Element `index` of f16 values that are bound as u32 pairs, as f32."""
        # Shifts and masks, as naga and Tint guard a division against overflow.
        return call("float32", "wisp_f16", words[T.shift_right(index, T.int32(1))], T.bitwise_and(index, T.int32(1)))

    def f16x4(self, low: Expr, high: Expr) -> Expr:
        """The four f16 of two words as `float32x4`."""
        return call("float32x4", "wisp_f16x4", low, high)

    def pack_f16(self, low: Expr, high: Expr) -> Expr:
        """A word of two f16, each clamped to the largest that is finite."""
        return call("uint32", "wisp_pack_f16", low, high)

    def f16_pair(self, word: Expr) -> tuple[Expr, Expr]:
        """The two f16 of a word as f32."""
        pair = self.let(call("float32x2", "unpack2x16float", word))
        return lane(pair, 0), lane(pair, 1)

    def unpack(self, words: Sequence[Expr], bits: int) -> tuple[Expr, Expr]:
        """The eight integers of a word (of 4 bits) or of the bytes of two as two `float32x4`, `raised[bits]` added."""
        if bits == 4:
            return call("float32x4", "wisp_q4_low", *words), call("float32x4", "wisp_q4_high", *words)
        low, high = (call("float32x4", "wisp_q8" if bits == 8 else "wisp_q6", word) for word in words)
        return low, high

    def unpack_coded(self, word: Expr, codebook: Sequence[int]) -> tuple[Expr, Expr]:
        """What the eight integers of a word of 4 bits stand for, as two `float32x4`."""
        halves, table = (word, T.shift_right(word, T.uint32(16))), codebook_words(codebook)
        low, high = (call("float32x4", "wisp_coded4", half, table) for half in halves)
        return low, high

    def barrier(self) -> None:
        """Wait until every invocation of the workgroup is here and its workgroup writes are visible."""
        T.evaluate(T.tvm_storage_sync("shared"))


def codebook_words(codebook: Sequence[int]) -> Expr:
    """Sixteen values of 8 bits, 128 added, as `uint32x4`."""
    words = np.array([value + 128 for value in codebook], np.uint8).view("<u4")
    return tirx.Shuffle([T.uint32(int(word)) for word in words], [0, 1, 2, 3])


def call(dtype: str, name: str, *arguments: Expr) -> Expr:
    """Call a WGSL builtin, or one of the helpers that `lowering.wgsl` puts before the kernels."""
    return T.call_extern(dtype, name, *arguments)


def f32(value: Expr) -> Expr:
    """A constant, or a conversion. TVM writes constants with seven digits; those that lose by it are given as bits."""
    if not isinstance(value, int | float):
        return T.cast(value, "float32")
    exact = np.float32(value)
    if np.float32(f"{exact:.6e}") == exact:
        return T.float32(value)
    return bits_to_f32(T.uint32(int(exact.view(np.uint32))))


def i32(value: Expr) -> Expr:
    return T.int32(value) if isinstance(value, int) else T.cast(value, "int32")


def u32(value: Expr) -> Expr:
    return T.uint32(value) if isinstance(value, int) else T.cast(value, "uint32")


def bits_to_f32(value: Expr) -> Expr:
    """Reinterpret a u32 word as f32."""
    return T.reinterpret("float32", value)


def f32_to_bits(value: Expr) -> Expr:
    """Reinterpret an f32 as a u32 word."""
    return T.reinterpret("uint32", value)


def dot(a: Expr, b: Expr) -> Expr:
    """Inner product of two `vec4<f32>`."""
    return call("float32", "dot", a, b)


def dot8(total: Expr, values: tuple[Expr, Expr], others: tuple[Expr, Expr]) -> Expr:
    """`total` and the inner product of eight values, two `vec4<f32>`, with eight others, in one chain."""
    return call("float32", "wisp_dot8", total, *values, *others)


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c of f32 or of vectors."""
    return call(str(a.ty.dtype), "fma", a, b, c)


def lane(vector: Expr, index: int) -> Expr:
    """One component of a vector."""
    return tirx.Shuffle([vector], [index])


def div(a: Expr, b: Expr) -> Expr:
    """Quotient of two non-negative integers."""
    return a // b if isinstance(a, int) and isinstance(b, int) else tirx.truncdiv(a, b)


def mod(a: Expr, b: Expr) -> Expr:
    """Remainder of two non-negative integers."""
    return a % b if isinstance(a, int) and isinstance(b, int) else tirx.truncmod(a, b)


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Both sides are computed; one is taken."""
    return tirx.Select(condition, yes, no)


def all_of(conditions: Sequence[Expr]) -> Expr:
    """The conjunction; `True` when nothing is asked."""
    real = [c for c in conditions if c is not True]
    if not real:
        return True
    result = real[0]
    for condition in real[1:]:
        result = tirx.And(result, condition)
    return result


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
