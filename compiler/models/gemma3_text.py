"""Gemma 3 (text): Gemma 2 with norms of heads in place of soft caps, and a rotary embedding of its own in windows.

Reference: `transformers/models/gemma3`; arXiv 2503.19786.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from .base import Attention, Dimensions, HeadNorm, Layer, Mlp, ModelConfig, Rope
from .common import read_dimensions, read_layer_types, read_rms_norm, read_soft_cap, with_defaults
from .fields import FieldReader
from .gemma import require_geglu
from .gemma2 import NAMES
from .rope import read_rope, rope_of, typed_fields

__all__ = ["NAMES", "config_from_huggingface"]

# What a configuration that leaves a field out means: that of the 4B model leaves out most.
DEFAULTS = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
KINDS = ("sliding_attention", "full_attention")


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(with_defaults(raw, DEFAULTS))
    dimensions = read_dimensions(reader, context, stretched=True)
    require_geglu(reader)
    norm, (local, far) = read_rms_norm(reader, offset=1.0), _read_ropes(reader, dimensions, context)
    biased = reader.boolean("attention_bias", default=False)
    scale = reader.number("query_pre_attn_scalar", least=1e-3) ** -0.5
    full = Attention(
        norm, far, bias=biased, output_bias=biased, head_norm=HeadNorm(norm), scale=scale, output_norm=norm
    )
    window = replace(full, rope=local, window=reader.integer("sliding_window"))
    mlp = Mlp(norm, "gelu_tanh", output_norm=norm)
    types = read_layer_types(reader, dimensions, reader.integer("sliding_window_pattern", default=6))
    reader.require("attn_logit_softcapping", None, remedy="compile a checkpoint without a cap of scores")
    reader.require("use_bidirectional_attention", False, remedy="compile a decoder, not an encoder")
    cap = read_soft_cap(reader, "final_logit_softcapping")
    tied = reader.boolean("tie_word_embeddings", default=True)
    reader.finish()
    return ModelConfig(
        model_type="gemma3_text",
        **asdict(dimensions),
        layers=tuple(Layer(window if kind == "sliding_attention" else full, mlp) for kind in types),
        final_norm=norm,
        tie_word_embeddings=tied,
        embedding_scale=dimensions.hidden_size**0.5,
        logits_soft_cap=cap,
    )


def _read_ropes(reader: FieldReader, dimensions: Dimensions, context: int) -> tuple[Rope, Rope]:
    """The rotary embeddings of layers with a window and of those without.

    transformers 5 writes both into `rope_parameters`; before, `rope_local_base_freq` and `rope_theta` were theirs.
    """
    thetas = reader.number("rope_local_base_freq", default=10000.0, least=1.0), 1000000.0
    new = reader.mapping("rope_parameters") or {}
    if not new.keys() & set(KINDS):
        local = rope_of("default", FieldReader({"rope_theta": thetas[0]}), dimensions, context)
        return local, read_rope(reader, dimensions, context, theta=thetas[1])
    if reader.get("rope_scaling") is not None:
        reader.refuse("rope_scaling", "rope_parameters or rope_scaling, not both")
    thetas = thetas[0], reader.number("rope_theta", default=thetas[1], least=1.0)
    both, found = FieldReader(new, "config.json rope_parameters", prefix="rope_parameters."), []
    for name, theta in zip(KINDS, thetas, strict=True):
        kind, rope = typed_fields(dict(both.mapping(name) or {}), f"config.json rope_parameters.{name}")
        found.append(rope_of(kind, rope, dimensions, context, theta=theta))
    both.finish()
    return found[0], found[1]
