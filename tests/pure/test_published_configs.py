"""config.json as the Hub publishes it: every field of it is read or known to be inert, and gives the published network.

The numbers are facts about published checkpoints, with the fields that their authors' tools wrote besides.
"""

from typing import Any

import pytest

from compiler.errors import WispError
from compiler.models import config_from_huggingface, text_fields, weight_specs

WRITTEN: dict[str, Any] = {
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
}
SLIDING, FULL = "sliding_attention", "full_attention"


def fields(text: str, **more: Any) -> dict[str, Any]:
    """A config.json: `layers=26` stands for `num_hidden_layers`, and so on."""
    short = {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "groups": "num_key_value_heads",
        "hidden": "hidden_size",
        "inner": "intermediate_size",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "theta": "rope_theta",
    }
    numbers = {short[key]: int(value) for key, value in (part.split("=") for part in text.split())}
    return {**WRITTEN, **numbers, **more}


GEMMA3 = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "pad_token_id": 0,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
}
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "google/gemma-3-1b-it": (
        999_885_952,
        fields(
            "layers=26 heads=4 groups=1 hidden=1152 inner=6912 vocab=262144 positions=32768 theta=1000000",
            **GEMMA3,
            sliding_window=512,
            sliding_window_pattern=6,
        ),
    ),
    "google/gemma-3-270m-it": (
        268_098_176,
        fields(
            "layers=18 heads=4 groups=1 hidden=640 inner=2048 vocab=262144 positions=32768 theta=1000000",
            **GEMMA3,
            _sliding_window_pattern=6,
            layer_types=[FULL if i % 6 == 5 else SLIDING for i in range(18)],
            sliding_window=512,
            use_bidirectional_attention=False,
        ),
    ),
    "google/gemma-3-4b-it": (
        3_880_263_168,
        {
            **WRITTEN,
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 255999,
            "eoi_token_index": 256000,
            "eos_token_id": [1, 106],
            "image_token_index": 262144,
            "mm_tokens_per_image": 256,
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 27},
        },
    ),
    "google/gemma-2-2b-it": (
        2_614_341_888,
        fields(
            "layers=26 heads=8 groups=4 hidden=2304 inner=9216 vocab=256000 positions=8192",
            architectures=["Gemma2ForCausalLM"],
            attention_bias=False,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            bos_token_id=2,
            cache_implementation="hybrid",
            eos_token_id=[1, 107],
            head_dim=256,
            hidden_act="gelu_pytorch_tanh",
            hidden_activation="gelu_pytorch_tanh",
            model_type="gemma2",
            pad_token_id=0,
            query_pre_attn_scalar=256,
            rms_norm_eps=1e-06,
            rope_theta=10000.0,
            sliding_window=4096,
        ),
    ),
    "google/gemma-2b-it": (
        2_506_172_416,
        fields(
            "layers=18 heads=8 groups=1 hidden=2048 inner=16384 vocab=256000 positions=8192",
            architectures=["GemmaForCausalLM"],
            attention_bias=False,
            bos_token_id=2,
            eos_token_id=1,
            head_dim=256,
            hidden_act="gelu",
            hidden_activation=None,
            model_type="gemma",
            pad_token_id=0,
            rms_norm_eps=1e-06,
            rope_scaling=None,
            rope_theta=10000.0,
        ),
    ),
    "ibm-granite/granite-3.3-2b-instruct": (
        2_533_539_840,
        fields(
            "layers=40 heads=32 groups=8 hidden=2048 inner=8192 vocab=49159 positions=131072",
            architectures=["GraniteForCausalLM"],
            attention_bias=False,
            attention_multiplier=0.015625,
            bos_token_id=0,
            embedding_multiplier=12.0,
            eos_token_id=0,
            hidden_act="silu",
            logits_scaling=8.0,
            mlp_bias=False,
            model_type="granite",
            pad_token_id=0,
            residual_multiplier=0.22,
            rms_norm_eps=1e-05,
            rope_scaling=None,
            rope_theta=10000000.0,
            tie_word_embeddings=True,
        ),
    ),
    "openbmb/MiniCPM-2B-dpo-bf16": (
        2_724_880_896,
        fields(
            "layers=40 heads=36 groups=36 hidden=2304 inner=5760 vocab=122753 positions=4096",
            _name_or_path="openbmb/CPM-2B",
            architectures=["MiniCPMForCausalLM"],
            auto_map={"AutoConfig": "configuration_minicpm.MiniCPMConfig"},
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            model_type="minicpm",
            rms_norm_eps=1e-05,
            rope_scaling=None,
            scale_emb=12,
            dim_model_base=256,
            scale_depth=1.4,
        ),
    ),
    "HuggingFaceTB/SmolLM3-3B": (
        3_075_098_624,
        fields(
            "layers=36 heads=16 groups=4 hidden=2048 inner=11008 vocab=128256 positions=65536",
            architectures=["SmolLM3ForCausalLM"],
            attention_bias=False,
            bos_token_id=128000,
            eos_token_id=128012,
            hidden_act="silu",
            layer_types=[FULL] * 36,
            max_window_layers=28,
            mlp_bias=False,
            model_type="smollm3",
            no_rope_layer_interval=4,
            no_rope_layers=[int(i % 4 != 3) for i in range(36)],
            pad_token_id=128004,
            pretraining_tp=2,
            rms_norm_eps=1e-06,
            rope_scaling=None,
            rope_theta=5000000.0,
            sliding_window=None,
            use_sliding_window=False,
        ),
    ),
    "allenai/OLMo-2-0425-1B-Instruct": (
        1_484_916_736,
        fields(
            "layers=16 heads=16 groups=16 hidden=2048 inner=8192 vocab=100352 positions=4096 theta=500000",
            architectures=["Olmo2ForCausalLM"],
            attention_bias=False,
            bos_token_id=100257,
            eos_token_id=100257,
            hidden_act="silu",
            model_type="olmo2",
            pad_token_id=100277,
            rms_norm_eps=1e-06,
            rope_scaling=None,
            tie_word_embeddings=False,
        ),
    ),
    "stabilityai/stablelm-2-zephyr-1_6b": (
        1_644_515_328,
        fields(
            "layers=24 heads=32 groups=32 hidden=2048 inner=5632 vocab=100352 positions=4096 theta=10000",
            architectures=["StableLmForCausalLM"],
            bos_token_id=100257,
            eos_token_id=100257,
            hidden_act="silu",
            hidden_dropout=0.0,
            layer_norm_eps=1e-05,
            model_type="stablelm",
            partial_rotary_factor=0.25,
            qk_layernorm=False,
            rope_scaling=None,
            tie_word_embeddings=False,
            use_parallel_residual=False,
            use_qkv_bias=True,
        ),
    ),
    "internlm/internlm2_5-1_8b-chat": (
        1_889_110_016,
        fields(
            "layers=24 heads=16 groups=8 hidden=2048 inner=8192 vocab=92544 positions=32768 theta=1000000",
            architectures=["InternLM2ForCausalLM"],
            attn_implementation="eager",
            auto_map={"AutoConfig": "configuration_internlm2.InternLM2Config"},
            bias=False,
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            model_type="internlm2",
            pad_token_id=2,
            pretraining_tp=1,
            rms_norm_eps=1e-05,
            rope_scaling={"factor": 2.0, "type": "dynamic"},
            tie_word_embeddings=False,
        ),
    ),
    "LGAI-EXAONE/EXAONE-3.5-2.4B-Instruct": (
        2_405_327_360,
        {
            **WRITTEN,
            "activation_function": "silu",
            "architectures": ["ExaoneForCausalLM"],
            "auto_map": {"AutoConfig": "configuration_exaone.ExaoneConfig"},
            "bos_token_id": 1,
            "embed_dropout": 0.0,
            "eos_token_id": 361,
            "head_dim": 80,
            "hidden_size": 2560,
            "intermediate_size": 7168,
            "layer_norm_epsilon": 1e-05,
            "max_position_embeddings": 32768,
            "model_type": "exaone",
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_layers": 30,
            "pad_token_id": 0,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "vocab_size": 102400,
        },
    ),
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": (
        8_190_735_360,
        fields(
            "layers=36 heads=32 groups=8 hidden=4096 inner=12288 vocab=151936 positions=131072 theta=1000000",
            architectures=["Qwen3ForCausalLM"],
            attention_bias=False,
            bos_token_id=151643,
            eos_token_id=151645,
            head_dim=128,
            hidden_act="silu",
            max_window_layers=36,
            model_type="qwen3",
            rms_norm_eps=1e-06,
            rope_scaling={
                "attn_factor": 0.8782488562869419,
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "rope_type": "yarn",
            },
            sliding_window=None,
            tie_word_embeddings=False,
            use_sliding_window=False,
        ),
    ),
    "Qwen/Qwen2.5-7B-Instruct, with the YaRN of its card": (
        7_615_616_512,
        fields(
            "layers=28 heads=28 groups=4 hidden=3584 inner=18944 vocab=152064 positions=32768",
            architectures=["Qwen2ForCausalLM"],
            bos_token_id=151643,
            eos_token_id=151645,
            hidden_act="silu",
            max_window_layers=28,
            model_type="qwen2",
            rms_norm_eps=1e-06,
            rope_theta=1000000.0,
            rope_scaling={"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
            sliding_window=131072,
            tie_word_embeddings=False,
            use_sliding_window=False,
        ),
    ),
    "lmsys/vicuna-7b-v1.5-16k": (
        6_738_415_616,
        fields(
            "layers=32 heads=32 groups=32 hidden=4096 inner=11008 vocab=32000 positions=4096",
            _name_or_path="vicuna-7b-v1.5-16k",
            architectures=["LlamaForCausalLM"],
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            max_sequence_length=16384,
            model_type="llama",
            pad_token_id=0,
            pretraining_tp=1,
            rms_norm_eps=1e-05,
            rope_scaling={"factor": 4.0, "type": "linear"},
            tie_word_embeddings=False,
        ),
    ),
    "tiiuae/Falcon3-1B-Instruct": (
        1_669_408_768,
        fields(
            "layers=18 heads=8 groups=4 hidden=2048 inner=8192 vocab=131072 positions=8192 theta=1000042",
            activation="swiglu",
            architectures=["LlamaForCausalLM"],
            attention_bias=False,
            eos_token_id=11,
            head_dim=256,
            hidden_act="silu",
            mlp_bias=False,
            model_type="llama",
            pad_token_id=2023,
            pretraining_tp=1,
            rms_norm_eps=1e-06,
            rope_scaling=None,
            tie_word_embeddings=False,
        ),
    ),
    "mistralai/Ministral-8B-Instruct-2410": (
        8_019_808_256,
        fields(
            "layers=36 heads=32 groups=8 hidden=4096 inner=12288 vocab=131072 positions=32768",
            architectures=["MistralForCausalLM"],
            bos_token_id=1,
            eos_token_id=2,
            head_dim=128,
            hidden_act="silu",
            model_type="mistral",
            rms_norm_eps=1e-05,
            rope_theta=100000000.0,
            sliding_window=32768,
            tie_word_embeddings=False,
        ),
    ),
}
# How far beyond `max_position_embeddings` a rotary embedding that stretches reaches.
REACH = {"lmsys/vicuna-7b-v1.5-16k": 16384, "Qwen/Qwen2.5-7B-Instruct, with the YaRN of its card": 131072}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_is_read(name: str) -> None:
    parameters, raw = PUBLISHED[name]
    model = config_from_huggingface(text_fields(raw), 2048)
    found = 0
    for spec in weight_specs(model):
        found += spec.shape[0] * (spec.shape[1] if len(spec.shape) > 1 else 1)
    assert found == parameters
    config_from_huggingface(text_fields(raw), REACH.get(name, model.max_position_embeddings))


@pytest.mark.parametrize("name", PUBLISHED)
def test_another_field_is_refused(name: str) -> None:
    with pytest.raises(WispError, match="attention_is_twisted"):
        config_from_huggingface({**text_fields(PUBLISHED[name][1]), "attention_is_twisted": False}, 2048)


def test_an_encoder_of_gemma_is_refused() -> None:
    """EmbeddingGemma has Gemma 3's shape, and looks at what follows."""
    raw = {**PUBLISHED["google/gemma-3-270m-it"][1], "use_bidirectional_attention": True}
    with pytest.raises(WispError, match="use_bidirectional_attention"):
        config_from_huggingface(raw, 2048)
