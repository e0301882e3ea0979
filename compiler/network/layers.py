"""The blocks every graph is made of: geometry, kernel table, weight matrices and the buffers between dispatches.

Knows how Relax sees a kernel and how a matrix too large for one binding is cut. It knows no architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.relax.frontend import nn
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..kernels.cache import Cache, Heads
from ..kernels.epilogue import STATE_HEADER
from ..kernels.mask import mask_words
from ..kernels.rope import RopePart, rope_words
from ..kernels.shapes import Norm as KernelNorm
from ..kernels.webgpu.tuning import MOST_ROWS, TUNING, Alternative, VariantTuning
from ..models.base import ModelConfig, Norm, WeightSpec
from ..target.limits import DEFAULT_LIMITS
from ..target.variants import Variant
from ..weights.quantize import parameter_layout
from ..weights.schemes import EXCEPTED_ROLES, Scheme

RING_SIZE = 256
VERIFY_ROWS = 8  # of a draft that one program verifies: GPUs share weights between no more, CPUs among exactly so many
CUT_BYTES = DEFAULT_LIMITS["maxStorageBufferBindingSize"]
CUT_ROLES = EXCEPTED_ROLES  # the vocabulary's matrices: only their kernels take a matrix in parts
PART_ROWS = 64  # a tensor is cut at multiples of this


@dataclass(frozen=True)
class Geometry:
    """What the graph is built for: one model, scheme, variant, context and set of chunk sizes.

    With `alternative` its programs are those that the alternative has other kernels for.
    """

    model: ModelConfig
    scheme: Scheme
    variant: Variant
    context: int
    prefill_chunks: tuple[int, ...]
    alternative: Alternative | None = None

    @property
    def tuning(self) -> VariantTuning:
        own = TUNING[self.variant.tuned_as]
        return self.alternative.of(own) if self.alternative else own

    def heads(self, layer: int) -> Heads:
        """The heads of a layer; those of layers differ in what is rotated."""
        m, rope = self.model, self.model.every_layer[layer].attention.rope
        return Heads(m.num_attention_heads, m.num_key_value_heads, m.head_dim, rope.dim if rope is not None else 0)

    def rope_part(self, layer: int) -> RopePart | None:
        """Where a layer's frequencies stand in the table of all; None where nothing rotates."""
        rope = self.model.every_layer[layer].attention.rope
        if rope is None:
            return None
        before = self.model.ropes[: self.model.ropes.index(rope)]
        return RopePart(sum(len(other.inv_freq) for other in before), self.rope_pairs)

    @property
    def rope_pairs(self) -> int:
        """Frequencies of all layers, each rotary embedding's once."""
        return sum(len(rope.inv_freq) for rope in self.model.ropes)

    @property
    def f16_vectors(self) -> bool:
        """Norms and biases are stored as f16."""
        return self.scheme.float_dtype == "float16"

    def norm(self, norm: Norm) -> KernelNorm:
        """A norm as kernels know it."""
        return KernelNorm(norm.epsilon, f16_weight=self.f16_vectors)

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of the programs, each a method of the graph."""
        decode, prefill = ("decode",), tuple(f"prefill_{chunk}" for chunk in self.prefill_chunks)
        if self.alternative is None:
            if self.model.encoder is not None:
                return decode + prefill + ("encode",)
            answering = ("mask", *((f"verify_{VERIFY_ROWS}",) if self.verifies else ()))
            return decode + prefill + (answering if self.model.pooling is None else ())
        own_prefill = self.alternative.tiling or self.alternative.attention or self.alternative.packed
        own_decode = self.alternative.vectors or self.alternative.decode
        return (decode if own_decode else ()) + (prefill if own_prefill else ())

    @property
    def verifies(self) -> bool:
        """There are ids enough for the rows of a draft."""
        return max(self.prefill_chunks, default=0) >= VERIFY_ROWS

    @property
    def state_words(self) -> int:
        return -(-(STATE_HEADER + 2 * self.rope_pairs) // 64) * 64

    @property
    def cut_bytes(self) -> int | None:
        """What a binding of a matrix that may be cut holds at most; None where there is no limit."""
        return CUT_BYTES if self.variant.backend == "webgpu" else None

    @property
    def kv_dtype(self) -> str:
        """In 32 bits where something is heard: a few hundred positions are small, and 16 bits cost logits 0.4 %."""
        if self.model.encoder is not None:
            return "float32"
        return "q8" if self.variant.q8 else self.scheme.kv_dtype

    def cache_of(self, layer: int) -> Cache:
        """A layer's."""
        return Cache(self.heads(layer), self.context, self.kv_dtype)

    @property
    def cache(self) -> Cache:
        """The first layer's; all are as large."""
        return self.cache_of(0)

    @property
    def heard(self) -> Cache:
        """Keys and values of what an encoder has heard: in f32 a product stores them as they lie."""
        encoder = self.model.encoder
        assert encoder is not None
        return Cache(self.heads(0), encoder.positions, "float32")


# What graphs have built, by what it was made from: variants, alternatives and models have many kernels in common.
# `repr` tells numbers apart that are equal and print differently, as 1 and 1.0.
_BUILT: dict[Hashable, tirx.PrimFunc] = {}


def _built(kind: str, make: Callable[..., tirx.PrimFunc], values: tuple[Any, ...]) -> tirx.PrimFunc:
    """The kernel `make(..., *values)`, under a name that is its first builder's."""
    key = (make, values, repr(values))
    if key not in _BUILT:
        _BUILT[key] = make(kind, *values)
    return _BUILT[key]


@dataclass
class KernelTable:
    """The kernels of a graph by name, each built once. `suffix` ends every name."""

    suffix: str = ""
    functions: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    _names: dict[Hashable, str] = field(default_factory=dict)
    _signatures: dict[tuple[Any, ...], tirx.PrimFunc] = field(default_factory=dict)

    def build(self, kind: str, make: Callable[..., tirx.PrimFunc], *values: Any) -> str:
        """The name of the kernel `make(name, *values)`, which begins with `kind`; it is built when it is new.

        A kernel is known by all that it is made from, frozen values: equal ones are one kernel, others never are.
        """
        key = (kind, make, values)
        if key not in self._names:
            name = f"{kind}_{len(self._names)}{self.suffix}"
            self._names[key] = name
            self.functions[name] = _built(kind, make, values).with_attr("wisp.name", name)
        return self._names[key]

    def call(self, name: str, arguments: Sequence[nn.Tensor], results: Sequence[Any]) -> list[nn.Tensor]:
        """Emit a call. A result is an argument's index (written in place) or the (shape, dtype) of a new tensor.

        Relax sees a function of the tensors' own shapes; the kernel itself binds the same bytes as vectors.
        """
        operands = [(tuple(argument.shape), argument.dtype) for argument in arguments]
        fresh = [r for r in results if not isinstance(r, int)]
        signature = self._signature(name, (*operands, *fresh))
        outputs = [nn.Tensor.placeholder(*(operands[r] if isinstance(r, int) else r)) for r in results]
        out: Any = outputs if len(outputs) > 1 else outputs[0]
        if len(fresh) == len(results):
            value = nn.op.tensor_ir_op(signature, name, list(arguments), out)
        else:
            places = [r if isinstance(r, int) else -1 for r in results]
            value = nn.op.tensor_ir_inplace_op(signature, name, list(arguments), places, out)
        return list(value) if len(outputs) > 1 else [value]

    def _signature(self, name: str, tensors: tuple[tuple[tuple[int, ...], str], ...]) -> tirx.PrimFunc:
        """The function of tensors of these shapes and types that stands for the kernel; built once."""
        if (name, tensors) not in self._signatures:
            with IRBuilder() as builder, T.prim_func(private=True):
                for i, (shape, dtype) in enumerate(tensors):
                    T.arg(f"t{i}", T.buffer(shape, dtype))
                T.evaluate(0)
            self._signatures[name, tensors] = builder.get().with_attr("wisp.kernel", name)
        return self._signatures[name, tensors]


class Matrix(nn.Module):
    """A weight matrix; one that may be cut is in parts of at most `cut_bytes` a binding and of `MOST_ROWS` rows."""

    def __init__(self, spec: WeightSpec, scheme: Scheme, cut_bytes: int | None = CUT_BYTES) -> None:
        self.spec = spec
        self.storage = scheme.of(spec).storage
        self.parts: list[tuple[tuple[int, int], list[nn.Parameter]]] = []
        rows, columns = spec.shape
        layout = parameter_layout(spec, scheme)
        self._order: tuple[nn.Parameter, ...] = ()  # no attribute of the module, or it would be declared twice
        if scheme.of(spec).ordered:
            *layout, (label, dtype, _) = layout
            self._order = (nn.Parameter((columns,), dtype),)
            setattr(self, label, self._order[0])
        widest = max(_row_bytes(shape, dtype) for _, dtype, shape in layout)
        most = rows if cut_bytes is None or spec.role not in CUT_ROLES else min(cut_bytes // widest, MOST_ROWS)
        if rows > most:
            pieces = -(-rows // most)
            most = -(-rows // pieces // PART_ROWS) * PART_ROWS
        for start in range(0, rows, most):
            stop = min(rows, start + most)
            parameters = []
            for name, dtype, shape in layout:
                parameter = nn.Parameter((stop - start, *shape[1:]), dtype)
                label = name if stop - start == rows else f"{name}@{start}:{stop}"
                setattr(self, label, parameter)
                parameters.append(parameter)
            self.parts.append(((start, stop), parameters))

    @property
    def order(self) -> nn.Parameter | None:
        """The order of its columns, in which it reads activations, where that is another one than theirs."""
        return self._order[0] if self._order else None

    def whole(self) -> list[nn.Parameter]:
        """The bindings of a matrix that is in one piece."""
        ((_, parameters),) = self.parts
        return parameters


def _row_bytes(shape: Sequence[int], dtype: str) -> int:
    size = 2 if dtype == "float16" else 4
    for extent in shape[1:]:
        size *= extent
    return size


class Runtime(nn.Module):
    """The buffers that outlive a dispatch list; the plan gives each its kind by its name."""

    def __init__(self, geometry: Geometry) -> None:
        m, g = geometry.model, geometry
        self.state = nn.Parameter((g.state_words,), "uint32")
        if g.rope_pairs:
            self.rope = nn.Parameter((rope_words(g.rope_pairs, g.context),), "float32")
        self.input_ids = nn.Parameter((max(g.prefill_chunks, default=1),), "uint32")
        if m.pooling is not None:
            self.embedding = nn.Parameter((m.hidden_size,), "float32")
        elif m.encoder is not None:
            self.logits = nn.Parameter((m.vocab_size,), "float32")
            self.mel = nn.Parameter((m.encoder.mel_bands, m.encoder.frames), "float32")
            self.encoder_states = nn.Parameter((m.encoder.positions, m.hidden_size), "float32")
            for layer in range(m.num_hidden_layers):
                setattr(self, f"heard.{layer}", nn.Parameter((m.encoder.positions, g.heard.row_words), "float32"))
        else:
            self.token_ring = nn.Parameter((RING_SIZE,), "uint32")
            self.token_counts = nn.Parameter((m.vocab_size,), "uint32")
            self.logits = nn.Parameter((m.vocab_size,), "float32")
            self.logit_mask = nn.Parameter((mask_words(m.vocab_size),), "uint32")
            self.logit_bias = nn.Parameter((m.vocab_size,), "float32")
        row = (g.context, g.cache.row_words)
        for layer in range(m.num_hidden_layers):
            setattr(self, f"kv.{layer}", nn.Parameter(row, "uint32" if g.cache.words else "float32"))

    def cache(self, layer: int) -> nn.Parameter:
        parameter: nn.Parameter = getattr(self, f"kv.{layer}")
        return parameter

    def heard(self, layer: int) -> nn.Parameter:
        """Keys and values of what was heard, of a layer that attends to it."""
        parameter: nn.Parameter = getattr(self, f"heard.{layer}")
        return parameter


def declare_weights(
    module: nn.Module, specs: Sequence[WeightSpec], scheme: Scheme, cut_bytes: int | None = CUT_BYTES
) -> dict[tuple[str, int | None], Any]:
    """Make every weight a parameter of `module`; returns them by (role, layer), each a `Matrix` or a parameter."""
    weights: dict[tuple[str, int | None], Any] = {}
    for spec in specs:
        if spec.kind == "matrix":
            matrix = Matrix(spec, scheme, cut_bytes)
            setattr(module, f"matrix{len(weights)}", matrix)
            weights[spec.role, spec.layer] = matrix
        else:
            ((name, dtype, shape),) = parameter_layout(spec, scheme)
            parameter = nn.Parameter(shape, dtype)
            setattr(module, name, parameter)
            weights[spec.role, spec.layer] = parameter
    return weights
