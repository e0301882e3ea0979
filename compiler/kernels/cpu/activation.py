"""Activations as the integer products read them: 16-bit steps, one scale for 32 columns, the norm before them fused in.

With 16 bits the product of a quantized matrix is as good as exact (8 bits would cost half a percent); the CPU
multiplies them eight at a time either way. A row of K columns is `groups = ceil(K / 32)` groups, padded with zeros, in
three tensors:

* values, i16 `[rows, groups * 32]`: in the order in which the weights of a group come out of their words (`Order`);
* scales, f32 `[rows, padded groups]`: value = step * scale;
* offsets, f32, as scales: what the weights' zero point adds to the group's product, before the weight's scale.

Groups are padded to a multiple of 4 so that rows begin at whole vectors. The numpy twin is `quantize_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import Expr, ceil_div, f32, i32
from compiler.kernels.cpu.builder import CpuKernel, convert, load, splat, store, sum_lanes
from compiler.kernels.cpu.norm import rms_factor, weight4
from compiler.kernels.webgpu.matvec import Norm
from compiler.kernels.weights import GROUP

STEPS = 32767
Order = Literal["planes", "plain"]  # planes: columns 0, 4, 8, ... of a group, then 1, 5, 9, ...


@dataclass(frozen=True)
class Layout:
    """The shape of quantized rows of k columns, for the matrices of one scheme."""

    k: int
    order: Order
    zero_point: int

    @property
    def groups(self) -> int:
        return ceil_div(self.k, GROUP)

    @property
    def padded_groups(self) -> int:
        return ceil_div(self.groups, 4) * 4

    @property
    def columns(self) -> int:
        return self.groups * GROUP


def layout_of(scheme: str, k: int) -> Layout:
    """What the products of a scheme with 4 or 8 bits read."""
    return Layout(k, "planes", 7) if scheme == "q4f16_1" else Layout(k, "plain", 127)


def quantize(name: str, layout: Layout, chunk: int, norm: Norm | None, state_words: int) -> tirx.PrimFunc:
    """Build the quantization of `chunk` rows, an item each; with `norm`, of their RMS norms.

    Bindings: x f32 `[chunk, k]`, [gamma `[k]`], [state, for a chunk of more than 1], values, scales, offsets.
    """
    k = layout.k
    with CpuKernel(name) as kernel:
        x = kernel.buffer("x", chunk * k, "float32")
        gamma = kernel.buffer("gamma", k, "uint16" if norm.f16_weight else "float32") if norm else None
        state = kernel.buffer("state", state_words, "uint32") if chunk > 1 else None
        values = kernel.buffer("values", chunk * layout.columns, "int16")
        scales = kernel.buffer("scales", chunk * layout.padded_groups, "float32")
        offsets = kernel.buffer("offsets", chunk * layout.padded_groups, "float32")
        row, _ = kernel.grid(chunk)
        with kernel.when(row < i32(state[2]) if state else True):
            factor = rms_factor(kernel, x, row, k, norm.epsilon) if norm else None
            normed = kernel.scratch(GROUP)

            def group(index: Expr, count: int) -> None:
                """Quantize a group of `count` columns that exist."""
                most = kernel.registers(1, "float32x4")
                most[0] = splat(f32(0.0))
                for part in range(GROUP // 4):
                    value = splat(f32(0.0))
                    if part * 4 < count:
                        column = kernel.let(index * GROUP + part * 4)
                        value = kernel.let(load(x, row * k + column, 4))
                        if gamma and norm:
                            weight = weight4(kernel, gamma, column, norm.f16_weight)
                            value = kernel.let(value * splat(factor) * weight)
                        most[0] = tirx.max(most[0], tirx.max(value, splat(f32(0.0)) - value))
                    store(normed, part * 4, value)
                largest = kernel.let(_largest_lane(most[0]))
                step = kernel.let(largest * f32(1.0 / STEPS))
                inverse = kernel.let(tirx.Select(largest > f32(0.0), f32(float(STEPS)) / largest, f32(0.0)))
                total = kernel.registers(1, "int32x4")
                total[0] = splat(T.int32(0))
                for vector in range(GROUP // 8):
                    columns = _columns(layout.order, vector)
                    halves = []
                    for half in (columns[:4], columns[4:]):
                        loaded = [normed[column] for column in half]
                        stepped = T.nearbyint(tirx.Shuffle(loaded, [0, 1, 2, 3]) * splat(inverse))
                        halves.append(kernel.let(convert(stepped, "int32")))
                        total[0] = total[0] + halves[-1]
                    joined = tirx.Shuffle([T.cast(h, "int16x4") for h in halves], list(range(8)))
                    store(values, row * layout.columns + index * GROUP + vector * 8, joined)
                scales[row * layout.padded_groups + index] = step
                whole = convert(sum_lanes(total[0]), "float32")
                offsets[row * layout.padded_groups + index] = whole * step * f32(-float(layout.zero_point))

            with kernel.loop(k // GROUP) as index:
                group(index, GROUP)
            if k % GROUP:
                group(k // GROUP, k % GROUP)
            for padding in range(layout.groups, layout.padded_groups):
                scales[row * layout.padded_groups + padding] = f32(0.0)
                offsets[row * layout.padded_groups + padding] = f32(0.0)
    return kernel.function


def _columns(order: Order, vector: int) -> list[int]:
    """The columns of a group that stand in one vector of eight."""
    return [4 * i + vector for i in range(8)] if order == "planes" else [8 * vector + i for i in range(8)]


def _largest_lane(vector: Expr) -> Expr:
    first, second, third, fourth = (tirx.Shuffle([vector], [i]) for i in range(4))
    return tirx.max(tirx.max(first, second), tirx.max(third, fourth))


def quantize_rows(x: NDArray[np.float32], layout: Layout) -> tuple[NDArray, NDArray, NDArray]:
    """Numpy twin: `[rows, k]` -> values, scales, offsets."""
    rows = len(x)
    padded = np.zeros((rows, layout.groups, GROUP), np.float32)
    padded.reshape(rows, -1)[:, : layout.k] = x
    largest = np.abs(padded).max(axis=2)
    inverse = np.divide(np.float32(STEPS), largest, out=np.zeros_like(largest), where=largest > 0)
    steps = np.rint(padded * inverse[..., None]).astype(np.int16)
    scales, offsets = (np.zeros((rows, layout.padded_groups), np.float32) for _ in range(2))
    scales[:, : layout.groups] = largest * np.float32(1.0 / STEPS)
    sums = steps.astype(np.int64).sum(axis=2).astype(np.float32)
    offsets[:, : layout.groups] = sums * scales[:, : layout.groups] * np.float32(-layout.zero_point)
    order = [column for vector in range(4) for column in _columns(layout.order, vector)]
    return steps[:, :, order].reshape(rows, -1), scales, offsets
