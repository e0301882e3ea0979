"""EXAONE 3.0 and 3.5: Llama under other names.

Reference: `modeling_exaone.py` of LGAI-EXAONE/EXAONE-3.5-2.4B-Instruct.
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
        "embedding": Name("model.embed_tokens", ("transformer.wte",)),
        "final_norm": Name("model.norm", ("transformer.ln_f",)),
        "lm_head": Name("lm_head", ("lm_head",)),
    },
    layer={
        "input_norm": Name("input_layernorm", ("ln_1",)),
        "qkv": Name("self_attn.qkv_proj", tuple(f"attn.attention.{x}_proj" for x in "qkv")),
        "attention_output": Name("self_attn.o_proj", ("attn.attention.out_proj",)),
        "mlp_norm": Name("post_attention_layernorm", ("ln_2",)),
        "gate_up": Name("mlp.gate_up_proj", ("mlp.c_fc_0", "mlp.c_fc_1")),
        "down": Name("mlp.down_proj", ("mlp.c_proj",)),
    },
    theirs="transformer.h.{i}.",
)


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    layers = raw.get("num_layers") if raw.get("num_hidden_layers") is None else raw["num_hidden_layers"]
    reader = FieldReader({**raw, "num_hidden_layers": layers})
    dimensions = read_dimensions(reader, context)
    reader.require("num_layers", dimensions.num_hidden_layers)
    reader.require("activation_function", "silu", remedy="only SwiGLU networks can be compiled")
    reader.get("embed_dropout")  # of training
    norm = Norm("rms", read_norm_eps(reader, "layer_norm_epsilon", 1e-5))
    layer = Layer(Attention(norm, read_rope(reader, dimensions, context)), Mlp(norm))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="exaone",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )
