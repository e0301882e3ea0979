"""What a matrix product does with its sums before they leave the registers: the fused epilogues.

An epilogue is called once for each output unit of each row, with the sums of the unit's matrix rows (one, or two where
the epilogue joins two). The `declare` functions declare its buffers, after the product's own, and return it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import (
    Expr,
    Kernel,
    all_of,
    bits_to_f32,
    ceil_div,
    div,
    f32,
    i32,
    mod,
    select,
)

STATE_HEADER = 16  # words of the state buffer before the rotary cos/sin pairs

Epilogue = Callable[[Kernel, Expr, Expr, Sequence[Expr]], None]  # (kernel, row, unit, sums) -> stores
Declare = Callable[[Kernel], Epilogue]


def with_bias(declare: Declare, rows: int, unit_rows: Callable[[Expr], Sequence[Expr]], f16: bool) -> Declare:
    """Add `bias[row]` to each sum before the epilogue; bindings: bias, then the epilogue's own."""

    def declare_both(kernel: Kernel) -> Epilogue:
        bias = kernel.buffer("bias", ceil_div(rows, 2) if f16 else rows, "uint32" if f16 else "float32")
        inner = declare(kernel)

        def value(row: Expr) -> Expr:
            if not f16:
                return bias[row]
            return kernel.f16(bias, kernel.let(row))

        def epilogue(k: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            total = [k.let(s + value(r)) for s, r in zip(sums, unit_rows(unit), strict=True)]
            inner(k, row, unit, total)

        return epilogue

    return declare_both


def store(chunk: int, n: int, dtype: str, offset: int = 0) -> Declare:
    """Epilogue: out[row, offset + unit] = sum."""

    def declare(kernel: Kernel) -> Epilogue:
        out = kernel.buffer("out", chunk * n, dtype)

        def epilogue(_: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            out[row * n + offset + unit] = T.cast(sums[0], dtype)

        return epilogue

    return declare


def store_residual(chunk: int, n: int, dtype: str) -> Declare:
    """Epilogue: out[row, unit] = residual[row, unit] + sum."""

    def declare(kernel: Kernel) -> Epilogue:
        residual = kernel.buffer("residual", chunk * n, dtype)
        out = kernel.buffer("out", chunk * n, dtype)

        def epilogue(_: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            out[row * n + unit] = T.cast(f32(residual[row * n + unit]) + sums[0], dtype)

        return epilogue

    return declare


def store_gated(chunk: int, n: int, dtype: str) -> Declare:
    """Epilogue: out[row, unit] = silu(gate) * up."""

    def declare(kernel: Kernel) -> Epilogue:
        out = kernel.buffer("out", chunk * n, dtype)

        def epilogue(k: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            out[row * n + unit] = T.cast(silu(k, sums[0]) * sums[1], dtype)

        return epilogue

    return declare


def store_gelu(chunk: int, n: int, dtype: str) -> Declare:
    """Epilogue: out[row, unit] = gelu(sum), by tanh (`gelu_new`; Hendrycks and Gimpel, arXiv:1606.08415)."""

    def declare(kernel: Kernel) -> Epilogue:
        out = kernel.buffer("out", chunk * n, dtype)

        def epilogue(k: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            x = k.let(sums[0])
            inner = (x + x * x * x * f32(0.044715)) * f32((2.0 / math.pi) ** 0.5)
            # tanh(y) = 1 - 2 / (exp(2y) + 1) holds at both ends, where exp overflows or vanishes.
            tanh = f32(1.0) - f32(2.0) / (k.exp(inner * f32(2.0)) + f32(1.0))
            out[row * n + unit] = T.cast(x * f32(0.5) * (f32(1.0) + tanh), dtype)

        return epilogue

    return declare


def silu(kernel: Kernel, value: Expr) -> Expr:
    return value / (f32(1.0) + kernel.exp(f32(0.0) - value))


@dataclass(frozen=True)
class Heads:
    """The attention heads of a layer, as its fused qkv matrix orders them: queries, keys, values."""

    query: int
    key_value: int
    size: int
    rotary: int  # leading dimensions of a head that rotate, as pairs (i, i + rotary/2)

    @property
    def rows(self) -> int:
        return (self.query + 2 * self.key_value) * self.size

    def pair(self, unit: Expr) -> tuple[Expr, Expr, Expr, Expr]:
        """Unit -> (head, index of the pair, first and second dimension within the head)."""
        half, rotating = self.size // 2, self.rotary // 2
        head, i = div(unit, half), mod(unit, half)
        if self.rotary == self.size:
            return head, i, i, i + half
        rest = half - rotating
        turns = i < rotating
        first = select(turns, i, self.rotary + i - rotating)
        second = select(turns, i + rotating, self.rotary + i - rotating + rest)
        return head, i, first, second

    def pair_rows(self, unit: Expr) -> tuple[Expr, Expr]:
        head, _, first, second = self.pair(unit)
        return head * self.size + first, head * self.size + second


def store_rotated(heads: Heads, context: int, state_words: int, dtype: str) -> Declare:
    """Epilogue of the fused qkv product: rotate queries and keys, keep queries, append the rest to the cache.

    The cache row of a position is `[2 * key_value heads, head size]`: keys, then values. cos/sin of the position
    stand in the state buffer behind its header (see `kernels.embed`).
    """
    cache_row = 2 * heads.key_value * heads.size

    def declare(kernel: Kernel) -> Epilogue:
        state = kernel.buffer("state", state_words, "uint32")
        cache = kernel.buffer("cache", context * cache_row, dtype)
        query = kernel.buffer("query", heads.query * heads.size, dtype)

        def epilogue(k: Kernel, _: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            head, i, first, second = (k.let(value) for value in heads.pair(unit))
            rotates = all_of(
                [head < heads.query + heads.key_value, True if heads.rotary == heads.size else i < heads.rotary // 2]
            )
            a, b = k.registers(), k.registers()
            a[0], b[0] = sums[0], sums[1]
            with k.when(rotates):
                cos = k.let(bits_to_f32(state[STATE_HEADER + 2 * i]))
                sin = k.let(bits_to_f32(state[STATE_HEADER + 2 * i + 1]))
                a[0] = sums[0] * cos - sums[1] * sin
                b[0] = sums[1] * cos + sums[0] * sin
            with T.If(head < heads.query):
                with T.Then():
                    query[head * heads.size + first] = T.cast(a[0], dtype)
                    query[head * heads.size + second] = T.cast(b[0], dtype)
                with T.Else():
                    base = k.let(i32(state[0]) * cache_row + (head - heads.query) * heads.size)
                    cache[base + first] = T.cast(a[0], dtype)
                    cache[base + second] = T.cast(b[0], dtype)

        return epilogue

    return declare
