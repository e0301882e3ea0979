"""The networks of `compiler/models` in plain numpy, in float32: what `wisp check` holds the kernels against.

Slow and obvious on purpose, and written from the papers and from `transformers` rather than from the kernels: it knows
a `ModelConfig`, the weights by role and a function that gives their rows; nothing of quantization, plans or devices.
One layer's weights are in memory at a time. What a network computes, its description says: the same that the graph is
made of.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError
from ..models import weight_specs
from ..models.base import Attention, HeadNorm, Mlp, ModelConfig, Norm, ReadRows, Rope, WeightSpec

# (keys, values) of a layer, each (positions, key-value heads, head_dim); keys are rotated already.
LayerCache = tuple[NDArray[np.float32], NDArray[np.float32]]

CosSin = tuple[NDArray[np.float32], NDArray[np.float32]]

HEAD_BLOCK_BYTES = 64 << 20


class ReferenceModel:
    """One sequence: `hidden_states` appends tokens to it, `logits` multiplies with the vocabulary."""

    def __init__(self, config: ModelConfig, read_rows: ReadRows) -> None:
        self.config = config
        self._read_rows = read_rows
        self._specs: dict[tuple[str, int | None], WeightSpec] = {(s.role, s.layer): s for s in weight_specs(config)}
        empty = np.zeros((0, config.num_key_value_heads, config.head_dim), np.float32)
        self._cache: list[LayerCache] = [(empty, empty)] * config.num_hidden_layers
        silence = np.zeros((1, config.num_key_value_heads, config.head_dim), np.float32)
        self._heard: list[LayerCache] = [(silence, silence)] * config.num_hidden_layers  # what `encode` writes

    @property
    def position(self) -> int:
        """Tokens of the sequence so far."""
        return len(self._cache[0][0])

    def hidden_states(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Appends `ids`; returns (len(ids), hidden), normed, ready for `logits`."""
        if not len(ids):
            raise WispError("there is nothing to run", got="no tokens", expected="at least one")
        config = self.config
        positions = np.arange(self.position, self.position + len(ids))
        tables = {rope: rotary_table(rope, positions) for rope in config.ropes}
        x = self._embed(ids) * np.float32(config.embedding_scale)  # (T, hidden)
        if config.learned_positions:
            x = x + self._whole("positions", None)[positions]
        for i, layer in enumerate(config.layers):
            attention, mlp = layer.attention, layer.mlp
            scale = np.float32(layer.residual_scale)
            normed = self._norm("input_norm", attention.norm, i, x)
            attended = self._attention(attention, i, normed, positions, tables)
            x = x + scale * self._norm("attention_output_norm", attention.output_norm, i, attended)
            if layer.cross is not None:
                x = x + self._cross_attention(i, self._norm("cross_norm", layer.cross.norm, i, x))
            if not layer.parallel:
                normed = self._norm("mlp_norm", mlp.norm, i, x)
            x = x + scale * self._norm("mlp_output_norm", mlp.output_norm, i, self._mlp(mlp, i, normed))
        return self._norm("final_norm", config.final_norm, None, x)

    def encode(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        """(bands, frames) of log-mel -> (positions, hidden), normed; the sequence attends to them from now on."""
        config, encoder = self.config, self.config.encoder
        if encoder is None:
            raise WispError("the network hears nothing", got=config.model_type)
        x = gelu_exact(self._linear("conv1", None, windows(mel.T, 1)))
        x = gelu_exact(self._linear("conv2", None, windows(x, 2)))
        x = x + self._whole("encoder_positions", None)
        heads, size = config.num_attention_heads, config.head_dim
        for i, layer in enumerate(encoder.layers, config.num_hidden_layers):
            qkv = self._linear("qkv", i, self._norm("input_norm", layer.attention.norm, i, x))
            query, key, value = qkv.reshape(len(x), 3, heads, size).transpose(1, 0, 2, 3)
            x = x + self._linear("attention_output", i, attend_to_all(query, key, value))
            x = x + self._mlp(layer.mlp, i, self._norm("mlp_norm", layer.mlp.norm, i, x))
        states = self._norm("encoder_norm", encoder.final_norm, None, x)
        for i in range(config.num_hidden_layers):
            both = self._linear("cross_key_value", i, states).reshape(len(states), 2, heads, size)
            self._heard[i] = both[:, 0], both[:, 1]
        return states

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, hidden) -> (T, vocabulary), some rows of the matrix at a time."""
        spec = self._specs["embedding" if self.config.tie_word_embeddings else "lm_head", None]
        logits = np.concatenate([hidden @ block.T for block in self._blocks(spec)], axis=1)
        logits = (logits + self._bias("lm_head", None)) * np.float32(self.config.logits_scale)
        return soft_capped(logits, self.config.logits_soft_cap)

    def embedding(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, hidden) of a whole text -> (hidden): as of its last token, or the sum over all, as the network pools."""
        return hidden[-1] if self.config.pooling == "last" else hidden.sum(axis=0)

    # ------------------------------------------------------------------------------------------------------- the parts

    def _embed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        spec = self._specs["embedding", None]
        rows = {token: self._read_rows(spec, token, token + 1)[0] for token in dict.fromkeys(map(int, ids))}
        return np.stack([rows[int(token)] for token in ids])

    def _attention(
        self,
        attention: Attention,
        layer: int,
        x: NDArray[np.float32],
        positions: NDArray[np.int64],
        tables: Mapping[Rope, CosSin],
    ) -> NDArray[np.float32]:
        config = self.config
        heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        qkv = self._linear("qkv", layer, x).reshape(len(x), heads + 2 * groups, size)
        query, key, value = np.split(qkv, (heads, heads + groups), axis=1)
        if attention.head_norm is not None:
            query = self._head_norm("query_norm", attention.head_norm, layer, query)
            key = self._head_norm("key_norm", attention.head_norm, layer, key)
        if attention.rope is not None:
            query, key = rotate(query, tables[attention.rope]), rotate(key, tables[attention.rope])
        key, value = self._kept(key), self._kept(value)
        keys = np.concatenate([self._cache[layer][0], key])  # (S, groups, size)
        values = np.concatenate([self._cache[layer][1], value])
        self._cache[layer] = (keys, values)
        distance = positions[:, None] - np.arange(len(keys))  # (T, S)
        unseen = (distance < 0) | (distance >= (attention.window or len(keys)))
        scale = np.float32(size**-0.5 if attention.scale is None else attention.scale)
        out = np.empty((len(x), heads, size), np.float32)
        for head in range(heads):
            group = head // (heads // groups)
            scores = soft_capped(query[:, head] @ keys[:, group].T * scale, attention.soft_cap)  # (T, S)
            out[:, head] = softmax(np.where(unseen, -np.inf, scores)) @ values[:, group]
        return self._linear("attention_output", layer, out.reshape(len(x), -1))

    def _kept(self, heads: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the cache keeps of keys or values (T, groups, size): here all of it."""
        return heads

    def _cross_attention(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        query = self._linear("cross_query", layer, x)
        query = query.reshape(len(x), self.config.num_attention_heads, self.config.head_dim)
        return self._linear("cross_output", layer, attend_to_all(query, *self._heard[layer]))

    def _linear(self, role: str, layer: int | None, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x @ self._whole(role, layer).T + self._bias(role, layer)

    def _mlp(self, mlp: Mlp, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        activate = {"silu": silu, "gelu_tanh": gelu, "gelu": gelu_exact}[mlp.activation]
        if not mlp.gated:
            return self._linear("down", layer, activate(self._linear("up", layer, x)))
        gate, up = np.split(self._linear("gate_up", layer, x), 2, axis=1)
        return self._linear("down", layer, activate(gate) * up)

    def _norm(self, role: str, norm: Norm | None, layer: int | None, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """x through a norm, over the last axis; x where there is none."""
        if norm is None:
            return x
        weight = self._whole(role, layer)
        if norm.kind == "layer":
            return layer_norm(x, weight, self._bias(role, layer), norm.epsilon)
        return rms_norm(x, weight, norm.epsilon)

    def _head_norm(self, role: str, norm: HeadNorm, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, heads, size): each head through the norm, or all heads of a token together."""
        if norm.over == "head":
            return self._norm(role, norm.norm, layer, x)
        return self._norm(role, norm.norm, layer, x.reshape(len(x), -1)).reshape(x.shape)

    # --------------------------------------------------------------------------------------------------------- weights

    def _whole(self, role: str, layer: int | None) -> NDArray[np.float32]:
        spec = self._specs[role, layer]
        return self._read_rows(spec, 0, spec.shape[0])

    def _bias(self, role: str, layer: int | None) -> NDArray[np.float32]:
        """The bias of a matrix or a norm; zero where there is none."""
        spec = self._specs.get((f"{role}_bias", layer))
        return np.zeros((), np.float32) if spec is None else self._read_rows(spec, 0, spec.shape[0])

    def _blocks(self, spec: WeightSpec) -> Iterator[NDArray[np.float32]]:
        step = max(1, HEAD_BLOCK_BYTES // (4 * spec.shape[1]))
        for start in range(0, spec.shape[0], step):
            yield self._read_rows(spec, start, min(spec.shape[0], start + step))


def rms_norm(x: NDArray[np.float32], weight: NDArray[np.float32], eps: float) -> NDArray[np.float32]:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis (arXiv 1910.07467)."""
    mean = np.mean(np.square(x), axis=-1, keepdims=True)
    return x / np.sqrt(mean + np.float32(eps)) * weight


def layer_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32], eps: float
) -> NDArray[np.float32]:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last axis (arXiv 1607.06450)."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(np.square(centred), axis=-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(eps)) * weight + bias


def gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The tanh form of GELU (arXiv 1606.08415), `gelu_new` in transformers."""
    inner = np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x**3)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


_erf = np.vectorize(math.erf, otypes=[np.float32])


def gelu_exact(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """GELU by the error function (arXiv 1606.08415), `gelu` in transformers."""
    return np.float32(0.5) * x * (1 + _erf(x * np.float32(0.5**0.5)))


def windows(x: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """What a convolution of three frames sees at each step: (T, C) -> (T / stride, 3 C), a channel's side by side."""
    padded = np.pad(x, ((1, 1), (0, 0)))
    return np.stack([padded[step : step + 3].T.ravel() for step in range(0, len(x), stride)])


def attend_to_all(
    query: NDArray[np.float32], keys: NDArray[np.float32], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Attention that is not causal: (T, heads, size), twice (S, heads, size) -> (T, heads x size)."""
    out = np.empty_like(query)
    for head in range(query.shape[1]):
        scores = query[:, head] @ keys[:, head].T * np.float32(query.shape[2] ** -0.5)
        out[:, head] = softmax(scores) @ values[:, head]
    return out.reshape(len(query), -1)


def silu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x * sigmoid(x), without overflow for large negative x."""
    small = np.exp(-np.abs(x))
    return x * np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def soft_capped(x: NDArray[np.float32], cap: float | None) -> NDArray[np.float32]:
    """cap * tanh(x / cap); x where there is no cap."""
    return x if cap is None else np.float32(cap) * np.tanh(x / np.float32(cap))


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rotary_table(rope: Rope, positions: NDArray[np.int64]) -> CosSin:
    """Cosines and sines, each (T, 1, rotary_dim / 2), computed in float64 (arXiv 2104.09864)."""
    angles = positions[:, None] * np.asarray(rope.inv_freq, np.float64)
    cos, sin = (f(angles)[:, None] * rope.scaling for f in (np.cos, np.sin))
    return cos.astype(np.float32), sin.astype(np.float32)


def rotate(x: NDArray[np.float32], cos_sin: CosSin) -> NDArray[np.float32]:
    """Rotates pairs (i, i + rotary_dim / 2) of each head of (T, heads, head_dim); what lies beyond stays."""
    cos, sin = cos_sin
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
