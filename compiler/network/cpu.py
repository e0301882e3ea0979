"""The steps of a graph on the CPU: integer products of quantized activations, norms folded into their quantization.

Knows which CPU kernel serves a step; what a layer is stays with the graphs. A decode step of `Decoder` is 9 dispatches
a layer: quantize, qkv, attention, quantize, output, quantize, gate and up, quantize, down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tvm.relax.frontend import nn

from compiler.kernels import epilogue
from compiler.kernels.cpu import activation, attention, embed, norm, products, sample
from compiler.kernels.cpu.builder import CpuKernel
from compiler.kernels.epilogue import UnitRows
from compiler.kernels.webgpu.attention import Shape
from compiler.models.base import Role
from compiler.network.decoder import Decoder
from compiler.network.graph import ACTIVATION, ONE_ROW, Graph, Make
from compiler.network.layers import Matrix
from compiler.network.parallel import ParallelDecoder


class CpuGraph(Graph):
    """Every step by a kernel of the CPU. Goes before the graph of a network in the order of base classes."""

    kernel_type = CpuKernel
    rms_norm_kernel: ClassVar[Make] = norm.rms_norm
    layer_norm_kernel: ClassVar[Make] = norm.layer_norm
    normalize_rotate_kernel: ClassVar[Make] = embed.normalize_rotate_chunk
    sampler = sample.SAMPLER

    def product(
        self,
        kind: str,
        role: str,
        layer: int | None,
        chunk: int,
        x: nn.Tensor,
        declare: epilogue.Declare,
        extra: Sequence[nn.Tensor],
        results: Sequence[Any],
        units: int,
        unit_rows: UnitRows = ONE_ROW,
        norm_role: Role | None = None,
    ) -> list[nn.Tensor]:
        matrix: Matrix = self.weights[role, layer]
        declare, bias = self.with_bias(declare, role, layer, unit_rows)
        operands = self._operands(matrix, layer, chunk, x, norm_role)
        state = [] if chunk == 1 else [self.runtime.state]
        name = self._product(kind, matrix, chunk, units, unit_rows, declare)
        arguments = [*operands, *matrix.whole(), *state, *bias]
        places = [r + len(arguments) if isinstance(r, int) else r for r in results]
        return self.kernels.call(name, [*arguments, *extra], places)

    def attend(self, chunk: int, query: nn.Tensor, cache: nn.Tensor) -> nn.Tensor:
        g = self.geometry
        splits = attention.splits_for(g.heads, g.context) if chunk == 1 else 1
        shape = Shape(g.cache, chunk, splits, g.model.sliding_window)
        name = self.kernels.build("attention", attention.attention, shape, g.state_words)
        result = ((chunk, self.query_columns), ACTIVATION)
        partial = ((g.heads.query * splits, g.heads.size + 4), "float32")
        (out,) = self.kernels.call(name, [query, cache, self.runtime.state], [result if splits == 1 else partial])
        if splits == 1:
            return out
        name = self.kernels.build("combine", attention.combine, shape)
        return self.kernels.call(name, [out], [result])[0]

    def vocabulary_product(self, x: nn.Tensor, norm_role: Role | None) -> None:
        m = self.geometry.model
        matrix: Matrix = self.weights["embedding" if m.tie_word_embeddings else "lm_head", None]
        declare, bias = self.with_bias(epilogue.Store(1, m.vocab_size), "lm_head", None, ONE_ROW)
        name = self._product("lm_head", matrix, 1, m.vocab_size, ONE_ROW, declare)
        arguments = [*self._operands(matrix, None, 1, x, norm_role), *matrix.whole(), *bias, self.runtime.logits]
        self.kernels.call(name, arguments, [len(arguments) - 1])

    def _operands(
        self, matrix: Matrix, layer: int | None, chunk: int, x: nn.Tensor, norm_role: Role | None
    ) -> list[nn.Tensor]:
        """What a product reads in place of x: steps, scales and offsets, or x itself, through the norm first."""
        g, k = self.geometry, matrix.spec.shape[1]
        if not matrix.scheme.group_size:
            return [self.rms_norm(norm_role, layer, chunk, x) if norm_role else x]
        layout = activation.layout_of(matrix.scheme.name, k)
        kind, normed = ("norm_quantize", g.norm) if norm_role else ("quantize", None)
        name = self.kernels.build(kind, activation.quantize, layout, chunk, normed, g.state_words)
        gamma = [self.weights[norm_role, layer]] if norm_role else []
        state = [] if chunk == 1 else [self.runtime.state]
        padded = ((chunk, layout.padded_groups), "float32")
        return self.kernels.call(name, [x, *gamma, *state], [((chunk, layout.columns), "int16"), padded, padded])

    def _product(
        self, kind: str, matrix: Matrix, chunk: int, units: int, unit_rows: UnitRows, declare: epilogue.Declare
    ) -> str:
        """The kernel of a product."""
        (rows, k), scheme = matrix.spec.shape, matrix.scheme.name
        if chunk == 1:
            return self.kernels.build(kind, products.matvec, scheme, rows, k, units, unit_rows, declare)
        shape = (scheme, chunk, rows, k, units, unit_rows, declare, self.geometry.state_words)
        return self.kernels.build(f"{kind}_chunk", products.matmul, *shape)


class CpuDecoder(CpuGraph, Decoder):
    """`Decoder` on the CPU."""


class CpuParallelDecoder(CpuGraph, ParallelDecoder):
    """`ParallelDecoder` on the CPU."""
