"""Phi-3, Phi-3.5 and Phi-4 (mini): everything whose `model_type` is `phi3`.

Reference: `transformers/models/phi3`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_rms_norm, read_window, require_swiglu
from .fields import FieldReader
from .rope import read_rope
from .weights import Name, Names, same

NAMES = Names(
    around={
        "embedding": Name("transformer.embd", ("model.embed_tokens",)),
        "final_norm": Name("transformer.norm", ("model.norm",)),
        "lm_head": same("lm_head"),
    },
    layer={
        "input_norm": Name("ln", ("input_layernorm",)),
        "qkv": Name("mixer.qkv_proj", ("self_attn.qkv_proj",)),
        "attention_output": Name("mixer.out_proj", ("self_attn.o_proj",)),
        "mlp_norm": same("post_attention_layernorm"),
        "gate_up": same("mlp.gate_up_proj"),
        "down": same("mlp.down_proj"),
    },
    ours="transformer.h.{i}.",
)


# As transformers has them: "su" is what LongRoPE was called first.
ROPE_TYPES = ("default", "longrope", "su")


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens.

    With LongRoPE the context decides between the short and the long factors, once and for every position.
    """
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    reader.require("attention_bias", False, remedy="compile a checkpoint without attention biases")
    reader.require("mlp_bias", False, remedy="compile a checkpoint without MLP biases")
    reader.require("lm_head_bias", False, remedy="compile a checkpoint without a bias of the vocabulary projection")
    # Phi-4-mini states these; transformers knows no other values.
    for name in ("full_attn_mod", "interpolate_factor"):
        reader.require(name, 1)
    norm, window = read_rms_norm(reader, default=1e-5), read_window(reader)
    original = reader.integer("original_max_position_embeddings", default=4096, minimum=2)  # a logarithm is divided by
    rope = read_rope(reader, dimensions, context, fraction=1.0, original=original, kinds=ROPE_TYPES)
    layer = Layer(Attention(norm, rope, window=window), Mlp(norm))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="phi3",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )
