"""Norms with a dispatch of their own: RMS norm and layer norm of each row of a chunk.

(A decode step folds RMS norm into the mat-vec that follows; see `matvec`.) The numpy twins are `reference.rms_norm` and
`reference.layer_norm`.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, Kernel, ceil_div, div, dot, f32, i32
from ..shapes import Norm
from ..weights import load_vector4

THREADS = 32


def total(
    kernel: Kernel, shared: Array, threads: int, thread: Expr, count: int | Expr, measure: Callable[[Expr], Expr]
) -> Expr:
    """The sum of `measure(i)` for i in 0..count, by all threads of a workgroup; each has a place in `shared`."""
    part = kernel.registers()
    part[0] = f32(0.0)
    with kernel.loop(ceil_div(count, threads) if isinstance(count, int) else div(count + threads - 1, threads)) as step:
        index = kernel.let(step * threads + thread)
        with kernel.when(index < count):
            part[0] = part[0] + measure(index)
    shared[thread] = part[0]
    kernel.barrier()
    whole = kernel.registers()
    whole[0] = f32(0.0)
    with kernel.loop(threads) as other:
        whole[0] = whole[0] + shared[other]
    return whole[0]


def rms_norm(
    name: str, chunk: int, k: int, norm: Norm, state_words: int, residual_scale: float | None = None
) -> tirx.PrimFunc:
    """`out[r] = x[r] * gamma / sqrt(mean(x[r]^2) + eps)`; bindings: x, gamma, state, out. Padding rows are skipped.

    With a `residual_scale`, that times the norm is added to `residual[r]`, which is bound before `out`.
    """
    vectors = k // 4
    with Kernel(name) as kernel:
        x = kernel.buffer("x", chunk * vectors, "float32x4")
        gamma = kernel.buffer("gamma", vectors, "uint32x2" if norm.f16_weight else "float32x4")
        state = kernel.buffer("state", state_words, "uint32")
        residual = None if residual_scale is None else kernel.buffer("residual", chunk * vectors, "float32x4")
        out = kernel.buffer("out", chunk * vectors, "float32x4")
        row, _ = kernel.grid(chunk)
        thread = kernel.threads(THREADS)
        partial = kernel.shared(THREADS)
        with kernel.when(True if chunk == 1 else row < i32(state[2])):

            def square(index: Expr) -> Expr:
                value = kernel.let(x[row * vectors + index])
                return dot(value, value)

            squares = total(kernel, partial, THREADS, thread, vectors, square)
            factor = kernel.let(T.rsqrt(squares / f32(float(k)) + f32(norm.epsilon)))
            with kernel.loop(ceil_div(vectors, THREADS)) as step:
                index = kernel.let(step * THREADS + thread)
                with kernel.when(index < vectors):
                    value = x[row * vectors + index] * load_vector4(gamma, norm.f16_weight, index)
                    value = value * T.broadcast(factor, 4)
                    if residual is not None and residual_scale is not None:
                        if residual_scale != 1:
                            value = value * T.broadcast(f32(residual_scale), 4)
                        value = residual[row * vectors + index] + value
                    out[row * vectors + index] = value
    return kernel.function


def layer_norm(name: str, chunk: int, k: int, norm: Norm, state_words: int) -> tirx.PrimFunc:
    """`out[r] = (x[r] - mean) / sqrt(var + eps) * gamma + beta`; bindings: x, gamma, beta, state, out.

    A chunk of 1 is a decode step, whose one row is always valid.
    """
    vectors = k // 4
    weight = "uint32x2" if norm.f16_weight else "float32x4"
    with Kernel(name) as kernel:
        x = kernel.buffer("x", chunk * vectors, "float32x4")
        gamma, beta = kernel.buffer("gamma", vectors, weight), kernel.buffer("beta", vectors, weight)
        state = kernel.buffer("state", state_words, "uint32")
        out = kernel.buffer("out", chunk * vectors, "float32x4")
        row, _ = kernel.grid(chunk)
        thread = kernel.threads(THREADS)
        sums, squares = kernel.shared(THREADS), kernel.shared(THREADS)
        ones = T.broadcast(f32(1.0), 4)
        with kernel.when(True if chunk == 1 else row < i32(state[2])):
            mean, variance = kernel.registers(), kernel.registers()

            def element(index: Expr) -> Expr:
                return kernel.let(x[row * vectors + index])

            def squared_distance(index: Expr) -> Expr:
                centred = kernel.let(element(index) - T.broadcast(mean[0], 4))
                return dot(centred, centred)

            def average(shared: Array, measure: Callable[[Expr], Expr]) -> Expr:
                return total(kernel, shared, THREADS, thread, vectors, measure) / f32(float(k))

            mean[0] = average(sums, lambda index: dot(element(index), ones))
            variance[0] = average(squares, squared_distance)
            factor = kernel.let(T.rsqrt(variance[0] + f32(norm.epsilon)))
            with kernel.loop(ceil_div(vectors, THREADS)) as step:
                index = kernel.let(step * THREADS + thread)
                with kernel.when(index < vectors):
                    centred = x[row * vectors + index] - T.broadcast(mean[0], 4)
                    scaled = centred * T.broadcast(factor, 4) * load_vector4(gamma, norm.f16_weight, index)
                    out[row * vectors + index] = scaled + load_vector4(beta, norm.f16_weight, index)
    return kernel.function
