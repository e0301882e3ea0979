"""Mistral 7B and its derivatives (OpenChat 3.5, Zephyr): Llama with a sliding window where one is asked for.

Reference: `transformers/models/mistral`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compiler.models.base import FieldReader, ModelConfig, read_dimensions, read_norm_eps, require_swiglu
from compiler.models.llama import read_inv_freq, weight_specs

__all__ = ["config_from_huggingface", "weight_specs"]


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens.

    Raises WispError for every field that this compiler would otherwise have to ignore.
    """
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    window = None if reader.get("sliding_window") is None else reader.integer("sliding_window")
    norm_eps = read_norm_eps(reader, "rms_norm_eps", 1e-6)
    tied = reader.boolean("tie_word_embeddings", default=False)
    inv_freq = read_inv_freq(reader, dimensions.head_dim, dimensions.max_position_embeddings)
    reader.finish()
    return ModelConfig(
        model_type="mistral",
        **asdict(dimensions),
        norm_eps=norm_eps,
        rotary_dim=dimensions.head_dim,
        rope_inv_freq=inv_freq,
        rope_attention_scaling=1.0,
        tie_word_embeddings=tied,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        head_norms=False,
        sliding_window=window,
    )
