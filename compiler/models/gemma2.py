"""Gemma 2: Gemma with norms before and after attention and MLP, a window in every other layer, and soft caps.

Reference: `transformers/models/gemma2`; arXiv 2408.00118.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_layer_types, read_rms_norm, read_soft_cap, with_defaults
from .fields import FieldReader
from .gemma import require_geglu
from .llama import NAMES as LLAMA
from .rope import read_rope
from .weights import same

NAMES = replace(
    LLAMA,
    layer={
        **LLAMA.layer,
        "attention_output_norm": same("post_attention_layernorm"),
        "mlp_norm": same("pre_feedforward_layernorm"),
        "mlp_output_norm": same("post_feedforward_layernorm"),
    },
)
DEFAULTS = {
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(with_defaults(raw, DEFAULTS, nullable=("attn_logit_softcapping", "final_logit_softcapping")))
    dimensions = read_dimensions(reader, context)
    require_geglu(reader)
    norm, rope = read_rms_norm(reader, offset=1.0), read_rope(reader, dimensions, context)
    biased = reader.boolean("attention_bias", default=False)
    full = Attention(
        norm,
        rope,
        bias=biased,
        output_bias=biased,
        scale=reader.number("query_pre_attn_scalar", least=1e-3) ** -0.5,
        soft_cap=read_soft_cap(reader, "attn_logit_softcapping"),
        output_norm=norm,
    )
    window = replace(full, window=reader.integer("sliding_window"))
    mlp = Mlp(norm, "gelu_tanh", output_norm=norm)
    types = read_layer_types(reader, dimensions, every=2)
    cap = read_soft_cap(reader, "final_logit_softcapping")
    tied = reader.boolean("tie_word_embeddings", default=True)
    reader.finish()
    return ModelConfig(
        model_type="gemma2",
        **asdict(dimensions),
        layers=tuple(Layer(window if kind == "sliding_attention" else full, mlp) for kind in types),
        final_norm=norm,
        tie_word_embeddings=tied,
        embedding_scale=dimensions.hidden_size**0.5,
        logits_soft_cap=cap,
    )
