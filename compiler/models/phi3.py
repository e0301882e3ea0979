"""Phi-3, Phi-3.5 and Phi-4 (mini): everything whose `model_type` is `phi3`.

Reference: `transformers/models/phi3`; LongRoPE: `modeling_rope_utils._compute_longrope_parameters`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compiler.models.base import (
    LEAST_FACTOR,
    MOST_FACTOR,
    Dimensions,
    FieldReader,
    ModelConfig,
    WeightSpec,
    default_inv_freq,
    matrix,
    read_dimensions,
    read_norm_eps,
    read_rotary_dim,
    read_theta,
    refuse_rope_type,
    require_swiglu,
    rope_fields,
    vector,
)

ROPE_TYPES = ("default", "longrope", "su")


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens.

    With LongRoPE the context decides between the short and the long factors, once and for every position.
    Raises WispError for every field that this compiler would otherwise have to ignore.
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
    norm_eps = read_norm_eps(reader, "rms_norm_eps", 1e-5)
    tied = reader.boolean("tie_word_embeddings", default=False)
    window = None if reader.get("sliding_window") is None else reader.integer("sliding_window")
    rotary_dim, inv_freq, attention_scaling = _rope(reader, dimensions, context)
    reader.finish()
    return ModelConfig(
        model_type="phi3",
        **asdict(dimensions),
        norm_eps=norm_eps,
        rotary_dim=rotary_dim,
        rope_inv_freq=inv_freq,
        rope_attention_scaling=attention_scaling,
        tie_word_embeddings=tied,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        head_norms=False,
        sliding_window=window,
    )


def _rope(reader: FieldReader, dimensions: Dimensions, context: int) -> tuple[int, tuple[float, ...], float]:
    """Rotary dimensions of a head, their frequencies, and the factor on cosines and sines."""
    kind, rope = rope_fields(reader)
    # Its logarithm is divided by.
    original = reader.integer("original_max_position_embeddings", default=4096, minimum=2)
    rotary_dim = read_rotary_dim(rope, dimensions.head_dim, 1.0)
    inv_freq = default_inv_freq(rotary_dim, read_theta(rope))
    match kind:
        case "default":
            scaling = 1.0
            rope.require("original_max_position_embeddings", original)
        case "longrope" | "su":
            # The field beside rope_scaling, when there, wins over the one inside (as in transformers).
            inner = rope.integer("original_max_position_embeddings", default=original, minimum=2)
            if reader.get("original_max_position_embeddings") is None:
                original = inner
            factors = {
                name: rope.numbers(name, rotary_dim // 2, LEAST_FACTOR, MOST_FACTOR)
                for name in ("short_factor", "long_factor")
            }
            chosen = factors["long_factor" if context > original else "short_factor"]
            inv_freq = tuple(f / c for f, c in zip(inv_freq, chosen, strict=True))
            ratio = dimensions.max_position_embeddings / original
            stretch = rope.number("factor", default=ratio, least=LEAST_FACTOR, most=MOST_FACTOR)
            default = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
            scaling = rope.number("attention_factor", default=default, least=LEAST_FACTOR, most=1 / LEAST_FACTOR)
        case _:
            refuse_rope_type(kind, ROPE_TYPES)
    rope.finish()
    return rotary_dim, inv_freq, scaling


def weight_specs(config: ModelConfig) -> tuple[WeightSpec, ...]:
    """Every weight in the order it is written, under MLC's names for Phi-3; the head is absent when tied."""
    hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    query = config.num_attention_heads * config.head_dim
    specs = [matrix("transformer.embd", hidden, {"model.embed_tokens.weight": vocab}, "embedding")]
    for i in range(config.num_hidden_layers):
        ours, theirs = f"transformer.h.{i}", f"model.layers.{i}"
        post = "post_attention_layernorm.weight"
        qkv = {f"{theirs}.self_attn.qkv_proj.weight": config.qkv_size}
        gate_up = {f"{theirs}.mlp.gate_up_proj.weight": 2 * inner}
        specs += [
            vector(f"{ours}.ln.weight", hidden, f"{theirs}.input_layernorm.weight", "input_norm", i),
            matrix(f"{ours}.mixer.qkv_proj", hidden, qkv, "qkv", i),
            matrix(
                f"{ours}.mixer.out_proj", query, {f"{theirs}.self_attn.o_proj.weight": hidden}, "attention_output", i
            ),
            vector(f"{ours}.{post}", hidden, f"{theirs}.{post}", "post_attention_norm", i),
            matrix(f"{ours}.mlp.gate_up_proj", hidden, gate_up, "gate_up", i),
            matrix(f"{ours}.mlp.down_proj", inner, {f"{theirs}.mlp.down_proj.weight": hidden}, "down", i),
        ]
    specs.append(vector("transformer.norm.weight", hidden, "model.norm.weight", "final_norm"))
    if not config.tie_word_embeddings:
        specs.append(matrix("lm_head", hidden, {"lm_head.weight": vocab}, "lm_head"))
    return tuple(specs)
