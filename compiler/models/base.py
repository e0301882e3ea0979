"""What every architecture states about itself: its numbers, its rotary frequencies and its weights.

Knows Hugging Face's `config.json` fields and the rotary embedding formulas; knows nothing of a particular architecture,
of quantization or of kernels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from compiler.errors import WispError

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


# Fields of config.json that change training, generation or bookkeeping, never the network that is compiled.
INERT_FIELDS = frozenset(
    (
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "sep_token_id",
        "dtype",
        "torch_dtype",
        "initializer_range",
        "is_llama_config",
        "model_type",
        "name_or_path",
        "problem_type",
        "pretraining_tp",
        "return_dict",
        "id2label",
        "label2id",
        "task_specific_params",
        "tokenizer_class",
        "torchscript",
        "transformers_version",
        "unsloth_version",
        "unsloth_fixed",
        "use_cache",
        "embd_pdrop",
        "resid_pdrop",
        "hidden_dropout",
        "use_return_dict",
        "transformers.js_config",
        "generation_config",
        "prefix",
        "chunk_size_feed_forward",
        "finetuning_task",
        "language_model_only",
    )
)


class FieldReader:
    """Reads the fields of a `config.json` object by name and, at the end, refuses every field nobody asked for.

    A null field counts as absent. `finish` lets pass what is inert or empty (null, false, 0, "", [], {}).
    """

    def __init__(self, fields: Mapping[str, Any], where: str = "config.json", inert: frozenset[str] = INERT_FIELDS):
        self._fields, self._where, self._inert = fields, where, inert
        self._read: set[str] = set()

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._fields.get(name)

    def refuse(self, name: str, expected: str, remedy: str | None = None) -> NoReturn:
        got = self._fields.get(name)
        shown = "nothing" if got is None else repr(got)
        raise WispError(f"{self._where} field '{name}' is not supported", got=shown, expected=expected, remedy=remedy)

    def integer(self, name: str, default: int | None = None, multiple_of: int = 1, maximum: int = 2**24) -> int:
        """A positive integer; without a default it has to be there."""
        value = self.get(name)
        if value is None and default is not None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= maximum or value % multiple_of:
            kind = "a positive integer" if multiple_of == 1 else f"a positive multiple of {multiple_of}"
            self.refuse(name, f"{kind} up to {maximum}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive finite number; without a default it has to be there."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            self.refuse(name, "a positive number")
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

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        """A list of exactly `length` positive finite numbers."""
        value = self.get(name)
        if not isinstance(value, list) or len(value) != length:
            self.refuse(name, f"a list of {length} numbers")
        if any(isinstance(v, bool) or not isinstance(v, int | float) or not 0 < v < math.inf for v in value):
            self.refuse(name, f"a list of {length} positive numbers")
        return tuple(float(v) for v in value)

    def require(self, name: str, *supported: Any, remedy: str | None = None) -> None:
        """An optional field whose value has to be one of `supported`; the first is what absence means."""
        value = self.get(name)
        if value is not None and (value not in supported or isinstance(value, bool) != isinstance(supported[0], bool)):
            self.refuse(name, " or ".join(repr(s) for s in supported), remedy)

    def finish(self) -> None:
        if self._fields.get("quantization_config"):
            self.refuse(
                "quantization_config",
                "an unquantized checkpoint",
                "compile the bfloat16, float16 or float32 checkpoint it was made from",
            )
        for name, value in self._fields.items():
            if value and name not in self._read and name not in self._inert and not name.startswith("_"):
                self.refuse(
                    name,
                    "no such field",
                    "it may change the network; if it does not, remove it from the configuration",
                )


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
            reader.refuse(name, f"{fields[name]!r}, as in {where}")
    kinds = {fields[name] for name in ("rope_type", "type") if isinstance(fields.get(name), str)}
    if len(kinds) > 1:
        raise WispError(f"{where} names two types", got=" and ".join(sorted(kinds)), expected="one")
    inner = FieldReader(fields, where, frozenset({"rope_type", "type"}))
    return (kinds.pop() if kinds else "default"), inner


def refuse_rope_type(kind: str, supported: Sequence[str]) -> NoReturn:
    raise WispError(
        "config.json rope type is not supported",
        got=repr(kind),
        expected=" or ".join(repr(s) for s in supported),
        remedy="compile a checkpoint that uses one of these",
    )


def default_inv_freq(rotary_dim: int, theta: float) -> tuple[float, ...]:
    """`theta^(-2i / rotary_dim)` for i in 0..rotary_dim/2 (RoFormer, arXiv 2104.09864)."""
    return tuple(theta ** (-i / rotary_dim) for i in range(0, rotary_dim, 2))
