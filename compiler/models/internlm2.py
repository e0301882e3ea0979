"""InternLM 2 and 2.5: Llama under other names, with queries, keys and values in one matrix, a key head's together.

Reference: `modeling_internlm2.py` of internlm/internlm2_5-1_8b-chat.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_rms_norm, require_swiglu
from .fields import FieldReader
from .rope import read_rope
from .weights import Name, Names

NAMES = Names(
    around={
        "embedding": Name("model.embed_tokens", ("model.tok_embeddings",)),
        "final_norm": Name("model.norm", ("model.norm",)),
        "lm_head": Name("lm_head", ("output",)),
    },
    layer={
        "input_norm": Name("input_layernorm", ("attention_norm",)),
        "qkv": Name("self_attn.qkv_proj", ("attention.wqkv",)),
        "attention_output": Name("self_attn.o_proj", ("attention.wo",)),
        "mlp_norm": Name("post_attention_layernorm", ("ffn_norm",)),
        "gate_up": Name("mlp.gate_up_proj", ("feed_forward.w1", "feed_forward.w3")),
        "down": Name("mlp.down_proj", ("feed_forward.w2",)),
    },
    grouped_qkv=True,
)


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    reader.require("bias", False, remedy="compile a checkpoint without biases")
    norm = read_rms_norm(reader)
    layer = Layer(Attention(norm, read_rope(reader, dimensions, context)), Mlp(norm))
    tied = reader.boolean("tie_word_embeddings", default=False)
    reader.finish()
    return ModelConfig(
        model_type="internlm2",
        **asdict(dimensions),
        layers=(layer,) * dimensions.num_hidden_layers,
        final_norm=norm,
        tie_word_embeddings=tied,
    )
