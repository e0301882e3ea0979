"""What a matrix product does with its sums before they leave the registers: the fused epilogues.

A `Declare` declares an epilogue's buffers, after the product's own, and returns it; the epilogue is called once for
each output unit of each row, with the sums of the unit's matrix rows (one, or two where it joins two). Which rows those
are, `UnitRows` says. Both are frozen values, so that equal ones are known to make equal kernels. Activations are f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tvm import tirx

from .builder import Expr, Kernel, all_of, bits_to_f32, ceil_div, f32, i32, select
from .cache import Cache, Heads

STATE_HEADER = 16  # words of the state buffer before the rotary cos/sin pairs

Epilogue = Callable[[Kernel, Expr, Expr, Sequence[Expr]], None]  # (kernel, row, unit, sums) -> stores
Declare = Callable[[Kernel], Epilogue]
UnitRows = Callable[[Expr], Sequence[Expr]]


@dataclass(frozen=True)
class OneRow:
    """A unit is one row of the matrix; `first` is the row of unit 0."""

    first: int = 0

    def __call__(self, unit: Expr) -> Sequence[Expr]:
        return (unit + self.first if self.first else unit,)


@dataclass(frozen=True)
class HalfRows:
    """A unit is a row of each half of the matrix; `half` is the rows of one."""

    half: int

    def __call__(self, unit: Expr) -> Sequence[Expr]:
        return unit, unit + self.half


@dataclass(frozen=True)
class PairRows:
    """A unit is a pair of a head's dimensions."""

    heads: Heads

    def __call__(self, unit: Expr) -> Sequence[Expr]:
        return self.heads.pair_rows(unit)


@dataclass(frozen=True)
class WithBias:
    """`bias[row]` is added to each sum before the epilogue; bindings: bias, then the epilogue's own."""

    declare: Declare
    rows: int
    unit_rows: UnitRows
    f16: bool

    def __call__(self, kernel: Kernel) -> Epilogue:
        f16 = self.f16
        bias = kernel.buffer("bias", ceil_div(self.rows, 2) if f16 else self.rows, "uint32" if f16 else "float32")
        inner = self.declare(kernel)

        def epilogue(k: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            biases = [k.f16(bias, k.let(r)) if f16 else bias[r] for r in self.unit_rows(unit)]
            inner(k, row, unit, [k.let(s + b) for s, b in zip(sums, biases, strict=True)])

        return epilogue


@dataclass(frozen=True)
class Store:
    """out[row, offset + unit] = scale * sum, capped where there is a cap; out is `[chunk, n]`."""

    chunk: int
    n: int
    offset: int = 0
    scale: float = 1.0
    soft_cap: float | None = None

    def __call__(self, kernel: Kernel) -> Epilogue:
        out = kernel.buffer("out", self.chunk * self.n, "float32")

        def epilogue(k: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            value = scaled(sums[0], self.scale)
            out[row * self.n + self.offset + unit] = capped(k, value, self.soft_cap)

        return epilogue


@dataclass(frozen=True)
class StoreResidual:
    """out[row, unit] = residual[row, unit] + scale * sum."""

    chunk: int
    n: int
    scale: float = 1.0

    def __call__(self, kernel: Kernel) -> Epilogue:
        residual = kernel.buffer("residual", self.chunk * self.n, "float32")
        out = kernel.buffer("out", self.chunk * self.n, "float32")

        def epilogue(_: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            out[row * self.n + unit] = residual[row * self.n + unit] + scaled(sums[0], self.scale)

        return epilogue


@dataclass(frozen=True)
class StoreGated:
    """out[row, unit] = activation(gate) * up."""

    chunk: int
    n: int
    activation: Literal["silu", "gelu_tanh", "gelu"] = "silu"

    def __call__(self, kernel: Kernel) -> Epilogue:
        out = kernel.buffer("out", self.chunk * self.n, "float32")

        def epilogue(k: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            activate = {"silu": silu, "gelu_tanh": gelu, "gelu": exact_gelu}[self.activation]
            out[row * self.n + unit] = activate(k, sums[0]) * sums[1]

        return epilogue


@dataclass(frozen=True)
class StoreGelu:
    """out[row, unit] = gelu(sum) (Hendrycks and Gimpel, arXiv:1606.08415), by tanh (`gelu_new`) or exactly."""

    chunk: int
    n: int
    exact: bool = False

    def __call__(self, kernel: Kernel) -> Epilogue:
        out = kernel.buffer("out", self.chunk * self.n, "float32")

        def epilogue(k: Kernel, row: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            out[row * self.n + unit] = (exact_gelu if self.exact else gelu)(k, sums[0])

        return epilogue


def gelu(kernel: Kernel, value: Expr) -> Expr:
    x = kernel.let(value)
    inner = (x + x * x * x * f32(0.044715)) * f32((2.0 / math.pi) ** 0.5)
    return x * f32(0.5) * (f32(1.0) + tanh(kernel, inner))


# erfc(z) = t (a1 + t (a2 + ...)) e^(-z^2) with t = 1 / (1 + p z), to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
ERFC_P = 0.3275911
ERFC_TERMS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def exact_gelu(kernel: Kernel, value: Expr) -> Expr:
    """x / 2 erfc(-x / sqrt(2)): of a negative x no difference of two near numbers."""
    x = kernel.let(value)
    z = kernel.let(tirx.max(x, f32(0.0) - x) * f32(0.5**0.5))
    t = kernel.let(f32(1.0) / (f32(1.0) + z * f32(ERFC_P)))
    p = f32(ERFC_TERMS[0])
    for term in ERFC_TERMS[1:]:
        p = p * t + f32(term)
    tail = kernel.let(p * t * kernel.exp(tirx.max(f32(0.0) - z * z, f32(-80.0))))
    return x * f32(0.5) * select(x < f32(0.0), tail, f32(2.0) - tail)


def tanh(kernel: Kernel, value: Expr) -> Expr:
    # 1 - 2 / (exp(2y) + 1) holds at both ends, where exp is large or vanishes.
    return f32(1.0) - f32(2.0) / (kernel.exp(tirx.min(value * f32(2.0), f32(80.0))) + f32(1.0))


def scaled(value: Expr, scale: float) -> Expr:
    """scale * value."""
    return value if scale == 1 else value * f32(scale)


def capped(kernel: Kernel, value: Expr, soft_cap: float | None) -> Expr:
    """soft_cap * tanh(value / soft_cap); the value where there is no cap."""
    if soft_cap is None:
        return value
    return f32(soft_cap) * tanh(kernel, value * f32(1.0 / soft_cap))


def silu(kernel: Kernel, value: Expr) -> Expr:
    # WGSL leaves open what an exponential beyond f32's range is; e^80 makes any value nothing, too.
    return value / (f32(1.0) + kernel.exp(tirx.min(f32(0.0) - value, f32(80.0))))


@dataclass(frozen=True)
class StoreRotated:
    """Of the fused qkv product of one token: rotate queries and keys, keep queries, append the rest to the cache.

    cos/sin of the position stand in the state buffer behind its header, the layer's from pair `first` on (see
    `kernels.webgpu.embed`). Bindings: state, cache, query.
    """

    cache: Cache
    state_words: int
    first: int = 0

    def __call__(self, kernel: Kernel) -> Epilogue:
        heads = self.cache.heads
        state = kernel.buffer("state", self.state_words, "uint32")
        cache = self.cache.bind(kernel)
        query = kernel.buffer("query", heads.query * heads.size, "float32")

        def epilogue(k: Kernel, _: Expr, unit: Expr, sums: Sequence[Expr]) -> None:
            pair = head, i, _, _ = tuple(k.let(value) for value in heads.pair(unit))
            rotates = all_of(
                [head < heads.query + heads.key_value, True if heads.rotary == heads.size else i < heads.rotary // 2]
            )
            a, b = k.registers(), k.registers()
            a[0], b[0] = sums[0], sums[1]
            if heads.rotary:
                with k.when(rotates):
                    header = STATE_HEADER + 2 * self.first
                    cos = k.let(bits_to_f32(state[header + 2 * i]))
                    sin = k.let(bits_to_f32(state[header + 2 * i + 1]))
                    a[0] = sums[0] * cos - sums[1] * sin
                    b[0] = sums[1] * cos + sums[0] * sin
            self.cache.store(k, cache, query, 0, i32(state[0]), pair, (a[0], b[0]))

        return epilogue
