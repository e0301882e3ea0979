"""The architectures that can be compiled, one module a `model_type`. A new one is a file and a line here."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, get_args

from ..errors import WispError
from . import (
    exaone,
    gemma,
    gemma2,
    gemma3_text,
    granite,
    internlm2,
    llama,
    minicpm,
    ministral3,
    mistral,
    olmo2,
    phi,
    phi3,
    qwen2,
    qwen3,
    smollm3,
    stablelm,
    whisper,
)
from .base import ModelConfig, Pooling, WeightSpec
from .fields import UnknownField, shortened
from .weights import Names
from .weights import weight_specs as specs_by_name


class Architecture(Protocol):
    """What a module of this package offers: how its weights are called, and its network from config to layers."""

    NAMES: Names

    def config_from_huggingface(self, raw: Mapping[str, Any], context: int) -> ModelConfig: ...


ARCHITECTURES: dict[str, Architecture] = {
    "exaone": exaone,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "granite": granite,
    "internlm2": internlm2,
    "llama": llama,
    "minicpm": minicpm,
    "ministral3": ministral3,
    "mistral": mistral,
    "olmo2": olmo2,
    "phi": phi,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": smollm3,
    "stablelm": stablelm,
    "whisper": whisper,
}

# What an architecture has that no part of a description stands for, by `model_type`.
_EXPERTS, _STATES, _DELTA = "a mixture of experts", "state-space layers", "gated DeltaNet layers"
UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "phimoe", "olmoe", "gpt_oss"), _EXPERTS),
    **dict.fromkeys(
        ("granitemoe", "granitemoeshared", "deepseek_v2", "deepseek_v3", "llama4", "llama4_text"), _EXPERTS
    ),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "bamba", "jamba", "zamba", "zamba2"), _STATES),
    **dict.fromkeys(("falcon_h1", "nemotron_h", "granitemoehybrid"), _STATES),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe"), _DELTA),
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm2_vl"), "short convolutions between its attention layers"),
    **dict.fromkeys(("rwkv", "recurrent_gemma"), "recurrent layers"),
    **dict.fromkeys(("gemma3n", "gemma3n_text", "gemma4", "gemma4_text"), "embeddings of each layer"),
    "phi3small": "block-sparse attention",
    "minicpm3": "latent attention",
}

# Not of Hugging Face: what a source knows of a checkpoint that was trained to give embeddings (`sources/pooling.py`).
POOLING = "embedding_pooling"

# The language models of checkpoints that also see, by their `model_type` and that of their `text_config`.
TEXT_MODELS = {"gemma3": "gemma3_text", "mistral3": "ministral3"}


def architecture(model_type: object) -> Architecture:
    """The module of a `model_type`, or a WispError that names the supported ones."""
    if isinstance(model_type, str) and model_type in UNSUPPORTED:
        raise WispError(
            f"the architecture '{model_type}' is not supported",
            got=UNSUPPORTED[model_type],
            expected="a dense decoder of attention and MLPs",
            remedy="compile a checkpoint of " + " or ".join(map(repr, ARCHITECTURES)),
        )
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise WispError(
            "the architecture is not supported",
            got=f"model_type {shortened(model_type)}",
            expected=" or ".join(repr(name) for name in ARCHITECTURES),
            remedy="compile a checkpoint of one of these",
        )
    return ARCHITECTURES[model_type]


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that a Hugging Face `config.json` describes, for sequences of up to `context` tokens."""
    fields = {name: value for name, value in raw.items() if name != POOLING}
    config = architecture(raw.get("model_type")).config_from_huggingface(fields, context)
    pooling = raw.get(POOLING)
    if pooling is None:
        return config
    if pooling not in get_args(Pooling):
        expected = " or ".join(map(repr, get_args(Pooling)))
        raise WispError(f"the field {POOLING} is not usable", got=shortened(pooling), expected=expected)
    return replace(config, pooling=pooling)


def text_fields(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the language model, of a checkpoint that also sees; others as they are."""
    kind, text = raw.get("model_type"), raw.get("text_config")
    if not isinstance(kind, str) or kind not in TEXT_MODELS or not isinstance(text, Mapping):
        return raw
    outer = (
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
        "quantization_config",
        "quantization",
    )
    stated = {name: raw[name] for name in outer if raw.get(name) is not None}
    return {"model_type": TEXT_MODELS[kind], **text, **stated}


def without_ignored(raw: Mapping[str, Any], ignored: Collection[str]) -> Mapping[str, Any]:
    """The fields less those of these names that would be refused as unknown, `rope_scaling.mscale` for an inner one.

    A field that an architecture reads stays: nobody can take rotary scaling out of a network by calling it inert.
    """
    while ignored:
        try:
            config_from_huggingface(raw, context=1)
        except UnknownField as error:
            if error.path is None or error.path not in ignored:
                raise
            raw = _without(raw, error.path.split(".") if error.path not in raw else [error.path])
        else:
            break
    return raw


def _without(fields: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    kept = {name: value for name, value in fields.items() if name != path[0]}
    return kept if len(path) == 1 else kept | {path[0]: _without(fields[path[0]], path[1:])}


def weight_specs(config: ModelConfig) -> tuple[WeightSpec, ...]:
    """Every weight of the network, in the order it is written."""
    return specs_by_name(config, architecture(config.model_type).NAMES)
