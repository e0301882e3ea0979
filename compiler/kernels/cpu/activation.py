"""Activations as the integer products read them: 16-bit steps, one scale a block, the norm before them fused in.

With 16 bits the product of a quantized matrix is as good as exact (8 bits would cost half a percent); the CPU
multiplies them eight at a time either way. A row of K columns is cut into the blocks of 32 or 16 columns in which the
weights are walked, padded with zeros, in three tensors:

* values, i16 `[rows, columns]`: in the order in which the weights of a block come out of their words;
* scales, f32 `[rows, padded blocks]`: value = step * scale;
* sums, f32, as scales: of the block's values, for the weights' zero point or bias.

Blocks are padded to a multiple of 4 so that rows begin at whole vectors. The numpy twin is `quantize_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...weights.storage import Storage
from ..builder import Expr, ceil_div, f32, i32
from ..shapes import Norm
from .builder import CpuKernel, convert, load, splat, store, sum_lanes
from .norm import rms_factor, weight4

STEPS = 32767


@dataclass(frozen=True)
class Layout:
    """The shape of quantized rows of k columns: what is alike in the matrices that they are multiplied with."""

    k: int
    block: int  # columns that share a scale
    planes: bool  # of a block of 32: columns 0, 4, 8, ..., then 1, 5, 9, ...; of 16: the even ones, then the odd ones

    @classmethod
    def of(cls, storage: Storage, k: int) -> Layout:
        return cls(k, storage.block, storage.bits == 4)

    @property
    def blocks(self) -> int:
        return ceil_div(self.k, self.block)

    @property
    def padded_blocks(self) -> int:
        return ceil_div(self.blocks, 4) * 4

    @property
    def columns(self) -> int:
        return self.blocks * self.block

    @property
    def vectors(self) -> int:
        """Vectors of eight of a block."""
        return self.block // 8

    def order(self, vector: int) -> list[int]:
        """The columns of a block that stand in one of its vectors."""
        return [self.vectors * i + vector if self.planes else 8 * vector + i for i in range(8)]


def quantize(name: str, layout: Layout, chunk: int, norm: Norm | None, state_words: int) -> tirx.PrimFunc:
    """Build the quantization of `chunk` rows, an item each; with `norm`, of their RMS norms.

    Bindings: x f32 `[chunk, k]`, [gamma `[k]`], [state, for a chunk of more than 1], values, scales, sums.
    """
    k = layout.k
    with CpuKernel(name) as kernel:
        x = kernel.buffer("x", chunk * k, "float32")
        gamma = kernel.buffer("gamma", k, "uint16" if norm.f16_weight else "float32") if norm else None
        state = kernel.buffer("state", state_words, "uint32") if chunk > 1 else None
        values = kernel.buffer("values", chunk * layout.columns, "int16")
        scales = kernel.buffer("scales", chunk * layout.padded_blocks, "float32")
        sums = kernel.buffer("sums", chunk * layout.padded_blocks, "float32")
        row, _ = kernel.grid(chunk)
        with kernel.when(row < i32(state[2]) if state else True):
            factor = rms_factor(kernel, x, row, k, norm.epsilon) if norm else None
            normed = kernel.scratch(layout.block)

            def block(index: Expr, count: int) -> None:
                """Quantize a block of `count` columns that exist."""
                most = kernel.registers(1, "float32x4")
                most[0] = splat(f32(0.0))
                for part in range(layout.block // 4):
                    value = splat(f32(0.0))
                    if part * 4 < count:
                        column = kernel.let(index * layout.block + part * 4)
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
                for vector in range(layout.vectors):
                    columns = layout.order(vector)
                    halves = []
                    for half in (columns[:4], columns[4:]):
                        loaded = [normed[column] for column in half]
                        stepped = T.nearbyint(tirx.Shuffle(loaded, [0, 1, 2, 3]) * splat(inverse))
                        halves.append(kernel.let(convert(stepped, "int32")))
                        total[0] = total[0] + halves[-1]
                    joined = tirx.Shuffle([T.cast(h, "int16x4") for h in halves], list(range(8)))
                    store(values, row * layout.columns + index * layout.block + vector * 8, joined)
                scales[row * layout.padded_blocks + index] = step
                sums[row * layout.padded_blocks + index] = convert(sum_lanes(total[0]), "float32") * step

            with kernel.loop(k // layout.block) as index:
                block(index, layout.block)
            if k % layout.block:
                block(k // layout.block, k % layout.block)
            for padding in range(layout.blocks, layout.padded_blocks):
                scales[row * layout.padded_blocks + padding] = f32(0.0)
                sums[row * layout.padded_blocks + padding] = f32(0.0)
    return kernel.function


def _largest_lane(vector: Expr) -> Expr:
    first, second, third, fourth = (tirx.Shuffle([vector], [i]) for i in range(4))
    return tirx.max(tirx.max(first, second), tirx.max(third, fourth))


def quantize_rows(x: NDArray[np.float32], layout: Layout) -> tuple[NDArray, NDArray, NDArray]:
    """Numpy twin: `[rows, k]` -> values, scales, sums."""
    rows = len(x)
    padded = np.zeros((rows, layout.blocks, layout.block), np.float32)
    padded.reshape(rows, -1)[:, : layout.k] = x
    largest = np.abs(padded).max(axis=2)
    inverse = np.divide(np.float32(STEPS), largest, out=np.zeros_like(largest), where=largest > 0)
    steps = np.rint(padded * inverse[..., None]).astype(np.int16)
    scales, sums = (np.zeros((rows, layout.padded_blocks), np.float32) for _ in range(2))
    scales[:, : layout.blocks] = largest * np.float32(1.0 / STEPS)
    whole = steps.astype(np.int64).sum(axis=2).astype(np.float32)
    sums[:, : layout.blocks] = whole * scales[:, : layout.blocks]
    order = [column for vector in range(layout.vectors) for column in layout.order(vector)]
    return steps[:, :, order].reshape(rows, -1), scales, sums
