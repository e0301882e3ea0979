"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.

Reference: `transformers/models/qwen2`.
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
    # These switch sliding windows on for some layers; none of the published checkpoints does.
    reader.require("use_sliding_window", False, remedy="compile a checkpoint without sliding windows")
    reader.require("layer_types", ["full_attention"] * dimensions.num_hidden_layers)
    for name in ("sliding_window", "max_window_layers"):
        reader.get(name)
    norm_eps = read_norm_eps(reader, "rms_norm_eps", 1e-6)
    tied = reader.boolean("tie_word_embeddings", default=False)
    inv_freq = read_inv_freq(reader, dimensions.head_dim, dimensions.max_position_embeddings)
    reader.finish()
    return ModelConfig(
        model_type="qwen2",
        **asdict(dimensions),
        norm_eps=norm_eps,
        rotary_dim=dimensions.head_dim,
        rope_inv_freq=inv_freq,
        rope_attention_scaling=1.0,
        tie_word_embeddings=tied,
        qkv_bias=True,
        output_bias=False,
        mlp_bias=False,
        head_norms=False,
        sliding_window=None,
    )
