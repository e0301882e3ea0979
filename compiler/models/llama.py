"""Llama: Llama 1 to 3.3, TinyLlama, SmolLM and everything else whose `model_type` is `llama`.

Reference: `transformers/models/llama`; `llama3` frequencies: `modeling_rope_utils._compute_llama3_parameters`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compiler.models.base import (
    LEAST_FACTOR,
    MOST_FACTOR,
    FieldReader,
    ModelConfig,
    WeightSpec,
    bias,
    default_inv_freq,
    matrix,
    read_dimensions,
    read_norm_eps,
    read_theta,
    refuse_rope_type,
    require_swiglu,
    rope_fields,
    vector,
)

ROPE_TYPES = ("default", "linear", "llama3")


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens.

    Raises WispError for every field that this compiler would otherwise have to ignore.
    """
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    attention_bias = reader.boolean("attention_bias", default=False)
    mlp_bias = reader.boolean("mlp_bias", default=False)
    norm_eps = read_norm_eps(reader, "rms_norm_eps", 1e-6)
    tied = reader.boolean("tie_word_embeddings", default=False)
    inv_freq = read_inv_freq(reader, dimensions.head_dim, dimensions.max_position_embeddings)
    reader.finish()
    return ModelConfig(
        model_type="llama",
        **asdict(dimensions),
        norm_eps=norm_eps,
        rotary_dim=dimensions.head_dim,
        rope_inv_freq=inv_freq,
        rope_attention_scaling=1.0,
        tie_word_embeddings=tied,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=mlp_bias,
        head_norms=False,
        sliding_window=None,
    )


def read_inv_freq(reader: FieldReader, head_dim: int, max_position: int) -> tuple[float, ...]:
    """Rotary frequencies of whole heads, by any of `ROPE_TYPES`."""
    kind, rope = rope_fields(reader)
    rope.require("partial_rotary_factor", 1.0, 1)
    inv_freq = default_inv_freq(head_dim, read_theta(rope))
    match kind:
        case "default":
            pass
        case "linear":
            factor = rope.number("factor", least=LEAST_FACTOR, most=MOST_FACTOR)
            inv_freq = tuple(f / factor for f in inv_freq)
        case "llama3":
            inv_freq = _llama3_inv_freq(rope, inv_freq, max_position)
        case _:
            refuse_rope_type(kind, ROPE_TYPES)
    rope.finish()
    return inv_freq


def _llama3_inv_freq(rope: FieldReader, inv_freq: tuple[float, ...], max_position: int) -> tuple[float, ...]:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated."""
    names = ("factor", "low_freq_factor", "high_freq_factor")
    factor, low, high = (rope.number(name, least=LEAST_FACTOR, most=MOST_FACTOR) for name in names)
    original = rope.integer("original_max_position_embeddings", default=max_position)
    if high <= low:
        rope.refuse("high_freq_factor", f"more than low_freq_factor ({low:g})")

    def scaled(frequency: float) -> float:
        turns = original * frequency / (2 * math.pi)  # full turns within the original context
        if turns > high:
            return frequency
        if turns < low:
            return frequency / factor
        smooth = (turns - low) / (high - low)
        return (1 - smooth) * frequency / factor + smooth * frequency

    return tuple(scaled(f) for f in inv_freq)


def weight_specs(config: ModelConfig) -> tuple[WeightSpec, ...]:
    """Every weight in the order it is written: embedding, layers, final norm, head (absent when tied).

    Mistral and Qwen keep theirs under the same names; biases and head norms are there when the configuration says so.
    """
    hidden = config.hidden_size
    embedding = {"model.embed_tokens.weight": config.vocab_size}
    specs = [matrix("model.embed_tokens", hidden, embedding, "embedding")]
    for i in range(config.num_hidden_layers):
        specs += _layer_specs(config, f"model.layers.{i}", i)
    specs.append(vector("model.norm.weight", hidden, "model.norm.weight", "final_norm"))
    if not config.tie_word_embeddings:
        specs.append(matrix("lm_head", hidden, {"lm_head.weight": config.vocab_size}, "lm_head"))
    return tuple(specs)


def _layer_specs(config: ModelConfig, p: str, i: int) -> list[WeightSpec]:
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key_value = config.num_attention_heads * dim, config.num_key_value_heads * dim
    parts = {
        "qkv": {f"{p}.self_attn.{x}_proj": n for x, n in (("q", query), ("k", key_value), ("v", key_value))},
        "attention_output": {f"{p}.self_attn.o_proj": hidden},
        "gate_up": {f"{p}.mlp.gate_proj": inner, f"{p}.mlp.up_proj": inner},
        "down": {f"{p}.mlp.down_proj": hidden},
    }
    weights = {role: {f"{name}.weight": rows for name, rows in part.items()} for role, part in parts.items()}
    biases = {role: {f"{name}.bias": rows for name, rows in part.items()} for role, part in parts.items()}
    norm, post = f"{p}.input_layernorm.weight", f"{p}.post_attention_layernorm.weight"
    specs = [
        vector(norm, hidden, norm, "input_norm", i),
        matrix(f"{p}.self_attn.qkv_proj", hidden, weights["qkv"], "qkv", i),
    ]
    if config.qkv_bias:
        specs.append(bias(f"{p}.self_attn.qkv_proj.bias", biases["qkv"], "qkv_bias", i))
    if config.head_norms:
        query_norm, key_norm = f"{p}.self_attn.q_norm.weight", f"{p}.self_attn.k_norm.weight"
        specs += [vector(query_norm, dim, query_norm, "query_norm", i), vector(key_norm, dim, key_norm, "key_norm", i)]
    specs.append(matrix(f"{p}.self_attn.o_proj", query, weights["attention_output"], "attention_output", i))
    if config.output_bias:
        name = f"{p}.self_attn.o_proj.bias"
        specs.append(bias(name, biases["attention_output"], "attention_output_bias", i))
    specs += [
        vector(post, hidden, post, "post_attention_norm", i),
        matrix(f"{p}.mlp.gate_up_proj", hidden, weights["gate_up"], "gate_up", i),
        matrix(f"{p}.mlp.down_proj", inner, weights["down"], "down", i),
    ]
    if config.mlp_bias:
        specs += [
            bias(f"{p}.mlp.gate_up_proj.bias", biases["gate_up"], "gate_up_bias", i),
            bias(f"{p}.mlp.down_proj.bias", biases["down"], "down_bias", i),
        ]
    return specs
