"""StableLM 2 1.6B and StableLM 3B: Llama with layer norm and a partial rotation, attention and MLP in turn or at once.

Reference: `transformers/models/stablelm`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig, Norm
from .common import read_dimensions, read_norm_eps, require_swiglu
from .fields import FieldReader
from .llama import NAMES
from .rope import read_rope

__all__ = ["NAMES", "config_from_huggingface"]


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    reader.require("qk_layernorm", False, remedy="compile a checkpoint without norms of query and key heads")
    norm = Norm("layer", read_norm_eps(reader, "layer_norm_eps", 1e-5))
    rope = read_rope(reader, dimensions, context, fraction=0.25)
    attention = Attention(norm, rope, bias=reader.boolean("use_qkv_bias", default=False))
    layer = Layer(attention, Mlp(norm), parallel=reader.boolean("use_parallel_residual", default=False))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="stablelm",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )
