"""Whisper: an encoder of log-mel frames, and a decoder that attends to it; layer norm, learned positions, plain GELU.

Reference: `transformers/models/whisper`; Radford et al., arXiv 2212.04356.
"""

from collections.abc import Mapping
from typing import Any

from .base import Attention, CrossAttention, Encoder, Layer, Mlp, ModelConfig, Norm
from .fields import FieldReader
from .inert import INERT_FIELDS
from .weights import Name, Names, same

_ATTENTION = {
    "input_norm": same("self_attn_layer_norm"),
    "qkv": Name("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    "attention_output": same("self_attn.out_proj"),
    "mlp_norm": same("final_layer_norm"),
    "up": same("fc1"),
    "down": same("fc2"),
}
_CROSS = {
    "cross_norm": same("encoder_attn_layer_norm"),
    "cross_query": same("encoder_attn.q_proj"),
    "cross_key_value": Name("encoder_attn.kv_proj", ("encoder_attn.k_proj", "encoder_attn.v_proj")),
    "cross_output": same("encoder_attn.out_proj"),
}
_ENCODER = "model.encoder.layers.{i}."
_DECODER = "model.decoder.layers.{i}."

NAMES = Names(
    around={
        "embedding": same("model.decoder.embed_tokens"),
        "positions": same("model.decoder.embed_positions"),
        "final_norm": same("model.decoder.layer_norm"),
    },
    layer=_ATTENTION | _CROSS,
    ours=_DECODER,
    theirs=_DECODER,
    keys_without_bias=True,
    encoder=Names(
        around={
            "conv1": same("model.encoder.conv1"),
            "conv2": same("model.encoder.conv2"),
            "encoder_positions": same("model.encoder.embed_positions"),
            "encoder_norm": same("model.encoder.layer_norm"),
        },
        layer=_ATTENTION,
        ours=_ENCODER,
        theirs=_ENCODER,
        keys_without_bias=True,
    ),
)

# What it was trained and is run with.
_RUNNING = (
    "activation_dropout dropout encoder_layerdrop decoder_layerdrop init_std apply_spec_augment mask_feature_length "
    "mask_feature_min_masks mask_feature_prob mask_time_length mask_time_min_masks mask_time_prob median_filter_width "
    "classifier_proj_size use_weighted_layer_sum num_hidden_layers"
)
# What it may say, and where it listens for word timestamps.
_DECODING = "forced_decoder_ids begin_suppress_tokens suppress_tokens alignment_heads"
_INERT = INERT_FIELDS | frozenset(" ".join((_RUNNING, _DECODING)).split())
MEL_BANDS = (80, 128)  # of those that there are filters for


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for texts of up to `context` tokens."""
    reader = FieldReader(raw, inert=_INERT)
    hidden = reader.integer("d_model", multiple_of=8)
    heads, inner = reader.integer("decoder_attention_heads"), reader.integer("decoder_ffn_dim", multiple_of=8)
    if hidden % heads or hidden // heads % 8:
        reader.refuse("decoder_attention_heads", f"a divisor of d_model, {hidden}, into heads of a multiple of 8")
    reader.require("encoder_attention_heads", heads, remedy="encoder and decoder have heads of one size")
    reader.require("encoder_ffn_dim", inner, remedy="encoder and decoder have MLPs of one size")
    reader.require("activation_function", "gelu", remedy="only the exact form of GELU can be compiled")
    reader.require("scale_embedding", False, remedy="compile a checkpoint whose embeddings are not scaled")
    reader.require("is_encoder_decoder", True)
    bands = reader.integer("num_mel_bins", 80)
    if bands not in MEL_BANDS:
        reader.refuse("num_mel_bins", " or ".join(map(str, MEL_BANDS)))
    positions = reader.integer("max_source_positions", 1500, multiple_of=2)
    longest = reader.integer("max_target_positions", 448)
    norm = Norm("layer", 1e-5)
    mlp = Mlp(norm, "gelu", gated=False, bias=True)
    heard = Layer(Attention(norm, None, bias=True, output_bias=True, causal=False), mlp)
    said = Layer(Attention(norm, None, bias=True, output_bias=True), mlp, cross=CrossAttention(norm))
    encoder = Encoder(bands, positions, (heard,) * reader.integer("encoder_layers"), norm)
    layers = reader.integer("decoder_layers")
    vocab_size = reader.integer("vocab_size")
    reader.require("tie_word_embeddings", True, remedy="compile a checkpoint whose head is its embedding")
    if context > longest:
        reader.refuse("max_target_positions", f"at least {context}, as the context", f"use --context {longest} or less")
    reader.finish()
    return ModelConfig(
        model_type="whisper",
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        vocab_size=vocab_size,
        max_position_embeddings=longest,
        layers=(said,) * layers,
        final_norm=norm,
        tie_word_embeddings=True,
        learned_positions=True,
        encoder=encoder,
    )
