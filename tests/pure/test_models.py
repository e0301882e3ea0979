"""config.json -> ModelConfig and weights, against transformers' own reading of the same fields."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    SmolLM3Config,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from tests.checkpoints import LLAMA_DEFAULTS, PHI3_DEFAULTS

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}


def longrope(rotary_dim: int, **extra: Any) -> dict[str, Any]:
    count = rotary_dim // 2
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1 + i / 50 for i in range(count)],
        "long_factor": [1 + i / 2 for i in range(count)],
        "original_max_position_embeddings": 128,
        **extra,
    }


def raw_fields(config: PreTrainedConfig) -> dict[str, Any]:
    return json.loads(config.to_json_string(use_diff=False))


def llama(**overrides: Any) -> dict[str, Any]:
    return raw_fields(LlamaConfig(**{**LLAMA_DEFAULTS, **overrides}))


def phi3(**overrides: Any) -> dict[str, Any]:
    return raw_fields(Phi3Config(**{**PHI3_DEFAULTS, **overrides}))


def old_style(raw: dict[str, Any]) -> dict[str, Any]:
    """The same configuration as transformers 4 wrote it."""
    raw = copy.deepcopy(raw)
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    rope.pop("partial_rotary_factor", None)
    raw["rope_scaling"] = None if rope["rope_type"] == "default" else {"type": rope.pop("rope_type"), **rope}
    return raw


def rotary(embedding: Any, config: PreTrainedConfig, context: int) -> tuple[np.ndarray, float]:
    """transformers' frequencies for a sequence that reaches the end of the context."""
    module = embedding(config)
    module(torch.zeros(1, 1, 1), torch.tensor([[context - 1]]))
    return module.inv_freq.numpy(), module.attention_scaling


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "default", "rope_theta": 500000.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        LLAMA3_ROPE,
        {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        YARN,
        YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "attention_factor": 1.5},
        YARN | {"mscale": 0.7, "mscale_all_dim": 0.4},
    ],
    ids=lambda rope: f"{rope['rope_type']}-{rope['rope_theta']:g}-{len(rope)}",
)
def test_llama_rotary_frequencies(rope: dict[str, Any]) -> None:
    raw = llama(rope_parameters=dict(rope))
    expected, scaling = rotary(LlamaRotaryEmbedding, LlamaConfig(**raw), 512)
    for fields in (raw, old_style(raw)):
        (rope_of_all,) = config_from_huggingface(fields, 512).ropes
        np.testing.assert_allclose(rope_of_all.inv_freq, expected, rtol=2e-6)  # transformers computes in float32
        assert rope_of_all.scaling == pytest.approx(scaling, rel=1e-12)
        assert rope_of_all.dim == 64


@pytest.mark.parametrize("context", [128, 129, 512])
@pytest.mark.parametrize("fraction", [1.0, 0.75])
def test_phi3_longrope_frequencies(context: int, fraction: float) -> None:
    rope = longrope(int(96 * fraction), partial_rotary_factor=fraction, factor=4.0)
    raw = phi3(rope_parameters=rope, original_max_position_embeddings=128)
    expected, scaling = rotary(Phi3RotaryEmbedding, Phi3Config(**raw), context)
    (found,) = config_from_huggingface(raw, context).ropes
    np.testing.assert_allclose(found.inv_freq, expected, rtol=2e-6)
    assert found.scaling == pytest.approx(scaling, rel=1e-12)
    assert found.dim == int(96 * fraction)


def test_phi3_attention_scaling_without_a_factor() -> None:
    raw = phi3(rope_parameters=longrope(96), original_max_position_embeddings=128)
    (found,) = config_from_huggingface(raw, 512).ropes
    assert found.scaling == pytest.approx(math.sqrt(1 + math.log(512 / 128) / math.log(128)))


def test_phi3_old_su_scaling_is_longrope() -> None:
    rope = longrope(96)
    old = old_style(phi3(rope_parameters=rope, original_max_position_embeddings=128))
    old["rope_scaling"] = {"type": "su", "short_factor": rope["short_factor"], "long_factor": rope["long_factor"]}
    new = phi3(rope_parameters=rope, original_max_position_embeddings=128)
    assert config_from_huggingface(old, 512) == config_from_huggingface(new, 512)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("model_class", "config_class", "defaults"),
    [(LlamaForCausalLM, LlamaConfig, LLAMA_DEFAULTS), (Phi3ForCausalLM, Phi3Config, PHI3_DEFAULTS)],
    ids=["llama", "phi3"],
)
def test_weights_are_those_of_transformers(model_class: Any, config_class: Any, defaults: Any, tied: bool) -> None:
    config = config_class(**{**defaults, "tie_word_embeddings": tied})
    with torch.device("meta"):
        state = model_class(config).state_dict()
    specs = weight_specs(config_from_huggingface(raw_fields(config), 512))
    sources: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        for name, rows in zip(spec.sources, spec.source_rows, strict=True):
            sources[name] = (rows, *spec.shape[1:])
        assert spec.shape[0] == sum(spec.source_rows)
    if tied:
        state.pop("lm_head.weight")
    assert sources == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert len({spec.name for spec in specs}) == len(specs)


def test_default_sizes_follow_huggingface() -> None:
    raw = llama()
    del raw["head_dim"], raw["num_key_value_heads"], raw["tie_word_embeddings"], raw["rms_norm_eps"]
    model = config_from_huggingface(raw, 512)
    assert (model.head_dim, model.num_key_value_heads) == (64, 3)
    assert not model.tie_word_embeddings
    assert model.final_norm.epsilon == 1e-6


BAD_LLAMA: list[tuple[dict[str, Any], str]] = [
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"attention_bias": "yes"}, "attention_bias"),
    ({"mlp_bias": 1}, "mlp_bias"),
    ({"hidden_size": 100, "head_dim": 32}, "hidden_size"),
    ({"intermediate_size": 100}, "intermediate_size"),
    ({"head_dim": 20}, "head dimension"),
    ({"head_dim": 512}, "head dimension"),
    ({"num_key_value_heads": 2}, "num_key_value_heads"),
    ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ({"num_hidden_layers": "2"}, "num_hidden_layers"),
    ({"num_hidden_layers": True}, "num_hidden_layers"),
    ({"vocab_size": None}, "vocab_size"),
    ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ({"max_position_embeddings": 256}, "max_position_embeddings"),
    ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4, "factor": 2.0}}, "spiral"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0, "factor": 2.0}}, "rope_theta"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "extrapolation": 1}}, "extrapolation"),
    ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "factor"),
    ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
    ({"rope_parameters": {**LLAMA3_ROPE, "high_freq_factor": 1.0}}, "high_freq_factor"),
    ({"rope_parameters": {**LLAMA3_ROPE, "truncate": True}}, "truncate"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"rope_parameters": {"rope_type": "default", "type": "linear"}}, "two types"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    ({"rope_theta": 500000.0}, "rope_theta"),
    ({"rope_interleaved": True}, "rope_interleaved"),
    ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
    ({"sliding_window": 128}, "sliding_window"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
]


@pytest.mark.parametrize(("fields", "named"), BAD_LLAMA, ids=[f"{i}-{named}" for i, (_, named) in enumerate(BAD_LLAMA)])
def test_llama_refuses_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(WispError, match=named) as caught:
        config_from_huggingface({**llama(), **fields}, 512)
    assert caught.value.expected is not None


BAD_PHI3: list[tuple[dict[str, Any], str]] = [
    ({"sliding_window": 0}, "sliding_window"),
    ({"hidden_act": "gelu_new"}, "hidden_act"),
    ({"attention_bias": True}, "attention_bias"),
    ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "spiral"),
    ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "yarn"),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0}}, "llama3"),
    (
        {"rope_parameters": {"rope_type": "default", "original_max_position_embeddings": 300}},
        "original_max_position_embeddings",
    ),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.5}}, "partial_rotary_factor"),
    ({"rope_parameters": longrope(96) | {"short_factor": [1.0]}}, "short_factor"),
    ({"rope_parameters": longrope(96) | {"long_factor": [0.0] * 48}}, "long_factor"),
    ({"rope_parameters": longrope(96) | {"mscale": 2.0}}, "mscale"),
    ({"num_experts": 4}, "num_experts"),
]


@pytest.mark.parametrize(("fields", "named"), BAD_PHI3, ids=[f"{i}-{named}" for i, (_, named) in enumerate(BAD_PHI3)])
def test_phi3_refuses_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(WispError, match=named) as caught:
        config_from_huggingface({**phi3(), **fields}, 512)
    assert caught.value.expected is not None


def test_a_sliding_window_is_kept() -> None:
    assert config_from_huggingface(phi3(sliding_window=100), 511).layers[1].attention.window == 100


@pytest.mark.parametrize("model_type", ["gpt2", None, 3, ["llama"]])
def test_an_unknown_architecture_is_named(model_type: Any) -> None:
    with pytest.raises(WispError, match="model_type") as caught:
        config_from_huggingface({"model_type": model_type}, 512)
    assert repr(model_type) in str(caught.value)
    assert "'llama' or 'minicpm'" in str(caught.value)


def test_the_context_has_to_be_one_the_checkpoint_knows() -> None:
    with pytest.raises(WispError, match="--context 512"):
        config_from_huggingface(llama(), 513)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_a_rope_that_stretches_reaches_beyond_the_stated_length(kind: str) -> None:
    """As Vicuna 16K states 4,096 positions, and Qwen2.5's YaRN 32,768, where four times as many are meant."""
    raw = llama(rope_parameters={"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0})
    (found,) = config_from_huggingface(raw, 2048).ropes
    expected, scaling = rotary(LlamaRotaryEmbedding, LlamaConfig(**raw), 2048)
    np.testing.assert_allclose(found.inv_freq, expected, rtol=2e-6)
    assert found.scaling == pytest.approx(scaling)
    with pytest.raises(WispError, match="--context 2048"):
        config_from_huggingface(raw, 2049)


def test_attn_factor_is_a_factor_of_yarns_own() -> None:
    """As DeepSeek-R1-0528-Qwen3-8B states it, so that cosines and sines are no larger than 1."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    fields = {name: value for name, value in llama().items() if name != "rope_parameters"}
    given = {**fields, "rope_theta": 10000.0, "rope_scaling": {**yarn, "attn_factor": 0.8782488562869419}}
    (found,), (plain,) = (config_from_huggingface(raw, 512).ropes for raw in (given, {**given, "rope_scaling": yarn}))
    assert found.inv_freq == plain.inv_freq
    assert found.scaling == pytest.approx(1.0)
    assert plain.scaling == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize(
    ("model_type", "named"),
    [
        *(("mixtral", "experts"), ("qwen2_moe", "experts"), ("qwen3_moe", "experts"), ("phimoe", "experts")),
        *(("mamba", "state-space"), ("falcon_h1", "state-space"), ("granitemoehybrid", "state-space")),
        *(("qwen3_5", "DeltaNet"), ("qwen3_next", "DeltaNet"), ("lfm2", "convolutions")),
        *(("phi3small", "block-sparse"), ("minicpm3", "latent")),
    ],
)
def test_what_cannot_be_described_is_refused_by_name(model_type: str, named: str) -> None:
    with pytest.raises(WispError, match=f"'{model_type}' is not supported.*{named}"):
        config_from_huggingface({**llama(), "model_type": model_type}, 512)


def test_ministral3_is_refused_where_its_queries_grow() -> None:
    rope = {**YARN, "llama_4_scaling_beta": 0.1}
    raw = {**llama(), "model_type": "ministral3", "rope_parameters": rope}
    assert config_from_huggingface(raw, 128).layers
    with pytest.raises(WispError, match=r"grow with the position.*--context 128"):
        config_from_huggingface(raw, 129)
    assert config_from_huggingface({**raw, "rope_parameters": YARN}, 512).layers


@pytest.mark.parametrize("types", [["full_attention"], ["full_attention", "chunked_attention"], "full_attention"])
def test_layer_types_are_one_a_layer(types: Any) -> None:
    raw = raw_fields(Gemma2Config(**{**LLAMA_DEFAULTS, "head_dim": 32}))
    with pytest.raises(WispError, match="layer_types"):
        config_from_huggingface({**raw, "layer_types": types}, 512)
    kinds = ["full_attention", "sliding_attention"]
    windows = [layer.attention.window for layer in config_from_huggingface({**raw, "layer_types": kinds}, 512).layers]
    assert windows == [None, 4096]


@pytest.mark.parametrize("layers", [[1], [1, 2], [0, 0], [True, False], "11"])
def test_rotated_layers_are_one_a_layer(layers: Any) -> None:
    raw = raw_fields(SmolLM3Config(**LLAMA_DEFAULTS))
    with pytest.raises(WispError, match="no_rope_layers"):
        config_from_huggingface({**raw, "no_rope_layers": layers}, 512)


GEMMA3 = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 300,
    "max_position_embeddings": 1024,
    "hidden_activation": "gelu_pytorch_tanh",
}


def test_gemma3_states_the_length_that_its_rope_was_stretched_to() -> None:
    raw = {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert config_from_huggingface(raw, 1024).ropes
    with pytest.raises(WispError, match="--context 1024"):
        config_from_huggingface(raw, 1025)


def test_gemma_is_of_the_tanh_form_of_gelu() -> None:
    assert config_from_huggingface({**GEMMA3, "hidden_act": "gelu"}, 64).layers[0].mlp.activation == "gelu_tanh"
    with pytest.raises(WispError, match="hidden_activation"):
        config_from_huggingface({**GEMMA3, "hidden_activation": "gelu"}, 64)
