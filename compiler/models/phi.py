"""Phi-1, Phi-1.5 and Phi-2: layer norm, attention beside the MLP, biases everywhere, partial rotation, plain GELU.

Reference: `transformers/models/phi`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig, Norm
from .common import read_dimensions, read_norm_eps
from .fields import FieldReader
from .rope import read_rope
from .weights import Name, Names

NAMES = Names(
    around={
        "embedding": Name("transformer.embd", ("model.embed_tokens",)),
        "final_norm": Name("lm_head.ln", ("model.final_layernorm",)),
        "lm_head": Name("lm_head.linear", ("lm_head",)),
    },
    layer={
        "input_norm": Name("ln", ("input_layernorm",)),
        "qkv": Name("mixer.Wqkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        "attention_output": Name("mixer.out_proj", ("self_attn.dense",)),
        "up": Name("mlp.fc1", ("mlp.fc1",)),
        "down": Name("mlp.fc2", ("mlp.fc2",)),
    },
    ours="transformer.h.{i}.",
)


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    reader.require("hidden_act", "gelu_new", remedy="only the tanh form of GELU can be compiled")
    reader.require("qk_layernorm", False, remedy="compile a checkpoint without query and key norms")
    norm = Norm("layer", read_norm_eps(reader, "layer_norm_eps", 1e-5))
    attention = Attention(norm, read_rope(reader, dimensions, context, fraction=0.5), bias=True, output_bias=True)
    layer = Layer(attention, Mlp(None, "gelu_tanh", gated=False, bias=True), parallel=True)
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="phi",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
        head_bias=True,
    )
