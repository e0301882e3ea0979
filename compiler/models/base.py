"""What every architecture states about itself: its numbers, its rotary frequencies and its weights.

Knows Hugging Face's `config.json` fields and the rotary embedding formulas; knows nothing of a particular architecture,
of quantization or of kernels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from compiler.errors import WispError
from compiler.models.inert import INERT_FIELDS, NEUTRAL_FIELDS, is_one_of

Role = Literal[
    "embedding",
    "input_norm",
    "input_norm_bias",
    "qkv",
    "qkv_bias",
    "query_norm",
    "key_norm",
    "attention_output",
    "attention_output_bias",
    "post_attention_norm",
    "gate_up",
    "gate_up_bias",
    "up",
    "up_bias",
    "down",
    "down_bias",
    "final_norm",
    "final_norm_bias",
    "lm_head",
    "lm_head_bias",
]


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of one network, complete and valid for the context that it is compiled for.

    `rope_inv_freq` holds `rotary_dim / 2` frequencies (radians per position); cosines and sines are multiplied by
    `rope_attention_scaling`. With a `sliding_window` a token attends to that many, itself included.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    norm_eps: float
    rotary_dim: int
    rope_inv_freq: tuple[float, ...]
    rope_attention_scaling: float
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool  # of the attention's output projection
    mlp_bias: bool
    head_norms: bool  # each query and key head has an RMS norm before the rotation
    max_position_embeddings: int
    sliding_window: int | None

    @property
    def qkv_size(self) -> int:
        """Rows of the fused query, key and value projection."""
        return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim


@dataclass(frozen=True)
class WeightSpec:
    """One weight of the network and where the checkpoint keeps it.

    `name` is MLC's: without a suffix for a matrix (the scheme adds `.q_weight` and so on), in full for a vector.
    `sources` are checkpoint tensors, concatenated along axis 0.
    """

    name: str
    kind: Literal["matrix", "vector"]
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    source_rows: tuple[int, ...]
    role: Role
    layer: int | None


# Rows [start, stop) of a weight in float32.
ReadRows = Callable[[WeightSpec, int, int], NDArray[np.float32]]


def matrix(name: str, columns: int, sources: Mapping[str, int], role: Role, layer: int | None = None) -> WeightSpec:
    """A `[sum of the sources' rows, columns]` matrix; `sources` maps checkpoint names to their rows."""
    rows = tuple(sources.values())
    return WeightSpec(name, "matrix", (sum(rows), columns), tuple(sources), rows, role, layer)


def vector(name: str, size: int, source: str, role: Role, layer: int | None = None) -> WeightSpec:
    """A `[size]` vector."""
    return WeightSpec(name, "vector", (size,), (source,), (size,), role, layer)


def bias(name: str, sources: Mapping[str, int], role: Role, layer: int | None = None) -> WeightSpec:
    """The biases of a matrix's rows, of as many checkpoint tensors as the matrix."""
    rows = tuple(sources.values())
    return WeightSpec(name, "vector", (sum(rows),), tuple(sources), rows, role, layer)


# What float32 holds with room for the products of a network.
LEAST_NUMBER, MOST_NUMBER = 1e-20, 1e20
LARGEST_INTEGER = 2**24


class UnknownField(WispError):
    """A field that no architecture reads and that is not known to be inert; `path` is what `--ignore-field` takes."""

    def __init__(self, where: str, name: str, value: Any, path: str | None) -> None:
        remedy = "it may change the network; if it does not, "
        remedy += "remove it" if path is None else f"compile with --ignore-field {path}"
        got = shortened(value)
        super().__init__(f"{where} field '{name}' is not supported", got=got, expected="no such field", remedy=remedy)
        self.path = path


def shortened(value: Any) -> str:
    """A value of a checkpoint as an error shows it."""
    try:
        shown = repr(value)
    except ValueError:  # of more digits than Python writes
        return f"a {type(value).__name__} too long to show"
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


class FieldReader:
    """Reads the fields of a `config.json` object by name and, at the end, refuses every field nobody asked for.

    A null field counts as absent. `finish` lets pass what is inert, or neutral with the value that it has. `prefix` is
    what `--ignore-field` wants before a name; None where it has no say.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        where: str = "config.json",
        inert: frozenset[str] = INERT_FIELDS,
        neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL_FIELDS,
        prefix: str | None = "",
    ) -> None:
        self._fields, self._where, self._inert, self._neutral = fields, where, inert, neutral
        self._prefix = prefix
        self._read: set[str] = set()

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._fields.get(name)

    def refuse(self, name: str, expected: str, remedy: str | None = None) -> NoReturn:
        got = self._fields.get(name)
        shown = "nothing" if got is None else shortened(got)
        raise WispError(f"{self._where} field '{name}' is not supported", got=shown, expected=expected, remedy=remedy)

    def integer(
        self,
        name: str,
        default: int | None = None,
        multiple_of: int = 1,
        maximum: int = LARGEST_INTEGER,
        minimum: int = 1,
    ) -> int:
        """A positive integer; without a default it has to be there."""
        value = self.get(name)
        if value is None and default is not None:
            value = default
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not minimum <= value <= maximum or value % multiple_of:
            kind = "a positive integer" if multiple_of == 1 else f"a positive multiple of {multiple_of}"
            self.refuse(name, f"{kind} " + (f"up to {maximum}" if minimum == 1 else f"from {minimum} to {maximum}"))
        return value

    def number(
        self, name: str, default: float | None = None, least: float = LEAST_NUMBER, most: float = MOST_NUMBER
    ) -> float:
        """A number within bounds that keep what is computed of it finite; without a default it has to be there."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not _is_number(value, least, most):
            self.refuse(name, f"a number from {least:g} to {most:g}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        value = self.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(name, "an object")
        return value

    def numbers(
        self, name: str, length: int, least: float = LEAST_NUMBER, most: float = MOST_NUMBER
    ) -> tuple[float, ...]:
        """A list of exactly `length` numbers within bounds."""
        value = self.get(name)
        if not isinstance(value, list) or len(value) != length:
            self.refuse(name, f"a list of {length} numbers")
        if not all(_is_number(v, least, most) for v in value):
            self.refuse(name, f"a list of {length} numbers from {least:g} to {most:g}")
        return tuple(float(v) for v in value)

    def require(self, name: str, *supported: Any, remedy: str | None = None) -> None:
        """An optional field whose value has to be one of `supported`; the first is what absence means."""
        value = self.get(name)
        if value is not None and not is_one_of(value, supported):
            self.refuse(name, " or ".join(shortened(s) for s in supported), remedy)

    def finish(self) -> None:
        if self._fields.get("quantization_config"):
            self.refuse(
                "quantization_config",
                "an unquantized checkpoint",
                "compile the bfloat16, float16 or float32 checkpoint it was made from",
            )
        for name, value in self._fields.items():
            known = name in self._read or name in self._inert or name.startswith("_")
            if not known and value is not None and not is_one_of(value, self._neutral.get(name, ())):
                path = None if self._prefix is None else self._prefix + name
                raise UnknownField(self._where, name, value, path)


def _is_number(value: Any, least: float, most: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and least <= value <= most


def require_swiglu(reader: FieldReader) -> None:
    """The activation of the gated networks, under both names that it goes by."""
    reader.require("hidden_act", "silu", remedy="only SwiGLU networks can be compiled")
    reader.require("activation", "swiglu", "silu", remedy="only SwiGLU networks can be compiled")


def read_norm_eps(reader: FieldReader, name: str, default: float) -> float:
    """What is added to the mean of the squares under a norm's root."""
    return reader.number(name, default=default, most=1.0)


@dataclass(frozen=True)
class Dimensions:
    """The sizes that every supported architecture shares."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int


def read_dimensions(reader: FieldReader, context: int) -> Dimensions:
    """The shared sizes, each in a range the kernels handle, with a context that the checkpoint was trained for."""
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
    if context > max_position:
        raise WispError(
            "the context is longer than the checkpoint was trained for",
            got=context,
            expected=f"at most {max_position} (max_position_embeddings)",
            remedy=f"use --context {max_position}",
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
    prefix = where.removeprefix("config.json ") + "."
    inner = FieldReader(fields, where, frozenset({"rope_type", "type"}), {}, prefix)
    for name in ("rope_type", "type"):
        if not isinstance(inner.get(name), str | None):
            inner.refuse(name, "a name")
    kinds = {fields[name] for name in ("rope_type", "type") if fields.get(name) is not None}
    if len(kinds) > 1:
        raise WispError(f"{where} names two types", got=" and ".join(sorted(kinds)), expected="one")
    return (kinds.pop() if kinds else "default"), inner


def refuse_rope_type(kind: str, supported: Sequence[str]) -> NoReturn:
    raise WispError(
        "config.json rope type is not supported",
        got=shortened(kind),
        expected=" or ".join(repr(s) for s in supported),
        remedy="compile a checkpoint that uses one of these",
    )


# How far a frequency may be stretched: published factors are between 1 and 200.
LEAST_FACTOR, MOST_FACTOR = 1e-3, 1e6


def read_theta(rope: FieldReader) -> float:
    """The base of the frequencies; none of them turns more than a radian a position."""
    return rope.number("rope_theta", default=10000.0, least=1.0)


def read_rotary_dim(rope: FieldReader, head_dim: int, default: float) -> int:
    """How many dimensions of a head are rotated, by `partial_rotary_factor`."""
    rotary_dim = int(head_dim * rope.number("partial_rotary_factor", default=default, most=1.0))
    if rotary_dim == 0 or rotary_dim % 2:
        rope.refuse("partial_rotary_factor", f"an even part of the head dimension ({head_dim})")
    return rotary_dim


def default_inv_freq(rotary_dim: int, theta: float) -> tuple[float, ...]:
    """`theta^(-2i / rotary_dim)` for i in 0..rotary_dim/2 (RoFormer, arXiv 2104.09864)."""
    return tuple(theta ** (-i / rotary_dim) for i in range(0, rotary_dim, 2))
