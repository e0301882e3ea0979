"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.

Reference: `transformers/models/qwen2`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_rms_norm, require_full_attention, require_swiglu
from .fields import FieldReader
from .llama import NAMES
from .rope import read_rope

__all__ = ["NAMES", "config_from_huggingface"]


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    require_full_attention(reader, dimensions)
    norm = read_rms_norm(reader)
    layer = Layer(Attention(norm, read_rope(reader, dimensions, context), bias=True), Mlp(norm))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="qwen2",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )
