"""What a graph asks of a backend: the steps that devices take in different ways. `webgpu` and `cpu` are the two.

A backend knows which kernels serve a step; what a layer is, it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvm import tirx
from tvm.relax.frontend import nn

from ..kernels import epilogue
from ..kernels.builder import Kernel
from ..kernels.epilogue import OneRow, UnitRows
from ..kernels.sampler import Sampler
from ..kernels.shapes import AttentionShape, MatrixShape, Norm
from ..models.base import Role
from .layers import Geometry, KernelTable, Matrix, Runtime

Make = Callable[..., tirx.PrimFunc]
ACTIVATION = "float32"
ONE_ROW = OneRow()


@dataclass(frozen=True)
class Operand:
    """Rows of activations, `[chunk, columns]`, that go through an RMS norm first where `norm` says so.

    A product may fold the norm in; `role` is that of its weight.
    """

    x: nn.Tensor
    norm: Norm | None = None
    role: Role | None = None


@dataclass(frozen=True)
class Product:
    """A weight matrix times activations, the bias added where there is one, with an epilogue for each unit of rows."""

    kind: str  # what its kernel's name begins with
    role: Role
    layer: int | None
    chunk: int
    declare: epilogue.Declare
    units: int
    unit_rows: UnitRows = ONE_ROW
    biased_as: Role | None = None  # whose bias it adds, where not its own role's: a tied head has its own


@dataclass(frozen=True)
class Parts:
    """What the steps of a graph share: its kernels, its weights by (role, layer), and what outlives a dispatch list."""

    geometry: Geometry
    kernels: KernelTable
    runtime: Runtime
    weights: Mapping[tuple[str, int | None], Any]

    def with_bias(self, product: Product) -> tuple[epilogue.Declare, list[nn.Tensor]]:
        """The epilogue with the role's bias before it, and the bias, where the model has one."""
        bias = self.weights.get((f"{product.biased_as or product.role}_bias", product.layer))
        if bias is None:
            return product.declare, []
        f16 = self.geometry.f16_vectors
        return epilogue.WithBias(product.declare, int(bias.shape[0]), product.unit_rows, f16), [bias]

    def shape(self, product: Product, declare: epilogue.Declare) -> MatrixShape:
        """What the kernel of a product is built for."""
        matrix: Matrix = self.weights[product.role, product.layer]
        rows, k = matrix.spec.shape
        units, unit_rows, words = product.units, product.unit_rows, self.geometry.state_words
        return MatrixShape(matrix.storage, product.chunk, rows, k, units, unit_rows, declare, words)

    def gamma(self, operand: Operand, layer: int | None) -> list[nn.Tensor]:
        """The weight of the norm that an operand goes through; none where there is no norm."""
        return [] if operand.role is None else [self.weights[operand.role, layer]]


class Backend(Protocol):
    """The steps that devices take in different ways."""

    kernel_type: type[Kernel]
    rms_norm: Make
    layer_norm: Make
    normalize_rotate: Make
    sampler: Sampler

    def product(
        self, parts: Parts, product: Product, operand: Operand, extra: Sequence[nn.Tensor], results: Sequence[Any]
    ) -> list[nn.Tensor]:
        """`extra` are the epilogue's operands, in the order it declares them; a result is the index of one of them
        (written in place) or a new tensor's (shape, dtype)."""
        ...

    def splits(self, geometry: Geometry) -> int:
        """Into how many parts a decode step's attention deals out the positions."""
        ...

    def attention(self, parts: Parts, shape: AttentionShape) -> str:
        """The kernel of attention."""
        ...

    def combine(self, parts: Parts, shape: AttentionShape) -> str:
        """The kernel that joins the splits of a decode step."""
        ...

    def rows_for(self, geometry: Geometry, rows: int) -> int:
        """The chunk whose kernels serve a program of at most `rows` valid rows best."""
        ...

    def logits(self, parts: Parts, product: Product, operand: Operand, into: nn.Tensor | None) -> nn.Tensor:
        """The vocabulary projection, which declares a `Store`: into that tensor, or into a new one `[rows, vocab]`."""
        ...
