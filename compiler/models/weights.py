"""The weights of a network, from its description and a table of names: what there is, of which shape, in which order.

Names follow MLC's; the checkpoint's stand beside them. Which weights a layer has, its description says; an
architecture says what they are called.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from .base import ZEROS, Encoder, Layer, ModelConfig, Norm, Role, WeightSpec, bias, matrix, vector

CONVOLVED = 3  # frames that a convolution over time takes
KEYS: Mapping[Role, int] = {"qkv": 1, "cross_key_value": 0}  # of fused projections, which of their parts the keys are


@dataclass(frozen=True)
class Name:
    """A weight's name in the artifact and those of the checkpoint's tensors that it is made of, without `.weight`."""

    ours: str
    theirs: tuple[str, ...]

    def behind(self, ours: str, theirs: str) -> "Name":
        """The name within a layer whose weights begin so."""
        return Name(ours + self.ours, tuple(theirs + name for name in self.theirs))


def same(name: str) -> Name:
    """A weight that the checkpoint names as the artifact does."""
    return Name(name, (name,))


@dataclass(frozen=True)
class Names:
    """What an architecture calls its weights, by role; those of layer i stand behind its prefix, `{i}` in it."""

    around: Mapping[str, Name]
    layer: Mapping[str, Name]
    ours: str = "model.layers.{i}."
    theirs: str = "model.layers.{i}."
    grouped_qkv: bool = False  # the checkpoint has queries, keys and values as one: of a key head all, then of the next
    keys_without_bias: bool = False  # where queries and values have biases
    encoder: "Names | None" = None  # of a network that hears; its layers count from 0, too

    def of(self, role: Role, layer: int | None) -> Name:
        if layer is None:
            return self.around[role]
        return self.layer[role].behind(self.ours.format(i=layer), self.theirs.format(i=layer))


def weight_specs(config: ModelConfig, names: Names) -> tuple[WeightSpec, ...]:
    """Every weight in the order it is written: embedding, layers, final norm, head (its matrix absent when tied).

    An encoder's come last.
    """
    weights = _Weights(config, names)
    specs = [weights.matrix("embedding", config.hidden_size, (config.vocab_size,))]
    if config.learned_positions:
        specs.append(weights.positions("positions", config.max_position_embeddings))
    for i, layer in enumerate(config.layers):
        specs += weights.of_layer(layer, i)
    specs += weights.norm("final_norm", config.final_norm, config.hidden_size)
    if config.has_head:
        specs.append(weights.matrix("lm_head", config.hidden_size, (config.vocab_size,)))
    if config.head_bias and config.pooling is None:
        specs.append(weights.bias("lm_head", (config.vocab_size,)))
    if config.encoder is not None and names.encoder is not None:
        specs += _Weights(config, names.encoder, config.num_hidden_layers).of_encoder(config.encoder)
    return tuple(specs)


@dataclass(frozen=True)
class _Weights:
    config: ModelConfig
    names: Names
    first: int = 0  # the number of the first layer that the names are for

    def name(self, role: Role, layer: int | None) -> Name:
        return self.names.of(role, None if layer is None else layer - self.first)

    def of_encoder(self, encoder: Encoder) -> Iterator[WeightSpec]:
        hidden = self.config.hidden_size
        yield from self.convolution("conv1", encoder.mel_bands)
        yield from self.convolution("conv2", hidden)
        yield self.positions("encoder_positions", encoder.positions)
        for i, layer in enumerate(encoder.layers):
            yield from self.of_layer(layer, self.first + i)
        yield from self.norm("encoder_norm", encoder.final_norm, hidden)

    def convolution(self, role: Role, channels: int) -> Iterator[WeightSpec]:
        """A convolution over 3 frames as a matrix: of a row, each channel's three weights are neighbours."""
        found = self.matrix(role, channels * CONVOLVED, (self.config.hidden_size,))
        yield replace(found, source_row=(channels, CONVOLVED))
        yield self.bias(role, (self.config.hidden_size,))

    def positions(self, role: Role, count: int) -> WeightSpec:
        """Learned positions: added, never multiplied with."""
        name, shape = self.name(role, None), (count, self.config.hidden_size)
        (theirs,) = name.theirs
        return WeightSpec(f"{name.ours}.weight", "vector", shape, (f"{theirs}.weight",), (count,), role, None)

    def of_layer(self, layer: Layer, i: int) -> Iterator[WeightSpec]:
        config, attention, mlp = self.config, layer.attention, layer.mlp
        hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
        query, key_value = config.num_attention_heads * dim, config.num_key_value_heads * dim
        yield from self.norm("input_norm", attention.norm, hidden, i)
        yield from self.product("qkv", hidden, (query, key_value, key_value), attention.bias, i)
        if attention.head_norm is not None:
            whole = attention.head_norm.over == "projection"
            yield from self.norm("query_norm", attention.head_norm.norm, query if whole else dim, i)
            yield from self.norm("key_norm", attention.head_norm.norm, key_value if whole else dim, i)
        yield from self.product("attention_output", query, (hidden,), attention.output_bias, i)
        yield from self.norm("attention_output_norm", attention.output_norm, hidden, i)
        if layer.cross is not None:
            yield from self.norm("cross_norm", layer.cross.norm, hidden, i)
            yield from self.product("cross_query", hidden, (hidden,), True, i)
            yield from self.product("cross_key_value", hidden, (hidden, hidden), True, i)
            yield from self.product("cross_output", hidden, (hidden,), True, i)
        if not layer.parallel:
            yield from self.norm("mlp_norm", mlp.norm, hidden, i)
        if mlp.gated:
            yield from self.product("gate_up", hidden, (inner, inner), mlp.bias, i)
        else:
            yield from self.product("up", hidden, (inner,), mlp.bias, i)
        yield from self.product("down", inner, (hidden,), mlp.bias, i)
        yield from self.norm("mlp_output_norm", mlp.output_norm, hidden, i)

    def product(
        self, role: Role, columns: int, rows: tuple[int, ...], biased: bool, layer: int
    ) -> Iterator[WeightSpec]:
        """A matrix and its bias, where it has one."""
        yield self.matrix(role, columns, rows, layer)
        if biased:
            yield self.bias(role, rows, layer)

    def matrix(self, role: Role, columns: int, rows: tuple[int, ...], layer: int | None = None) -> WeightSpec:
        name = self.name(role, layer)
        if role == "qkv" and self.names.grouped_qkv:
            return self._grouped(name, columns, layer)
        return matrix(name.ours, columns, self._sources(role, rows, layer, "weight"), role, layer)

    def _grouped(self, name: Name, columns: int, layer: int | None) -> WeightSpec:
        """Queries, keys and values of a checkpoint that has those of each key head together."""
        config, ((theirs,), dim) = self.config, (name.theirs, self.config.head_dim)
        groups, shared = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
        runs = [(0, shared), (shared, 1), (shared + 1, 1)]  # (first head within a group, heads)
        pieces = [((g * (shared + 2) + first) * dim, count * dim) for first, count in runs for g in range(groups)]
        firsts, rows = zip(*pieces, strict=True)
        sources = (f"{theirs}.weight",) * len(pieces)
        return WeightSpec(name.ours, "matrix", (sum(rows), columns), sources, rows, "qkv", layer, source_firsts=firsts)

    def bias(self, role: Role, rows: tuple[int, ...], layer: int | None = None) -> WeightSpec:
        name, sources = self.name(role, layer).ours, self._sources(role, rows, layer, "bias")
        if self.names.keys_without_bias and role in KEYS:
            key = list(sources)[KEYS[role]]
            sources = {ZEROS if source == key else source: count for source, count in sources.items()}
        return bias(f"{name}.bias", sources, _bias_of(role), layer)

    def norm(self, role: Role, norm: Norm | None, size: int, layer: int | None = None) -> Iterator[WeightSpec]:
        """The weight of a norm, and the bias of a layer norm; nothing where there is no norm."""
        if norm is None:
            return
        name = self.name(role, layer)
        (theirs,) = name.theirs
        yield vector(f"{name.ours}.weight", size, f"{theirs}.weight", role, layer, norm.offset)
        if norm.kind == "layer":
            yield vector(f"{name.ours}.bias", size, f"{theirs}.bias", _bias_of(role), layer)

    def _sources(self, role: Role, rows: tuple[int, ...], layer: int | None, kind: str) -> dict[str, int]:
        """The tensors of a matrix with their rows; a checkpoint may hold the parts of a fused one as one."""
        theirs = self.name(role, layer).theirs
        if len(theirs) == 1:
            rows = (sum(rows),)
        return {f"{name}.{kind}": count for name, count in zip(theirs, rows, strict=True)}


def _bias_of(role: Role) -> Role:
    return cast(Role, f"{role}_bias")
