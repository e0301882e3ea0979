"""OLMo 2: norms of what attention and MLP give, not of what they read; norms of all queries and of all keys together.

Reference: `transformers/models/olmo2`; arXiv 2501.00656, section 3.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from .base import Attention, HeadNorm, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_rms_norm, require_swiglu
from .fields import FieldReader
from .llama import NAMES as LLAMA
from .rope import read_rope
from .weights import same

NAMES = replace(
    LLAMA,
    layer={
        **LLAMA.layer,
        "attention_output_norm": same("post_attention_layernorm"),
        "mlp_output_norm": same("post_feedforward_layernorm"),
    },
)


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    norm, rope = read_rms_norm(reader, default=1e-5), read_rope(reader, dimensions, context)
    biased = reader.boolean("attention_bias", default=False)
    heads = HeadNorm(norm, over="projection")
    attention = Attention(None, rope, bias=biased, output_bias=biased, head_norm=heads, output_norm=norm)
    layer = Layer(attention, Mlp(None, output_norm=norm))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="olmo2",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )
