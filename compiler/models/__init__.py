"""The architectures that can be compiled, one module a `model_type`. A new one is a file and a line here."""

from collections.abc import Mapping
from typing import Any, Protocol

from compiler.errors import WispError
from compiler.models import llama, mistral, phi, phi3, qwen2, qwen3
from compiler.models.base import ModelConfig, WeightSpec


class Architecture(Protocol):
    """What a module of this package offers."""

    def config_from_huggingface(self, raw: Mapping[str, Any], context: int) -> ModelConfig: ...

    def weight_specs(self, config: ModelConfig) -> tuple[WeightSpec, ...]: ...


ARCHITECTURES: dict[str, Architecture] = {
    "llama": llama,
    "mistral": mistral,
    "phi": phi,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
}


def architecture(model_type: object) -> Architecture:
    """The module of a `model_type`, or a WispError that names the supported ones."""
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise WispError(
            "the architecture is not supported",
            got=f"model_type {model_type!r}",
            expected=" or ".join(repr(name) for name in ARCHITECTURES),
            remedy="compile a checkpoint of one of these",
        )
    return ARCHITECTURES[model_type]


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that a Hugging Face `config.json` describes, for sequences of up to `context` tokens."""
    return architecture(raw.get("model_type")).config_from_huggingface(raw, context)


def weight_specs(config: ModelConfig) -> tuple[WeightSpec, ...]:
    """Every weight of the network, in the order it is written."""
    return architecture(config.model_type).weight_specs(config)
