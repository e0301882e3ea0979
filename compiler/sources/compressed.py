"""compressed-tensors, `pack-quantized`: 4 or 8 bits a weight with a scale a group, as LLM Compressor writes them.

Reference: `pack_quantized.py` of compressed-tensors. A matrix [out, in] is `weight_packed` int32 [out, in * bits / 32]
with elements along `in`, lowest bits first; `weight_scale` [out, in / group]; where it is not symmetric
`weight_zero_point` int32 [out * bits / 32, in / group], packed along `out`; `weight_shape`; `weight_g_idx` int32 [in].
Elements are stored with 2^(bits - 1) added, zero points too: the value is `(q - zero) * scale`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import WispError
from ..models.fields import FieldReader
from ..weights.kept import Groups, Steps
from .packed import Parts, group_size_of, unpacked

BITS = (4, 8)
WHERE = "config.json quantization_config"
REMEDY = "compile the checkpoint that it was made from"
# What is not about the weights' values, or says what `weights` says again.
INERT = frozenset(("ignore", "quantization_status", "global_compression_ratio", "version", "transform_config"))
INERT_WEIGHTS = frozenset(("observer", "observer_kwargs", "block_structure", "scale_dtype", "zp_dtype"))


@dataclass(frozen=True)
class Compressed:
    """The format with its numbers."""

    bits: int
    group_size: int  # 0: a whole row
    symmetric: bool
    ordered: bool  # columns are, whatever `weight_g_idx` may say
    name: str = "compressed-tensors"
    row_axis: int = 0
    scales: str = "weight_scale"
    ignored: tuple[str, ...] = ("weight_shape", "weight_g_idx")
    index: str = "weight_g_idx"

    @property
    def packed(self) -> int:
        """Elements of a word."""
        return 32 // self.bits

    @property
    def suffixes(self) -> Mapping[str, int]:
        zeros = {} if self.symmetric else {"weight_zero_point": self.packed}
        return {"weight_packed": 1, "weight_scale": 1, **zeros}

    def shape(self, words: tuple[int, ...]) -> tuple[int, int]:
        return words[0], words[1] * self.packed

    def shapes(self, rows: int, columns: int) -> Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        groups = -(-columns // (self.group_size or columns))
        found: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
            "weight_packed": (("I32",), (rows, columns // self.packed)),
            "weight_scale": (("F16", "BF16", "F32"), (rows, groups)),
        }
        zeros = {"weight_zero_point": (("I32",), (-(-rows // self.packed), groups))}
        return found if self.symmetric else found | zeros

    def steps(self, columns: int, scales: str) -> Steps:
        half, exact = 2 ** (self.bits - 1), scales == "F16"
        size = self.group_size or columns
        if self.symmetric:
            return Steps(self.name, -half, half - 1, size, bias=False, exact=exact)
        return Steps(self.name, 0, 2 * half - 1, size, bias=True, exact=exact, zeros=True)

    def decode(self, parts: Parts) -> Groups:
        q, scale = unpacked(parts["weight_packed"], self.bits), parts["weight_scale"].astype(np.float32)
        if self.symmetric:
            return Groups((q.astype(np.int16) - 2 ** (self.bits - 1)).astype(np.int8), scale, None)
        zeros = unpacked(parts["weight_zero_point"].T, self.bits).T[: len(scale)]
        return Groups.with_zeros(q, scale, zeros)

    def check(self, stem: str, shape: tuple[int, int], ignored: Parts) -> None:
        """Refuses a matrix whose rows were padded."""
        stated = ignored.get("weight_shape")
        if stated is not None and stated.tolist() != list(shape):
            raise WispError(
                f"the shape of {stem} is not that of its words",
                got=stated.tolist(),
                expected=list(shape),
                remedy=REMEDY,
            )


def read_config(fields: Mapping[str, Any]) -> Compressed:
    """The format that `quantization_config` describes. Raises WispError for what is not supported."""
    reader = FieldReader(fields, WHERE, INERT, {}, prefix=None)
    reader.require("quant_method", "compressed-tensors")
    reader.require("format", "pack-quantized", remedy=REMEDY)
    for name in ("kv_cache_scheme", "sparsity_config"):
        if reader.get(name):
            reader.refuse(name, "nothing", REMEDY)
    groups = reader.mapping("config_groups") or {}
    if len(groups) != 1:
        reader.refuse("config_groups", "one group, of all linear layers", REMEDY)
    reader.finish()
    ((name, group),) = groups.items()
    stated = group if isinstance(group, Mapping) else {}
    of_group = FieldReader(stated, f"{WHERE} {name}", frozenset(("targets",)), {}, prefix=None)
    for activations in ("input_activations", "output_activations"):
        if of_group.get(activations):
            of_group.refuse(activations, "weights alone to be quantized", REMEDY)
    of_group.require("format", "pack-quantized", remedy=REMEDY)
    weights = of_group.mapping("weights") or {}
    of_group.finish()
    return _read_weights(FieldReader(weights, f"{WHERE} {name}.weights", INERT_WEIGHTS, {}, prefix=None))


def _read_weights(reader: FieldReader) -> Compressed:
    bits = reader.get("num_bits")
    if isinstance(bits, bool) or bits not in BITS:
        reader.refuse("num_bits", " or ".join(map(str, BITS)), REMEDY)
    reader.require("type", "int", remedy=REMEDY)
    reader.require("dynamic", False, remedy=REMEDY)
    reader.require("strategy", "group", "channel", remedy=REMEDY)
    whole = reader.get("strategy") == "channel"
    size = 0 if whole and reader.get("group_size") is None else group_size_of(reader)
    # `weight` and `static` choose in another order and leave the columns where they are.
    ordered = reader.get("actorder") in (None, False, "weight", "static")
    form = Compressed(bits, size, reader.boolean("symmetric", default=True), ordered)
    reader.finish()
    return form
