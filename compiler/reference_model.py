"""The network of Llama and Phi-3 in plain numpy, in float32: what `wisp check` holds the kernels against.

Slow and obvious on purpose, and written from the papers and from `transformers` rather than from the kernels: it knows
a `ModelConfig`, the weights by role and a function that gives their rows; nothing of quantization, plans or devices.
One layer's weights are in memory at a time.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from compiler.errors import WispError
from compiler.models import weight_specs
from compiler.models.base import ModelConfig, Role, WeightSpec

# Rows [start, stop) of a weight in float32.
ReadRows = Callable[[WeightSpec, int, int], NDArray[np.float32]]
# (keys, values) of a layer, each (positions, key-value heads, head_dim); keys are rotated already.
LayerCache = tuple[NDArray[np.float32], NDArray[np.float32]]

HEAD_BLOCK_BYTES = 64 << 20


class ReferenceModel:
    """One sequence: `hidden_states` appends tokens to it, `logits` multiplies with the vocabulary."""

    def __init__(self, config: ModelConfig, read_rows: ReadRows) -> None:
        self.config = config
        self._read_rows = read_rows
        self._specs: dict[tuple[Role, int | None], WeightSpec] = {(s.role, s.layer): s for s in weight_specs(config)}
        empty = np.zeros((0, config.num_key_value_heads, config.head_dim), np.float32)
        self._cache: list[LayerCache] = [(empty, empty)] * config.num_hidden_layers

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
        cos_sin = rotary_table(config, positions)
        x = self._embed(ids)  # (T, hidden)
        for layer in range(config.num_hidden_layers):
            normed = rms_norm(x, self._whole("input_norm", layer), config.norm_eps)
            x = x + self._attention(layer, normed, positions, cos_sin)
            normed = rms_norm(x, self._whole("post_attention_norm", layer), config.norm_eps)
            x = x + self._mlp(layer, normed)
        return rms_norm(x, self._whole("final_norm", None), config.norm_eps)

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, hidden) -> (T, vocabulary), some rows of the matrix at a time."""
        spec = self._specs["embedding" if self.config.tie_word_embeddings else "lm_head", None]
        return np.concatenate([hidden @ block.T for block in self._blocks(spec)], axis=1)

    # ------------------------------------------------------------------------------------------------------- the parts

    def _embed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        spec = self._specs["embedding", None]
        rows = {token: self._read_rows(spec, token, token + 1)[0] for token in dict.fromkeys(map(int, ids))}
        return np.stack([rows[int(token)] for token in ids])

    def _attention(
        self,
        layer: int,
        x: NDArray[np.float32],
        positions: NDArray[np.int64],
        cos_sin: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        config = self.config
        heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        qkv = (x @ self._whole("qkv", layer).T).reshape(len(x), heads + 2 * groups, size)
        query, key, value = np.split(qkv, (heads, heads + groups), axis=1)
        keys = np.concatenate([self._cache[layer][0], rotate(key, cos_sin)])  # (S, groups, size)
        values = np.concatenate([self._cache[layer][1], value])
        self._cache[layer] = (keys, values)
        query = rotate(query, cos_sin)
        unseen = np.arange(len(keys)) > positions[:, None]  # (T, S)
        out = np.empty((len(x), heads, size), np.float32)
        for head in range(heads):
            group = head // (heads // groups)
            scores = query[:, head] @ keys[:, group].T / np.sqrt(np.float32(size))  # (T, S)
            out[:, head] = softmax(np.where(unseen, -np.inf, scores)) @ values[:, group]
        return out.reshape(len(x), -1) @ self._whole("attention_output", layer).T

    def _mlp(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        gate, up = np.split(x @ self._whole("gate_up", layer).T, 2, axis=1)
        return (silu(gate) * up) @ self._whole("down", layer).T

    # --------------------------------------------------------------------------------------------------------- weights

    def _whole(self, role: Role, layer: int | None) -> NDArray[np.float32]:
        spec = self._specs[role, layer]
        return self._read_rows(spec, 0, spec.shape[0])

    def _blocks(self, spec: WeightSpec) -> Iterator[NDArray[np.float32]]:
        step = max(1, HEAD_BLOCK_BYTES // (4 * spec.shape[1]))
        for start in range(0, spec.shape[0], step):
            yield self._read_rows(spec, start, min(spec.shape[0], start + step))


def rms_norm(x: NDArray[np.float32], weight: NDArray[np.float32], eps: float) -> NDArray[np.float32]:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis (arXiv 1910.07467)."""
    mean = np.mean(np.square(x), axis=-1, keepdims=True)
    return x / np.sqrt(mean + np.float32(eps)) * weight


def silu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x * sigmoid(x), without overflow for large negative x."""
    small = np.exp(-np.abs(x))
    return x * np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rotary_table(config: ModelConfig, positions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines, each (T, 1, rotary_dim / 2), computed in float64 (arXiv 2104.09864)."""
    angles = positions[:, None] * np.asarray(config.rope_inv_freq, np.float64)
    cos, sin = (f(angles)[:, None] * config.rope_attention_scaling for f in (np.cos, np.sin))
    return cos.astype(np.float32), sin.astype(np.float32)


def rotate(x: NDArray[np.float32], cos_sin: tuple[NDArray[np.float32], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Rotates pairs (i, i + rotary_dim / 2) of each head of (T, heads, head_dim); what lies beyond stays."""
    cos, sin = cos_sin
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
