"""What the readers of several architectures share: sizes, the activation, norms, windows.

Knows Hugging Face's names of these fields; what an absent one means, the architectures say.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ..errors import WispError
from .base import Dimensions, Norm
from .fields import FieldReader
from .rope import longest_context


def require_swiglu(reader: FieldReader) -> None:
    """The activation of the gated networks, under both names that it goes by."""
    reader.require("hidden_act", "silu", remedy="only SwiGLU networks can be compiled")
    reader.require("activation", "swiglu", "silu", remedy="only SwiGLU networks can be compiled")


def read_norm_eps(reader: FieldReader, name: str, default: float) -> float:
    """What is added to the mean of the squares under a norm's root."""
    return reader.number(name, default=default, most=1.0)


def read_rms_norm(reader: FieldReader, default: float = 1e-6, offset: float = 0.0) -> Norm:
    """The RMS norm of all layers."""
    return Norm("rms", read_norm_eps(reader, "rms_norm_eps", default), offset)


def read_window(reader: FieldReader, name: str = "sliding_window") -> int | None:
    """How many tokens a token attends to; None when it is not said."""
    return None if reader.get(name) is None else reader.integer(name)


def read_soft_cap(reader: FieldReader, name: str) -> float | None:
    """c of c * tanh(x / c); None where nothing is capped."""
    return None if reader.get(name) is None else reader.number(name, least=1e-3, most=1e6)


def read_layer_types(reader: FieldReader, dimensions: Dimensions, every: int) -> list[str]:
    """`full_attention` or `sliding_attention`, a layer; unless it is said, one of `every` layers sees everything."""
    count = dimensions.num_hidden_layers
    types = reader.get("layer_types")
    if types is None:
        return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(count)]
    known = isinstance(types, list) and all(kind in ("full_attention", "sliding_attention") for kind in types)
    if not known or len(types) != count:
        reader.refuse("layer_types", f"{count} of 'full_attention' and 'sliding_attention'")
    return list(types)


def with_defaults(
    raw: Mapping[str, Any], defaults: Mapping[str, Any], nullable: Collection[str] = ()
) -> dict[str, Any]:
    """The fields, absent ones as `defaults` say; a null field counts as absent unless it is `nullable`."""
    return {**defaults, **{name: value for name, value in raw.items() if value is not None or name in nullable}}


def require_full_attention(reader: FieldReader, dimensions: Dimensions) -> None:
    """Sliding windows can be switched on for some layers; none of the published checkpoints of these families does."""
    reader.require("use_sliding_window", False, remedy="compile a checkpoint without sliding windows")
    reader.require("layer_types", ["full_attention"] * dimensions.num_hidden_layers)
    for name in ("sliding_window", "max_window_layers"):
        reader.get(name)


def read_dimensions(reader: FieldReader, context: int, *, stretched: bool = False) -> Dimensions:
    """The shared sizes, each in a range the kernels handle, with a context that the checkpoint was trained for.

    `stretched`: the stated positions are those after the rotary embedding was stretched, not before.
    """
    hidden_size = reader.integer("hidden_size", multiple_of=8)
    heads = reader.integer("num_attention_heads", maximum=1024)
    key_value_heads = reader.integer("num_key_value_heads", default=heads, maximum=1024)
    if heads % key_value_heads:
        reader.refuse("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if reader.get("head_dim") is None and hidden_size % heads:
        reader.refuse("num_attention_heads", f"a divisor of hidden_size ({hidden_size})")
    head_dim = reader.integer("head_dim", default=hidden_size // heads, maximum=2**24)
    if head_dim % 8 or head_dim > 256:
        raise WispError(
            "the head dimension is not supported",
            got=head_dim,
            expected="a multiple of 8 up to 256",
            remedy="compile a checkpoint with other head sizes",
        )
    max_position = reader.integer("max_position_embeddings")
    longest = max_position if stretched else longest_context(reader, max_position)
    if context > longest:
        stated = "max_position_embeddings" + ("" if longest == max_position else ", times the factor of the rope")
        raise WispError(
            "the context is longer than the checkpoint was trained for",
            got=context,
            expected=f"at most {longest} ({stated})",
            remedy=f"use --context {longest}",
        )
    return Dimensions(
        hidden_size=hidden_size,
        intermediate_size=reader.integer("intermediate_size", multiple_of=8),
        num_hidden_layers=reader.integer("num_hidden_layers", maximum=1024),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        vocab_size=reader.integer("vocab_size"),
        max_position_embeddings=max_position,
    )
