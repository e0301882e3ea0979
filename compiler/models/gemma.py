"""Gemma 1 (also CodeGemma): norms that multiply by 1 + weight, a GELU gate, and an embedding of its own scale.

Reference: `transformers/models/gemma`; arXiv 2403.08295.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_rms_norm, with_defaults
from .fields import FieldReader
from .llama import NAMES
from .rope import read_rope

__all__ = ["NAMES", "config_from_huggingface"]

DEFAULTS = {"head_dim": 256, "tie_word_embeddings": True}


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(with_defaults(raw, DEFAULTS))
    dimensions = read_dimensions(reader, context)
    require_geglu(reader)
    norm, rope = read_rms_norm(reader, offset=1.0), read_rope(reader, dimensions, context)
    biased = reader.boolean("attention_bias", default=False)
    layer = Layer(Attention(norm, rope, bias=biased, output_bias=biased), Mlp(norm, "gelu_tanh"))
    tied = reader.boolean("tie_word_embeddings", default=True)
    reader.finish()
    return ModelConfig(
        model_type="gemma",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
        embedding_scale=dimensions.hidden_size**0.5,
    )


def require_geglu(reader: FieldReader) -> None:
    """The tanh form of GELU; where the first checkpoints say `gelu`, in the field's former name, they mean it, too."""
    remedy = "only the tanh form of GELU can be compiled"
    reader.require("hidden_activation", "gelu_pytorch_tanh", remedy=remedy)
    reader.require("hidden_act", "gelu_pytorch_tanh", "gelu", remedy=remedy)
