"""config.json of what people publish beside the original checkpoints: fine-tunes, and recipes' models with all fields.

Trainers leave fields of their own in it. The numbers are facts about published checkpoints.
"""

from typing import Any

import pytest

from compiler.errors import WispError
from compiler.models import config_from_huggingface, text_fields, weight_specs
from compiler.recipes import plan_recipe, recipe_paths
from tests.pure.test_published_configs import PUBLISHED, fields

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "hidden_act": "silu",
    "model_type": "llama",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
}
LLAMA3_ROPE = {"high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}
MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "hidden_act": "silu",
    "model_type": "mistral",
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
}
SEVEN = "layers=32 heads=32 groups=8 hidden=4096 inner=14336"
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 151643,
    "hidden_act": "silu",
    "model_type": "qwen2",
    "rms_norm_eps": 1e-06,
    "use_sliding_window": False,
}
FINE_TUNES: dict[str, tuple[int, dict[str, Any]]] = {
    "NousResearch/Hermes-3-Llama-3.2-3B": (
        3_212_749_824,
        fields(
            "layers=28 heads=24 groups=8 hidden=3072 inner=8192 vocab=128256 positions=131072 theta=500000",
            **LLAMA,
            eos_token_id=128040,
            head_dim=128,
            mlp_bias=False,
            rope_scaling={**LLAMA3_ROPE, "factor": 32.0, "rope_type": "llama3"},
            tie_word_embeddings=True,
        )
        | {"use_cache": False, "_name_or_path": "NousResearch/Hermes-3-Llama-3.2-3B"},
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (
        1_777_088_000,
        fields(
            "layers=28 heads=12 groups=2 hidden=1536 inner=8960 vocab=151936 positions=131072 theta=10000",
            **QWEN2,
            eos_token_id=151643,
            max_window_layers=21,
            sliding_window=4096,
            tie_word_embeddings=False,
            use_mrope=False,
        ),
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (
        8_030_261_248,
        fields(
            f"{SEVEN} vocab=128256 positions=131072 theta=500000",
            **LLAMA,
            eos_token_id=128001,
            mlp_bias=False,
            rope_scaling={**LLAMA3_ROPE, "factor": 8.0, "rope_type": "llama3"},
            tie_word_embeddings=False,
        ),
    ),
    "Qwen/Qwen2.5-Coder-7B-Instruct": (
        7_615_616_512,
        fields(
            "layers=28 heads=28 groups=4 hidden=3584 inner=18944 vocab=152064 positions=32768 theta=1000000",
            **QWEN2,
            eos_token_id=151645,
            max_window_layers=28,
            sliding_window=131072,
            tie_word_embeddings=False,
        ),
    ),
    "Qwen/Qwen2.5-Math-1.5B-Instruct": (
        1_543_714_304,
        fields(
            "layers=28 heads=12 groups=2 hidden=1536 inner=8960 vocab=151936 positions=4096 theta=10000",
            **QWEN2,
            eos_token_id=151645,
            max_window_layers=21,
            sliding_window=4096,
            tie_word_embeddings=True,
        ),
    ),
    "teknium/OpenHermes-2.5-Mistral-7B": (
        7_241_748_480,
        fields(f"{SEVEN} vocab=32002 positions=32768", **MISTRAL, eos_token_id=32000, _name_or_path="mistralai/M"),
    ),
    "openchat/openchat-3.5-0106": (
        7_241_748_480,
        fields(f"{SEVEN} vocab=32002 positions=8192", **MISTRAL, eos_token_id=32000),
    ),
    "HuggingFaceH4/zephyr-7b-beta": (
        7_241_732_096,
        fields(f"{SEVEN} vocab=32000 positions=32768", **MISTRAL, eos_token_id=2, pad_token_id=2),
    ),
    "mlabonne/NeuralBeagle14-7B": (
        7_241_732_096,
        fields(f"{SEVEN} vocab=32000 positions=32768", **MISTRAL, eos_token_id=2, _name_or_path="mlabonne/Beagle14-7B"),
    ),
    "cognitivecomputations/dolphin-2.9-llama3-8b": (
        8_030_277_632,
        fields(
            f"{SEVEN} vocab=128258 positions=8192 theta=500000",
            **LLAMA,
            eos_token_id=128256,
            rope_scaling=None,
            tie_word_embeddings=False,
        )
        | {"use_cache": False},
    ),
    "unsloth/Llama-3.2-1B-Instruct": (
        1_235_814_400,
        fields(
            "layers=16 heads=32 groups=8 hidden=2048 inner=8192 vocab=128256 positions=131072 theta=500000",
            **LLAMA,
            eos_token_id=128009,
            head_dim=64,
            mlp_bias=False,
            pad_token_id=128004,
            rope_scaling={**LLAMA3_ROPE, "factor": 32.0, "rope_type": "llama3"},
            tie_word_embeddings=True,
            unsloth_fixed=True,
            unsloth_version="2024.11.5",
        ),
    ),
    "unsloth/Qwen2.5-0.5B-Instruct": (
        494_032_768,
        fields(
            "layers=24 heads=14 groups=2 hidden=896 inner=4864 vocab=151936 positions=32768 theta=1000000",
            **QWEN2,
            eos_token_id=151645,
            max_window_layers=21,
            pad_token_id=151654,
            rope_scaling=None,
            sliding_window=None,
            tie_word_embeddings=True,
            unsloth_fixed=True,
        ),
    ),
    "unsloth/tinyllama-chat": (
        1_100_048_384,
        fields(
            "layers=22 heads=32 groups=4 hidden=2048 inner=5632 vocab=32000 positions=2048 theta=10000",
            **LLAMA | {"bos_token_id": 1},
            eos_token_id=2,
            pad_token_id=0,
            rope_scaling=None,
            tie_word_embeddings=False,
            unsloth_version="2024.9",
        ),
    ),
}
# What stands in the config.json of recipes' models besides the fields that a recipe states.
TOOLS = {"attention_dropout": 0.0, "initializer_range": 0.02, "torch_dtype": "bfloat16", "use_cache": True}
PHI3 = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}}
SMOLLM2 = {
    "is_llama_config": True,
    "pretraining_tp": 1,
    "rope_interleaved": False,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
}
BESIDES: dict[str, dict[str, Any]] = {
    "exaone-3.5-2.4b-instruct": {"embed_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_exaone.ExaoneConfig"}},
    "gemma-1.1-2b-it": {"architectures": ["GemmaForCausalLM"], "pad_token_id": 0},
    "granite-3.3-2b-instruct": {"mlp_bias": False, "pad_token_id": 0, "rope_scaling": None},
    "llama-3.1-8b-instruct": {"pretraining_tp": 1, "mlp_bias": False},
    "llama-3.2-1b-instruct": {"pretraining_tp": 1, "mlp_bias": False, "head_dim": 64},
    "llama-3.2-3b-instruct": {"pretraining_tp": 1, "mlp_bias": False, "head_dim": 128},
    "phi-2": {"embd_pdrop": 0.0, "resid_pdrop": 0.1, "qk_layernorm": False, "rope_scaling": None},
    "phi-3-mini-128k-instruct": PHI3 | {"attention_bias": False, "pad_token_id": 32000, "sliding_window": 262144},
    "phi-3-mini-4k-instruct": PHI3 | {"attention_bias": False, "pad_token_id": 32000, "sliding_window": 2047},
    "phi-3.5-mini-instruct": PHI3 | {"attention_bias": False, "pad_token_id": 32000, "sliding_window": 262144},
    "phi-4-mini-instruct": PHI3
    | {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False, "sliding_window": 262144},
    "qwen2.5-0.5b-instruct": {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 21},
    "qwen2.5-1.5b-instruct": {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 21},
    "qwen3-0.6b": {"rope_scaling": None, "sliding_window": None},
    "qwen3-1.7b": {"rope_scaling": None, "sliding_window": None},
    "qwen3-embedding-0.6b": {"rope_scaling": None, "sliding_window": None},
    "deepseek-r1-0528-qwen3-8b": {"sliding_window": None, "pad_token_id": 151645},
    "smollm2-135m-instruct": SMOLLM2,
    "smollm2-360m-instruct": SMOLLM2,
    "smollm2-1.7b-instruct": SMOLLM2,
    "tinyllama-1.1b-chat-v1.0": {"pretraining_tp": 1, "rope_scaling": None},
}


@pytest.mark.parametrize("name", FINE_TUNES)
def test_a_published_fine_tune_is_read(name: str) -> None:
    parameters, raw = FINE_TUNES[name]
    model = config_from_huggingface(raw, 2048)
    rows = [spec.shape for spec in weight_specs(model)]
    assert sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in rows) == parameters
    # Whatever else somebody writes into it means something until it is known.
    for value in (False, 0, "x"):
        with pytest.raises(WispError, match="attention_is_twisted"):
            config_from_huggingface({**raw, "attention_is_twisted": value}, 2048)


@pytest.mark.parametrize("path", recipe_paths(), ids=lambda path: path.stem)
def test_recipes_models_are_read_with_all_that_is_written_in_them(path: Any) -> None:
    config, network = plan_recipe(path)
    assert config.architecture is not None
    written = {**TOOLS, "transformers_version": "4.49.0", **BESIDES.get(path.stem, {}), **config.architecture}
    assert config_from_huggingface(written, network.context) == network.model


def test_every_recipes_model_has_its_fields_here_or_there() -> None:
    known = {name.split("/")[-1].lower() for name in PUBLISHED} | BESIDES.keys()
    same = {"mistral-7b-instruct-v0.3", "openchat_3.5"}  # of Mistral, as the fine-tunes above
    assert {path.stem for path in recipe_paths()} <= known | same


def test_the_language_models_of_others_are_left_as_they_are() -> None:
    raw = FINE_TUNES["mlabonne/NeuralBeagle14-7B"][1]
    assert text_fields(raw) is raw
