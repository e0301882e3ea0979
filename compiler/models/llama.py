"""Llama: Llama 1 to 3.3, TinyLlama, SmolLM, Falcon 3 and everything else whose `model_type` is `llama`.

Reference: `transformers/models/llama`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_rms_norm, require_swiglu
from .fields import FieldReader
from .rope import read_rope
from .weights import Name, Names, same

# Of Llama and of those that differ in what their layers have, not in what they call it.
NAMES = Names(
    around={"embedding": same("model.embed_tokens"), "final_norm": same("model.norm"), "lm_head": same("lm_head")},
    layer={
        "input_norm": same("input_layernorm"),
        "qkv": Name("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        "query_norm": same("self_attn.q_norm"),
        "key_norm": same("self_attn.k_norm"),
        "attention_output": same("self_attn.o_proj"),
        "mlp_norm": same("post_attention_layernorm"),
        "gate_up": Name("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
        "down": same("mlp.down_proj"),
    },
)


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens.

    Raises WispError for every field that this compiler would otherwise have to ignore.
    """
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    norm = read_rms_norm(reader)
    biased = reader.boolean("attention_bias", default=False)
    attention = Attention(norm, read_rope(reader, dimensions, context), bias=biased, output_bias=biased)
    layer = Layer(attention, Mlp(norm, bias=reader.boolean("mlp_bias", default=False)))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="llama",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )
