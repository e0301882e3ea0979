"""Rotary embeddings as `config.json` states them: frequencies by every rule that published checkpoints use.

Reference: `transformers/modeling_rope_utils.py`, whose function of each rule is named where it is computed here.
"""

import math
from collections.abc import Sequence
from typing import NoReturn

from ..errors import WispError
from .base import Dimensions, Rope
from .fields import FieldReader, shortened

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "su")
# Rules that hold for contexts of `factor` times the one that the checkpoint states.
STRETCHING = ("linear", "dynamic", "yarn")
ORIGINAL = "original_max_position_embeddings"

# How far a frequency may be stretched: published factors are between 1 and 200.
LEAST_FACTOR, MOST_FACTOR = 1e-3, 1e6


def read_rope(
    reader: FieldReader,
    dimensions: Dimensions,
    context: int,
    *,
    theta: float = 10000.0,
    fraction: float | None = None,
    original: int | None = None,
    kinds: Sequence[str] = ROPE_TYPES,
) -> Rope:
    """The rotary embedding of sequences of up to `context` tokens; the context may choose among frequencies.

    `theta` is what an absent `rope_theta` means, `fraction` an absent `partial_rotary_factor` (None: heads are rotated
    whole), `original` an absent `original_max_position_embeddings` beside the rotary fields (None: there is none).
    `kinds` are the types that the architecture knows.
    """
    kind, rope = rope_fields(reader)
    if kind not in kinds:
        _refuse_kind(kind, kinds)
    beside = None
    if original is not None:  # where it is stated twice, this one wins, as in transformers
        original = reader.integer(ORIGINAL, default=original, minimum=2)
        beside = None if reader.get(ORIGINAL) is None else original
    if kind not in ("longrope", "su"):
        if original is not None and kind == "default":
            rope.require(ORIGINAL, original)
        return rope_of(kind, rope, dimensions, context, theta=theta, fraction=fraction)
    rotary_dim, theta = _read_turning(rope, dimensions, theta, fraction)
    longest = dimensions.max_position_embeddings
    inner = rope.integer(ORIGINAL, default=original or longest, minimum=2)  # a logarithm is divided by
    found = _longrope(rope, default_inv_freq(rotary_dim, theta), context, longest, beside or inner)
    rope.finish()
    return found


def rope_of(
    kind: str,
    rope: FieldReader,
    dimensions: Dimensions,
    context: int,
    *,
    theta: float = 10000.0,
    fraction: float | None = None,
) -> Rope:
    """The rotary embedding of type `kind`, any but LongRoPE's, with the fields of `rope`."""
    rotary_dim, theta = _read_turning(rope, dimensions, theta, fraction)
    inv_freq, longest = default_inv_freq(rotary_dim, theta), dimensions.max_position_embeddings
    match kind:
        case "default":
            found = Rope(inv_freq)
        case "linear":
            factor = _factor(rope, "factor")
            found = Rope(tuple(f / factor for f in inv_freq))
        case "dynamic":
            found = Rope(_dynamic(rope, rotary_dim, theta, context / longest))
        case "llama3":
            found = Rope(_llama3(rope, inv_freq, longest))
        case "yarn":
            found = _yarn(rope, inv_freq, theta, longest)
        case _:
            _refuse_kind(kind, ROPE_TYPES)
    rope.finish()
    return found


def _refuse_kind(kind: str, supported: Sequence[str]) -> NoReturn:
    raise WispError(
        "config.json rope type is not supported",
        got=shortened(kind),
        expected=" or ".join(repr(s) for s in supported),
        remedy="compile a checkpoint that uses one of these",
    )


def _read_turning(rope: FieldReader, dimensions: Dimensions, theta: float, fraction: float | None) -> tuple[int, float]:
    """Rotated dimensions of a head, and theta, which turns none of them more than a radian a position."""
    rotary_dim = dimensions.head_dim
    if fraction is None:
        rope.require("partial_rotary_factor", 1.0, 1)
    else:
        rotary_dim = read_rotary_dim(rope, dimensions.head_dim, fraction)
    return rotary_dim, rope.number("rope_theta", default=theta, least=1.0)


def longest_context(reader: FieldReader, stated: int) -> int:
    """How many tokens the rotary embedding reaches, of a checkpoint that states `stated`."""
    kind, rope = rope_fields(reader)
    if kind not in STRETCHING or rope.get("factor") is None:
        return stated
    original = rope.integer(ORIGINAL, default=stated) if kind == "yarn" else stated
    return max(stated, int(original * _factor(rope, "factor")))


def rope_fields(reader: FieldReader) -> tuple[str, FieldReader]:
    """The rotary type and a reader of its fields, from `rope_parameters` (new) or `rope_theta` and `rope_scaling`."""
    new, old = reader.mapping("rope_parameters"), reader.mapping("rope_scaling")
    if new is not None and old is not None and new != old:
        reader.refuse("rope_scaling", "rope_parameters or rope_scaling, not both")
    where = "config.json rope_scaling" if new is None and old is not None else "config.json rope_parameters"
    fields = dict(new or old or {})
    for name in ("rope_theta", "partial_rotary_factor"):
        outer = reader.get(name)
        if fields.get(name) is None:
            fields[name] = outer
        elif outer is not None and outer != fields[name]:
            reader.refuse(name, f"{shortened(fields[name])}, as in {where}")
    return typed_fields(fields, where)


def typed_fields(fields: dict[str, object], where: str) -> tuple[str, FieldReader]:
    """The rotary type of an object, and a reader of its other fields."""
    inner = FieldReader(fields, where, frozenset({"rope_type", "type"}), {}, where.removeprefix("config.json ") + ".")
    for name in ("rope_type", "type"):
        if not isinstance(inner.get(name), str | None):
            inner.refuse(name, "a name")
    kinds = {str(fields[name]) for name in ("rope_type", "type") if fields.get(name) is not None}
    if len(kinds) > 1:
        raise WispError(f"{where} names two types", got=" and ".join(sorted(kinds)), expected="one")
    return (kinds.pop() if kinds else "default"), inner


def read_rotary_dim(rope: FieldReader, head_dim: int, default: float) -> int:
    """How many dimensions of a head are rotated, by `partial_rotary_factor`."""
    rotary_dim = int(head_dim * rope.number("partial_rotary_factor", default=default, most=1.0))
    if rotary_dim == 0 or rotary_dim % 2:
        rope.refuse("partial_rotary_factor", f"an even part of the head dimension ({head_dim})")
    return rotary_dim


def default_inv_freq(rotary_dim: int, theta: float) -> tuple[float, ...]:
    """`theta^(-2i / rotary_dim)` for i in 0..rotary_dim/2 (RoFormer, arXiv 2104.09864)."""
    return tuple(theta ** (-i / rotary_dim) for i in range(0, rotary_dim, 2))


def _factor(rope: FieldReader, name: str, default: float | None = None) -> float:
    return rope.number(name, default=default, least=LEAST_FACTOR, most=MOST_FACTOR)


def _dynamic(rope: FieldReader, rotary_dim: int, theta: float, reach: float) -> tuple[float, ...]:
    """A larger theta for contexts beyond the stated one, by their ratio (`_compute_dynamic_ntk_parameters`).

    transformers recomputes it as a sequence grows; here the context decides, once and for every position.
    """
    factor = _factor(rope, "factor")
    if reach <= 1:
        return default_inv_freq(rotary_dim, theta)
    if rotary_dim <= 2:
        rope.refuse("rope_type", "another type for heads that rotate two dimensions")
    stretched = theta * (factor * reach - (factor - 1)) ** (rotary_dim / (rotary_dim - 2))
    return default_inv_freq(rotary_dim, stretched)


def _llama3(rope: FieldReader, inv_freq: tuple[float, ...], longest: int) -> tuple[float, ...]:
    """Stretches long wavelengths by `factor`, keeps short ones, ramps between them (`_compute_llama3_parameters`)."""
    factor, low, high = (_factor(rope, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    original = rope.integer(ORIGINAL, default=longest)
    if high <= low:
        rope.refuse("high_freq_factor", f"more than low_freq_factor ({low:g})")

    def scaled(frequency: float) -> float:
        turns = original * frequency / (2 * math.pi)  # full turns within the original context
        if turns > high:
            return frequency
        if turns < low:
            return frequency / factor
        smooth = (turns - low) / (high - low)
        return (1 - smooth) * frequency / factor + smooth * frequency

    return tuple(scaled(f) for f in inv_freq)


def _yarn(rope: FieldReader, inv_freq: tuple[float, ...], theta: float, longest: int) -> Rope:
    """A ramp over the frequencies, and larger cosines and sines (arXiv 2309.00071; `_compute_yarn_parameters`)."""
    original = rope.integer(ORIGINAL, default=longest)
    factor = _factor(rope, "factor", default=longest / original)
    fast, slow = _factor(rope, "beta_fast", default=32.0), _factor(rope, "beta_slow", default=1.0)
    if theta <= 1:  # its logarithm is divided by
        rope.refuse("rope_theta", "more than 1")
    dim = 2 * len(inv_freq)

    def turning(rotations: float) -> float:
        """The dimension that turns so often within the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = turning(fast), turning(slow)
    if rope.boolean("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    ramps = [min(max((i - low) / width, 0.0), 1.0) for i in range(len(inv_freq))]
    scaled = tuple(f / factor * r + f * (1 - r) for f, r in zip(inv_freq, ramps, strict=True))
    scale, whole = (0.0 if rope.get(n) is None else _factor(rope, n) for n in ("mscale", "mscale_all_dim"))

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    usual = mscale(scale) / mscale(whole) if scale and whole else mscale(1.0)
    scaling = rope.number("attention_factor", default=usual, least=LEAST_FACTOR, most=1 / LEAST_FACTOR)
    # As in YaRN's own code, in vLLM and in llama.cpp; DeepSeek-R1-0528-Qwen3-8B takes `usual` back with it.
    # transformers passes over it, so its cosines and sines are larger there.
    return Rope(scaled, scaling * _factor(rope, "attn_factor", default=1.0))


def _longrope(rope: FieldReader, inv_freq: tuple[float, ...], context: int, longest: int, original: int) -> Rope:
    """Divisors of the frequencies, others for long contexts (arXiv 2402.13753; `_compute_longrope_parameters`)."""
    factors = {
        name: rope.numbers(name, len(inv_freq), LEAST_FACTOR, MOST_FACTOR) for name in ("short_factor", "long_factor")
    }
    chosen = factors["long_factor" if context > original else "short_factor"]
    stretch = _factor(rope, "factor", default=longest / original)
    usual = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    scaling = rope.number("attention_factor", default=usual, least=LEAST_FACTOR, most=1 / LEAST_FACTOR)
    return Rope(tuple(f / c for f, c in zip(inv_freq, chosen, strict=True)), scaling)
