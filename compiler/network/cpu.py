"""The steps of a graph on the CPU: integer products of quantized activations, norms folded into their quantization.

Knows which CPU kernel serves a step; what a layer is stays with the graph. A decode step of Llama is 9 dispatches
a layer: quantize, qkv, attention, quantize, output, quantize, gate and up, quantize, down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.relax.frontend import nn

from ..kernels.builder import Kernel
from ..kernels.cpu import activation, attention, head_norm, norm, products, sample
from ..kernels.cpu.builder import CpuKernel
from ..kernels.epilogue import Declare, Store
from ..kernels.sampler import Sampler
from ..kernels.shapes import AttentionShape
from .backend import ACTIVATION, Operand, Parts, Product
from .layers import Geometry, Matrix


class Cpu:
    """Every step by a kernel of the CPU."""

    kernel_type: type[Kernel] = CpuKernel
    rms_norm = staticmethod(norm.rms_norm)
    layer_norm = staticmethod(norm.layer_norm)
    normalize_rotate = staticmethod(head_norm.normalize_rotate_chunk)
    sampler: Sampler = sample.SAMPLER

    def product(
        self, parts: Parts, product: Product, operand: Operand, extra: Sequence[nn.Tensor], results: Sequence[Any]
    ) -> list[nn.Tensor]:
        """As of `Backend`."""
        matrix: Matrix = parts.weights[product.role, product.layer]
        declare, bias = parts.with_bias(product)
        operands = self._operands(parts, product, operand, matrix)
        state = [] if product.chunk == 1 else [parts.runtime.state]
        name = self._product(parts, product, declare)
        arguments = [*operands, *matrix.whole(), *state, *bias]
        places = [r + len(arguments) if isinstance(r, int) else r for r in results]
        return parts.kernels.call(name, [*arguments, *extra], places)

    def splits(self, geometry: Geometry) -> int:
        return attention.splits_for(geometry.cache.heads, geometry.context)

    def attention(self, parts: Parts, shape: AttentionShape) -> str:
        return parts.kernels.build("attention", attention.attention, shape, parts.geometry.state_words)

    def combine(self, parts: Parts, shape: AttentionShape) -> str:
        return parts.kernels.build("combine", attention.combine, shape)

    def rows_for(self, geometry: Geometry, rows: int) -> int:
        return max(geometry.prefill_chunks)  # its kernels are there, and take no time for rows that are not valid

    def logits(self, parts: Parts, product: Product, operand: Operand, into: nn.Tensor | None) -> nn.Tensor:
        """As of `Backend`."""
        store = product.declare
        assert isinstance(store, Store)
        if into is None:
            return self.product(parts, product, operand, [], [((store.chunk, store.n), ACTIVATION)])[0]
        return self.product(parts, product, operand, [into], [0])[0]

    def _operands(self, parts: Parts, product: Product, operand: Operand, matrix: Matrix) -> list[nn.Tensor]:
        """What a product reads in place of x: steps, scales and sums, or x itself, through the norm first."""
        g, k, chunk = parts.geometry, matrix.spec.shape[1], product.chunk
        gamma = parts.gamma(operand, product.layer)
        if not matrix.storage.group_size:
            if operand.norm is None:
                return [operand.x]
            name = parts.kernels.build("rms_norm", norm.rms_norm, chunk, k, operand.norm, g.state_words)
            return parts.kernels.call(name, [operand.x, *gamma, parts.runtime.state], [((chunk, k), ACTIVATION)])
        layout = activation.Layout.of(matrix.storage, k)
        kind = "quantize" if operand.norm is None else "norm_quantize"
        name = parts.kernels.build(kind, activation.quantize, layout, chunk, operand.norm, g.state_words)
        state = [] if chunk == 1 else [parts.runtime.state]
        padded = ((chunk, layout.padded_blocks), "float32")
        results = [((chunk, layout.columns), "int16"), padded, padded]
        return parts.kernels.call(name, [operand.x, *gamma, *state], results)

    def _product(self, parts: Parts, product: Product, declare: Declare) -> str:
        """The kernel of a product."""
        shape = parts.shape(product, declare)
        if product.chunk == 1:
            return parts.kernels.build(product.kind, products.matvec, shape)
        return parts.kernels.build(f"{product.kind}_chunk", products.matmul, shape)
