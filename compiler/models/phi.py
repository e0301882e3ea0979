"""Phi-1, Phi-1.5 and Phi-2: layer norm, attention beside the MLP, biases everywhere, partial rotation, plain GELU.

Reference: `transformers/models/phi`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compiler.models.base import (
    FieldReader,
    ModelConfig,
    WeightSpec,
    bias,
    default_inv_freq,
    matrix,
    read_dimensions,
    read_norm_eps,
    read_rotary_dim,
    read_theta,
    refuse_rope_type,
    rope_fields,
    vector,
)


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens.

    Raises WispError for every field that this compiler would otherwise have to ignore.
    """
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    reader.require("hidden_act", "gelu_new", remedy="only the tanh form of GELU can be compiled")
    reader.require("qk_layernorm", False, remedy="compile a checkpoint without query and key norms")
    norm_eps = read_norm_eps(reader, "layer_norm_eps", 1e-5)
    tied = reader.boolean("tie_word_embeddings", default=False)
    kind, rope = rope_fields(reader)
    rotary_dim = read_rotary_dim(rope, dimensions.head_dim, 0.5)
    inv_freq = default_inv_freq(rotary_dim, read_theta(rope))
    if kind != "default":
        refuse_rope_type(kind, ("default",))
    rope.finish()
    reader.finish()
    return ModelConfig(
        model_type="phi",
        **asdict(dimensions),
        norm_eps=norm_eps,
        rotary_dim=rotary_dim,
        rope_inv_freq=inv_freq,
        rope_attention_scaling=1.0,
        tie_word_embeddings=tied,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_norms=False,
        sliding_window=None,
    )


def weight_specs(config: ModelConfig) -> tuple[WeightSpec, ...]:
    """Every weight in the order it is written, under MLC's names for Phi; a tied head keeps its own bias."""
    hidden, vocab = config.hidden_size, config.vocab_size
    specs = [matrix("transformer.embd", hidden, {"model.embed_tokens.weight": vocab}, "embedding")]
    for i in range(config.num_hidden_layers):
        specs += _layer_specs(config, i)
    final = "model.final_layernorm"
    specs += [
        vector("lm_head.ln.weight", hidden, f"{final}.weight", "final_norm"),
        vector("lm_head.ln.bias", hidden, f"{final}.bias", "final_norm_bias"),
    ]
    if not config.tie_word_embeddings:
        specs.append(matrix("lm_head.linear", hidden, {"lm_head.weight": vocab}, "lm_head"))
    specs.append(vector("lm_head.linear.bias", vocab, "lm_head.bias", "lm_head_bias"))
    return tuple(specs)


def _layer_specs(config: ModelConfig, i: int) -> list[WeightSpec]:
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key_value = config.num_attention_heads * dim, config.num_key_value_heads * dim
    ours, theirs = f"transformer.h.{i}", f"model.layers.{i}"
    norm = f"{theirs}.input_layernorm"
    qkv = {f"{theirs}.self_attn.{x}_proj": n for x, n in (("q", query), ("k", key_value), ("v", key_value))}
    return [
        vector(f"{ours}.ln.weight", hidden, f"{norm}.weight", "input_norm", i),
        vector(f"{ours}.ln.bias", hidden, f"{norm}.bias", "input_norm_bias", i),
        matrix(f"{ours}.mixer.Wqkv", hidden, {f"{n}.weight": rows for n, rows in qkv.items()}, "qkv", i),
        bias(f"{ours}.mixer.Wqkv.bias", {f"{n}.bias": rows for n, rows in qkv.items()}, "qkv_bias", i),
        matrix(f"{ours}.mixer.out_proj", query, {f"{theirs}.self_attn.dense.weight": hidden}, "attention_output", i),
        vector(f"{ours}.mixer.out_proj.bias", hidden, f"{theirs}.self_attn.dense.bias", "attention_output_bias", i),
        matrix(f"{ours}.mlp.fc1", hidden, {f"{theirs}.mlp.fc1.weight": inner}, "up", i),
        vector(f"{ours}.mlp.fc1.bias", inner, f"{theirs}.mlp.fc1.bias", "up_bias", i),
        matrix(f"{ours}.mlp.fc2", inner, {f"{theirs}.mlp.fc2.weight": hidden}, "down", i),
        vector(f"{ours}.mlp.fc2.bias", hidden, f"{theirs}.mlp.fc2.bias", "down_bias", i),
    ]
