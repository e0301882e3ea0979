"""The steps of a graph on WebGPU: mat-vecs with folded norms in decode, tiled products behind norms in prefill.

Knows which kernel serves a step; what a layer is stays with the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm.relax.frontend import nn

from ..kernels import epilogue
from ..kernels.builder import Kernel
from ..kernels.epilogue import OneRow
from ..kernels.sampler import Sampler
from ..kernels.shapes import AttentionShape, MatrixShape, Norm
from ..kernels.webgpu import (
    attention,
    few,
    head_norm,
    matmul,
    matvec,
    norm,
    packed,
    prefill_attention,
    sample,
)
from ..kernels.webgpu.tuning import FEW_VECTORS, splits_for
from .backend import ACTIVATION, Operand, Parts, Product
from .layers import Geometry, Matrix


class WebGpu:
    """Every step by a kernel of the GPU."""

    kernel_type: type[Kernel] = Kernel
    rms_norm = staticmethod(norm.rms_norm)
    layer_norm = staticmethod(norm.layer_norm)
    normalize_rotate = staticmethod(head_norm.normalize_rotate_chunk)
    sampler: Sampler = sample.SAMPLER

    def product(
        self, parts: Parts, product: Product, operand: Operand, extra: Sequence[nn.Tensor], results: Sequence[Any]
    ) -> list[nn.Tensor]:
        """As of `Backend`; in decode the norm is folded in."""
        g, chunk = parts.geometry, product.chunk
        matrix: Matrix = parts.weights[product.role, product.layer]
        k, storage = matrix.spec.shape[1], matrix.storage
        declare, bias = parts.with_bias(product)
        shape = parts.shape(product, declare)
        if chunk == 1:
            name = self._decode_product(parts, product.kind, shape, operand.norm)
            arguments = [operand.x, *parts.gamma(operand, product.layer), *matrix.whole(), *bias]
        else:
            if chunk <= few.MOST:
                operands = [self._normed(parts, product, operand)]
                name = self._few_product(parts, product.kind, shape)
            elif (packing := g.tuning.packed) and storage.group_size:
                operands = self._quantize(parts, product, operand, packed.Rows.of(storage, k))
                name = parts.kernels.build(f"{product.kind}_chunk", packed.matmul, shape, packing)
            else:
                operands = [self._normed(parts, product, operand)]
                name = parts.kernels.build(f"{product.kind}_chunk", matmul.matmul, shape, g.tuning.tiling)
            arguments = [*operands, *matrix.whole(), parts.runtime.state, *bias]
        places = [r + len(arguments) if isinstance(r, int) else r for r in results]
        return parts.kernels.call(name, [*arguments, *extra], places)

    def splits(self, geometry: Geometry) -> int:
        return splits_for(geometry.context, attention.workgroups(geometry.cache))

    def attention(self, parts: Parts, shape: AttentionShape) -> str:
        g = parts.geometry
        if shape.chunk > 1:
            make = (prefill_attention.attention, shape, g.state_words, g.tuning.attention)
            return parts.kernels.build("attention", *make)
        tuning = g.tuning
        make_decode = (attention.attention, shape, g.state_words, tuning.attention.subgroups, tuning.decode)
        return parts.kernels.build("attention", *make_decode)

    def combine(self, parts: Parts, shape: AttentionShape) -> str:
        return parts.kernels.build("combine", attention.combine, shape)

    def rows_for(self, geometry: Geometry, rows: int) -> int:
        return rows

    def logits(self, parts: Parts, product: Product, operand: Operand, into: nn.Tensor | None) -> nn.Tensor:
        """As of `Backend`, in as many dispatches as the matrix has parts."""
        g, store, single = parts.geometry, product.declare, product.chunk == 1
        assert isinstance(store, epilogue.Store)
        operands = [operand.x, *parts.gamma(operand, None)] if single else [self._normed(parts, product, operand)]
        matrix: Matrix = parts.weights[product.role, None]
        bias = parts.weights.get((f"{product.biased_as or product.role}_bias", None))
        for (start, stop), parameters in matrix.parts:
            rows = stop - start
            declare: epilogue.Declare = replace(store, offset=start)
            if bias is not None:
                declare = epilogue.WithBias(declare, g.model.vocab_size, OneRow(start), g.f16_vectors)
            shape = replace(parts.shape(replace(product, units=rows), declare), rows=rows)
            if single:
                name = self._decode_product(parts, product.kind, shape, operand.norm)
            else:
                name = self._few_product(parts, product.kind, shape)
            arguments = [*operands, *parameters, *([] if single else [parts.runtime.state])]
            arguments += [bias] if bias is not None else []
            if into is None:
                (into,) = parts.kernels.call(name, arguments, [((store.chunk, store.n), ACTIVATION)])
            else:
                (into,) = parts.kernels.call(name, [*arguments, into], [len(arguments)])
        assert into is not None
        return into

    def _normed(self, parts: Parts, product: Product, operand: Operand) -> nn.Tensor:
        """The operand, through its norm in a dispatch of its own where it has one."""
        if operand.norm is None:
            return operand.x
        g, k = parts.geometry, int(operand.x.shape[-1])
        name = parts.kernels.build("rms_norm", norm.rms_norm, product.chunk, k, operand.norm, g.state_words)
        arguments = [operand.x, *parts.gamma(operand, product.layer), parts.runtime.state]
        return parts.kernels.call(name, arguments, [((product.chunk, k), ACTIVATION)])[0]

    def _quantize(self, parts: Parts, product: Product, operand: Operand, rows: packed.Rows) -> list[nn.Tensor]:
        """The operand, through its norm where it has one, as words and scales for a product in integers."""
        g, chunk = parts.geometry, product.chunk
        kind = "quantize" if operand.norm is None else "norm_quantize"
        name = parts.kernels.build(kind, packed.quantize, rows, chunk, operand.norm, g.state_words)
        words, scales = rows.shapes(chunk)
        arguments = [operand.x, *parts.gamma(operand, product.layer), parts.runtime.state]
        return parts.kernels.call(name, arguments, [(words, "uint32"), (scales, "float32")])

    def _few_product(self, parts: Parts, kind: str, shape: MatrixShape) -> str:
        """The kernel of a product of a few rows."""
        return parts.kernels.build(f"{kind}_few", few.matmul, shape, FEW_VECTORS[len(shape.unit_rows(0)) - 1])

    def _decode_product(self, parts: Parts, kind: str, shape: MatrixShape, normed: Norm | None) -> str:
        """The kernel of a decode step's product."""
        blocks = shape.storage.blocks(shape.k)
        chosen = parts.geometry.tuning.vector(len(shape.unit_rows(0)), shape.units, blocks)
        return parts.kernels.build(kind, matvec.matvec, shape, chosen, normed)
