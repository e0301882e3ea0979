"""Granite 3 (dense): Llama with a multiplier of the embedding, of scores, of what layers add, and of the logits.

Reference: `transformers/models/granite`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_rms_norm, require_swiglu
from .fields import FieldReader
from .llama import NAMES
from .rope import read_rope

__all__ = ["NAMES", "config_from_huggingface"]

# How far a multiplier may go: published ones are between 0.008 and 20.
LEAST, MOST = 1e-6, 1e6


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    norm, rope = read_rms_norm(reader), read_rope(reader, dimensions, context)
    embedding, attention, residual, logits = (
        reader.number(name, default=1.0, least=LEAST, most=MOST)
        for name in ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
    )
    biased = reader.boolean("attention_bias", default=False)
    mlp = Mlp(norm, bias=reader.boolean("mlp_bias", default=False))
    layer = Layer(Attention(norm, rope, bias=biased, output_bias=biased, scale=attention), mlp, residual_scale=residual)
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="granite",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
        embedding_scale=embedding,
        logits_scale=1 / logits,
    )
