"""A network as data: its numbers, its layers from norm to norm, and its weights. The graph and the reference read this.

Knows the parts that the supported networks are made of; nothing of an architecture, of quantization or of kernels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal[
    "embedding",
    "input_norm",
    "input_norm_bias",
    "qkv",
    "qkv_bias",
    "query_norm",
    "key_norm",
    "attention_output",
    "attention_output_bias",
    "attention_output_norm",
    "mlp_norm",
    "mlp_norm_bias",
    "gate_up",
    "gate_up_bias",
    "up",
    "up_bias",
    "down",
    "down_bias",
    "mlp_output_norm",
    "final_norm",
    "final_norm_bias",
    "lm_head",
    "lm_head_bias",
    # Of a network that hears.
    "positions",
    "cross_norm",
    "cross_norm_bias",
    "cross_query",
    "cross_query_bias",
    "cross_key_value",
    "cross_key_value_bias",
    "cross_output",
    "cross_output_bias",
    "conv1",
    "conv1_bias",
    "conv2",
    "conv2_bias",
    "encoder_positions",
    "encoder_norm",
    "encoder_norm_bias",
]

ZEROS = ""  # in place of a tensor's name: zeros, as the bias of keys that have none beside queries that do

# Of which tokens an embedding is: the last one, or all alike.
Pooling = Literal["last", "mean"]


@dataclass(frozen=True)
class Norm:
    """RMS norm (arXiv 1910.07467), or layer norm (arXiv 1607.06450), which has a bias.

    The network multiplies with the checkpoint's weight plus `offset`, which is added when the weight is read.
    """

    kind: Literal["rms", "layer"]
    epsilon: float
    offset: float = 0.0


@dataclass(frozen=True)
class Rope:
    """Rotary embedding (arXiv 2104.09864) of a head's leading dimensions, as pairs (i, i + dim / 2).

    `inv_freq` are radians per position, one a pair; cosines and sines are multiplied by `scaling`.
    """

    inv_freq: tuple[float, ...]
    scaling: float = 1.0

    @property
    def dim(self) -> int:
        """Dimensions that are rotated."""
        return 2 * len(self.inv_freq)


@dataclass(frozen=True)
class HeadNorm:
    """RMS norms of queries and of keys before the rotation, of each head or of all heads of a token together."""

    norm: Norm
    over: Literal["head", "projection"] = "head"


@dataclass(frozen=True)
class Attention:
    """Attention, from the norm of its input to that of its output, where there are such; causal, but in an encoder.

    With a `window` a token attends to that many, itself included. Scores are multiplied by `scale`, by default
    `1 / sqrt(head_dim)`, and with a `soft_cap` become `soft_cap * tanh(score / soft_cap)`.
    """

    norm: Norm | None
    rope: Rope | None
    bias: bool = False  # of queries, keys and values
    output_bias: bool = False
    head_norm: HeadNorm | None = None
    window: int | None = None
    scale: float | None = None
    soft_cap: float | None = None
    output_norm: Norm | None = None
    causal: bool = True


@dataclass(frozen=True)
class CrossAttention:
    """Attention to what an encoder heard, between a layer's own attention and its MLP.

    All projections have biases (keys zeros), and as many heads as the layer's own attention.
    """

    norm: Norm


@dataclass(frozen=True)
class Mlp:
    """`down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` where it is not gated.

    `gelu` is by the error function, `gelu_tanh` its approximation.
    """

    norm: Norm | None
    activation: Literal["silu", "gelu_tanh", "gelu"] = "silu"
    gated: bool = True
    bias: bool = False
    output_norm: Norm | None = None


@dataclass(frozen=True)
class Layer:
    """Attention, cross-attention, the MLP, each added to the residual stream, multiplied by `residual_scale`.

    `parallel`: the MLP reads what the attention reads, through the same norm.
    """

    attention: Attention
    mlp: Mlp
    parallel: bool = False
    residual_scale: float = 1.0
    cross: CrossAttention | None = None


@dataclass(frozen=True)
class Encoder:
    """What hears (arXiv 2212.04356): log-mel bands through two convolutions over time, then layers that see all.

    Both convolutions take 3 frames and end in GELU; the second one moves by 2. Learned positions are added to what it
    gives, `positions` states of the decoder's size.
    """

    mel_bands: int
    positions: int
    layers: tuple[Layer, ...]
    final_norm: Norm

    @property
    def frames(self) -> int:
        """Frames of log-mel of a window."""
        return 2 * self.positions


@dataclass(frozen=True)
class Dimensions:
    """The sizes that every supported architecture shares."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig(Dimensions):
    """One network, complete and valid for the context that it is compiled for."""

    model_type: str
    layers: tuple[Layer, ...]
    final_norm: Norm
    tie_word_embeddings: bool
    head_bias: bool = False
    embedding_scale: float = 1.0
    logits_scale: float = 1.0
    logits_soft_cap: float | None = None  # c: c * tanh(logit / c)
    pooling: Pooling | None = None  # of an embedding model, which gives hidden states in place of logits
    learned_positions: bool = False  # added to embeddings, one a position of the context
    encoder: Encoder | None = None  # of a model that transcribes: its decoder's layers attend to what this one heard

    @property
    def every_layer(self) -> tuple[Layer, ...]:
        """The layers by their number: the decoder's, then the encoder's."""
        return self.layers + (self.encoder.layers if self.encoder is not None else ())

    @property
    def has_head(self) -> bool:
        """Whether it has a vocabulary projection of its own."""
        return self.pooling is None and not self.tie_word_embeddings

    @property
    def qkv_size(self) -> int:
        """Rows of the fused query, key and value projection."""
        return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim

    @cached_property
    def ropes(self) -> tuple[Rope, ...]:
        """The rotary embeddings of the layers, each once."""
        return tuple(dict.fromkeys(layer.attention.rope for layer in self.layers if layer.attention.rope is not None))


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two networks differ: (path of a field, ours, theirs). Lists of other lengths differ as a whole."""
    if ours == theirs:
        return
    if is_dataclass(ours) and type(ours) is type(theirs):
        for field in fields(ours):
            inner = f"{path}.{field.name}" if path else field.name
            yield from differences(getattr(ours, field.name), getattr(theirs, field.name), inner)
    elif isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        for i, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(our, their, f"{path}.{i}")
    else:
        yield path, ours, theirs


@dataclass(frozen=True)
class WeightSpec:
    """One weight of the network and where the checkpoint keeps it.

    `name` is MLC's: without a suffix for a matrix (the scheme adds `.q_weight` and so on), in full for a vector.
    `sources` are checkpoint tensors, concatenated along axis 0; `offset` is added to their values. A tensor whose rows
    stand in another order is named once for each run of them, which begins at its row `source_firsts`. `ZEROS` names no
    tensor. Rows of the shape `source_row` are laid flat.
    """

    name: str
    kind: Literal["matrix", "vector"]
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    source_rows: tuple[int, ...]
    role: Role
    layer: int | None
    offset: float = 0.0
    source_firsts: tuple[int, ...] = ()  # () for zeros: whole tensors
    source_row: tuple[int, ...] = ()  # () for that of the weight's own rows

    @property
    def pieces(self) -> Iterator[tuple[str, int, int]]:
        """What it is made of, in order: (tensor, its first row, rows)."""
        firsts = self.source_firsts or (0,) * len(self.sources)
        yield from zip(self.sources, firsts, self.source_rows, strict=True)

    @property
    def source_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that it is made of."""
        rows: dict[str, int] = {}
        for source, _, count in self.pieces:
            if source != ZEROS:
                rows[source] = rows.get(source, 0) + count
        return {source: (count, *(self.source_row or self.shape[1:])) for source, count in rows.items()}

    def shaped(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of a source as those of the weight."""
        flat = block.reshape(len(block), *self.shape[1:]) if self.source_row else block
        return flat + np.float32(self.offset) if self.offset else flat


# Rows [start, stop) of a weight in float32.
ReadRows = Callable[[WeightSpec, int, int], NDArray[np.float32]]


def matrix(name: str, columns: int, sources: Mapping[str, int], role: Role, layer: int | None = None) -> WeightSpec:
    """A `[sum of the sources' rows, columns]` matrix; `sources` maps checkpoint names to their rows."""
    rows = tuple(sources.values())
    return WeightSpec(name, "matrix", (sum(rows), columns), tuple(sources), rows, role, layer)


def vector(name: str, size: int, source: str, role: Role, layer: int | None = None, offset: float = 0.0) -> WeightSpec:
    """A `[size]` vector."""
    return WeightSpec(name, "vector", (size,), (source,), (size,), role, layer, offset)


def bias(name: str, sources: Mapping[str, int], role: Role, layer: int | None = None) -> WeightSpec:
    """The biases of a matrix's rows, of as many checkpoint tensors as the matrix."""
    rows = tuple(sources.values())
    return WeightSpec(name, "vector", (sum(rows),), tuple(sources), rows, role, layer)
