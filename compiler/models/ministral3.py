"""Ministral 3 (text): Mistral with YaRN, and queries that grow with the position beyond the original context.

Within the original context (16,384 positions) that growth is nothing, so contexts up to there are compiled; longer ones
are refused by name. Reference: `transformers/models/ministral3`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..errors import WispError
from .base import Attention, Dimensions, Layer, Mlp, ModelConfig, Rope
from .common import read_dimensions, read_rms_norm, read_window, require_swiglu
from .fields import FieldReader
from .llama import NAMES
from .rope import ORIGINAL, rope_fields, rope_of

__all__ = ["NAMES", "config_from_huggingface"]

# What a configuration that says nothing of the rotary embedding means.
DEFAULT_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    ORIGINAL: 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    if raw.get("rope_parameters") is None and raw.get("rope_scaling") is None:
        raw = {**raw, "rope_parameters": DEFAULT_ROPE}
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    norm, window = read_rms_norm(reader, default=1e-5), read_window(reader)
    layer = Layer(Attention(norm, _read_rope(reader, dimensions, context), window=window), Mlp(norm))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="ministral3",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )


def _read_rope(reader: FieldReader, dimensions: Dimensions, context: int) -> Rope:
    """The rotary embedding; queries are multiplied by 1 + beta log(1 + floor(position / original context))."""
    kind, rope = rope_fields(reader)
    rope.require("max_position_embeddings", dimensions.max_position_embeddings)
    grows = rope.get("llama_4_scaling_beta") not in (None, 0, 0.0)
    original = rope.integer(ORIGINAL, default=dimensions.max_position_embeddings)
    if grows and context > original:
        raise WispError(
            "queries that grow with the position are not supported",
            got=f"a context of {context}, beyond the original {original}",
            expected=f"at most {original}, where llama_4_scaling_beta changes nothing",
            remedy=f"use --context {original}",
        )
    return rope_of(kind, rope, dimensions, context, theta=1000000.0)
