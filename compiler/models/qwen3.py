"""Qwen3: Llama with an RMS norm of each query and key head, before the rotation.

Reference: `transformers/models/qwen3`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, HeadNorm, Layer, Mlp, ModelConfig
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
    biased = reader.boolean("attention_bias", default=False)
    rope = read_rope(reader, dimensions, context)
    layer = Layer(Attention(norm, rope, bias=biased, output_bias=biased, head_norm=HeadNorm(norm)), Mlp(norm))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="qwen3",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )
