"""RMS norm and layer norm of rows in f32, an item a row, for products that do not quantize their activations.

The bindings are those of `webgpu/norm.py`; a chunk of 1 is a decode step, whose one row is always valid. The
numpy twins are `reference.rms_norm` and `reference.layer_norm`.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, f32, i32
from ..shapes import Norm
from .builder import CpuKernel, f16_bits_to_f32, load, splat, store, sum_lanes


def rms_factor(kernel: CpuKernel, x: Array, row: Expr, k: int, epsilon: float) -> Expr:
    """1 / sqrt(mean(x^2) + epsilon) of a row of k columns."""
    total = _row_sum(kernel, x, row, k, lambda value: value * value)
    return kernel.let(f32(1.0) / T.sqrt(total * f32(1.0 / k) + f32(epsilon)))


def weight4(kernel: CpuKernel, vector: Array, column: Expr, f16: bool) -> Expr:
    """Four elements of a norm weight; f16 ones are bound as `uint16`."""
    loaded = load(vector, column, 4)
    return f16_bits_to_f32(kernel, loaded) if f16 else loaded


def rms_norm(
    name: str, chunk: int, k: int, norm: Norm, state_words: int, residual_scale: float | None = None
) -> tirx.PrimFunc:
    """`out[r] = x[r] / sqrt(mean(x^2) + eps) * gamma`; bindings: x, gamma, state, [residual], out."""
    weight = "uint16" if norm.f16_weight else "float32"
    with CpuKernel(name) as kernel:
        x, gamma = kernel.buffer("x", chunk * k, "float32"), kernel.buffer("gamma", k, weight)
        state = kernel.buffer("state", state_words, "uint32")
        residual = None if residual_scale is None else kernel.buffer("residual", chunk * k, "float32")
        out = kernel.buffer("out", chunk * k, "float32")
        row, _ = kernel.grid(chunk)
        with kernel.when(True if chunk == 1 else row < i32(state[2])):
            factor = rms_factor(kernel, x, row, k, norm.epsilon)
            with kernel.loop(k // 4) as part:
                scaled = load(x, row * k + part * 4, 4) * splat(factor)
                value = scaled * weight4(kernel, gamma, part * 4, norm.f16_weight)
                if residual is not None and residual_scale is not None:
                    if residual_scale != 1:
                        value = value * splat(f32(residual_scale))
                    value = load(residual, row * k + part * 4, 4) + value
                store(out, row * k + part * 4, value)
    return kernel.function


def layer_norm(name: str, chunk: int, k: int, norm: Norm, state_words: int) -> tirx.PrimFunc:
    """`out[r] = (x[r] - mean) / sqrt(var + eps) * gamma + beta`; bindings: x, gamma, beta, state, out."""
    weight = "uint16" if norm.f16_weight else "float32"
    with CpuKernel(name) as kernel:
        x = kernel.buffer("x", chunk * k, "float32")
        gamma, beta = kernel.buffer("gamma", k, weight), kernel.buffer("beta", k, weight)
        state = kernel.buffer("state", state_words, "uint32")
        out = kernel.buffer("out", chunk * k, "float32")
        row, _ = kernel.grid(chunk)
        with kernel.when(True if chunk == 1 else row < i32(state[2])):
            mean = kernel.let(_row_sum(kernel, x, row, k, lambda value: value) * f32(1.0 / k))

            def squared_distance(value: Expr) -> Expr:
                centred = kernel.let(value - splat(mean))
                return centred * centred

            variance = _row_sum(kernel, x, row, k, squared_distance) * f32(1.0 / k)
            factor = kernel.let(f32(1.0) / T.sqrt(variance + f32(norm.epsilon)))
            with kernel.loop(k // 4) as part:
                centred = load(x, row * k + part * 4, 4) - splat(mean)
                scaled = centred * splat(factor) * weight4(kernel, gamma, part * 4, norm.f16_weight)
                store(out, row * k + part * 4, scaled + weight4(kernel, beta, part * 4, norm.f16_weight))
    return kernel.function


def _row_sum(kernel: CpuKernel, x: Array, row: Expr, k: int, measure) -> Expr:  # type: ignore[no-untyped-def]
    """The sum of `measure` of each four elements of a row, over two chains of additions."""
    sums = [kernel.registers(1, "float32x4") for _ in range(2)]
    for register in sums:
        register[0] = splat(f32(0.0))
    with kernel.loop(k // 8) as part:
        for half, register in enumerate(sums):
            register[0] = register[0] + measure(kernel.let(load(x, row * k + part * 8 + half * 4, 4)))
    return kernel.let(sum_lanes(kernel.let(sums[0][0] + sums[1][0])))
