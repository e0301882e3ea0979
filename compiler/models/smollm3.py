"""SmolLM3: Llama with no rotation in some layers, by default every fourth.

Reference: `transformers/models/smollm3`; NoPE: arXiv 2501.18795.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from .base import Attention, Layer, Mlp, ModelConfig
from .common import read_dimensions, read_rms_norm, require_full_attention, require_swiglu
from .fields import FieldReader
from .llama import NAMES
from .rope import read_rope

__all__ = ["NAMES", "config_from_huggingface"]


def config_from_huggingface(raw: Mapping[str, Any], context: int) -> ModelConfig:
    """The network that `config.json` describes, for sequences of up to `context` tokens."""
    reader = FieldReader(raw)
    dimensions = read_dimensions(reader, context)
    require_swiglu(reader)
    require_full_attention(reader, dimensions)
    norm, rope = read_rms_norm(reader), read_rope(reader, dimensions, context, theta=2000000.0)
    biased = reader.boolean("attention_bias", default=False)
    attention = Attention(norm, rope, bias=biased, output_bias=biased)
    rotated = Layer(attention, Mlp(norm, bias=reader.boolean("mlp_bias", default=False)))
    plain = replace(rotated, attention=replace(attention, rope=None))
    rotates = _read_rotated_layers(reader, dimensions.num_hidden_layers)
    tied = reader.boolean("tie_word_embeddings", default=True)
    reader.finish()
    return ModelConfig(
        model_type="smollm3",
        **asdict(dimensions),
        layers=tuple(rotated if turns else plain for turns in rotates),
        final_norm=norm,
        tie_word_embeddings=tied,
    )


def _read_rotated_layers(reader: FieldReader, layers: int) -> list[bool]:
    """Which layers rotate: `no_rope_layers` says 1 where one does."""
    interval = reader.integer("no_rope_layer_interval", default=4)
    stated = reader.get("no_rope_layers")
    if stated is None:
        stated = [int((i + 1) % interval != 0) for i in range(layers)]
    numbers = isinstance(stated, list) and all(type(value) is int and value in (0, 1) for value in stated)
    if not numbers or len(stated) != layers or not any(stated):
        reader.refuse("no_rope_layers", f"a list of {layers} numbers, 1 where a layer rotates and 0 where not")
    return [value == 1 for value in stated]
