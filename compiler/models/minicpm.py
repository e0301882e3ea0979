"""MiniCPM 1, 2 and 4 (dense): Llama with a scale of the embedding, of what layers add, and of the logits.

Reference: `modeling_minicpm.py` of openbmb/MiniCPM-2B-dpo-bf16; arXiv 2404.06395, section 4.
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

# How far a scale may go: published ones are 12 and 1.4.
LEAST, MOST = 1e-6, 1e6


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    norm, rope = read_rms_norm(reader), read_rope(reader, dimensions, context)
    embedding, depth = (
        reader.number(name, default=1.0, least=LEAST, most=MOST) for name in ("scale_emb", "scale_depth")
    )
    base = reader.integer("dim_model_base", default=1)
    reader.get("mup_denominator")  # of training
    layer = Layer(Attention(norm, rope), Mlp(norm), residual_scale=depth / dimensions.num_hidden_layers**0.5)
    tied = reader.boolean("tie_word_embeddings", default=True)
    reader.finish()
    return ModelConfig(
        model_type="minicpm",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
        embedding_scale=embedding,
        logits_scale=base / dimensions.hidden_size,
    )
