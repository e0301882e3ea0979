"""The architectures that can be compiled, one module a `model_type`. A new one is a file and a line here."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from compiler.errors import WispError
from compiler.models import (
    gemma,
    gemma2,
    gemma3_text,
    granite,
    llama,
    minicpm,
    mistral,
    olmo2,
    phi,
    phi3,
    qwen2,
    qwen3,
    smollm3,
)
from compiler.models.base import ModelConfig, WeightSpec
from compiler.models.fields import UnknownField, shortened
from compiler.models.weights import Names
from compiler.models.weights import weight_specs as specs_by_name


class Architecture(Protocol):
    """What a module of this package offers: how its weights are called, and its network from config to layers."""

    NAMES: Names

    def config_from_huggingface(self, raw: Mapping[str, Any], context: int) -> ModelConfig: ...


ARCHITECTURES: dict[str, Architecture] = {
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "granite": granite,
    "llama": llama,
    "minicpm": minicpm,
    "mistral": mistral,
    "olmo2": olmo2,
    "phi": phi,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": smollm3,
}


def architecture(model_type: object) -> Architecture:
    """The module of a `model_type`, or a WispError that names the supported ones."""
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
    return architecture(raw.get("model_type")).config_from_huggingface(raw, context)


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
