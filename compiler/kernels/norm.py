"""Prefill: RMS norm of each row of a chunk. (A decode step folds it into the mat-vec that follows.)

The numpy twin is `reference.rms_norm`.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import Kernel, cast4, ceil_div, dot, f32, i32
from compiler.kernels.matvec import Norm
from compiler.kernels.weights import load_vector4

THREADS = 32


def rms_norm(name: str, chunk: int, k: int, norm: Norm, state_words: int, activation: str) -> tirx.PrimFunc:
    """`out[r] = x[r] * gamma / sqrt(mean(x[r]^2) + eps)`; bindings: x, gamma, state, out. Padding rows are skipped."""
    vectors = k // 4
    with Kernel(name) as kernel:
        x = kernel.buffer("x", chunk * vectors, f"{activation}x4")
        gamma = kernel.buffer("gamma", vectors, "uint32x2" if norm.f16_weight else "float32x4")
        state = kernel.buffer("state", state_words, "uint32")
        out = kernel.buffer("out", chunk * vectors, f"{activation}x4")
        row, _ = kernel.grid(chunk)
        thread = kernel.threads(THREADS)
        partial = kernel.shared(THREADS)
        with kernel.when(row < i32(state[2])):
            squares = kernel.registers()
            squares[0] = f32(0.0)
            with kernel.loop(ceil_div(vectors, THREADS)) as step:
                index = kernel.let(step * THREADS + thread)
                with kernel.when(index < vectors):
                    value = kernel.let(cast4(x[row * vectors + index], "float32"))
                    squares[0] = squares[0] + dot(value, value)
            partial[thread] = squares[0]
            kernel.barrier()
            total = kernel.registers()
            total[0] = f32(0.0)
            with kernel.loop(THREADS) as other:
                total[0] = total[0] + partial[other]
            factor = kernel.let(T.rsqrt(total[0] / f32(float(k)) + f32(norm.epsilon)))
            with kernel.loop(ceil_div(vectors, THREADS)) as step:
                index = kernel.let(step * THREADS + thread)
                with kernel.when(index < vectors):
                    value = cast4(x[row * vectors + index], "float32") * load_vector4(gamma, norm.f16_weight, index)
                    out[row * vectors + index] = cast4(value * T.broadcast(factor, 4), activation)
    return kernel.function
