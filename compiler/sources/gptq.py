"""GPTQ: 4 or 8 bits a weight, a float16 scale and a zero for a group of a column, as AutoGPTQ and GPTQModel write them.

Reference: `qlinear` modules of AutoGPTQ. A matrix [out, in] lies transposed: `qweight` int32 [in * bits / 32, out] with
elements along `in`, lowest bits first; `qzeros` int32 [in / group, out * bits / 32]; `scales` float16 [in / group,
out]; `g_idx` int32 [in], the group of each column. An element is `(q - zero) * scale`; version 1 stores zero - 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.fields import FieldReader
from ..weights.kept import Groups, Steps
from .packed import INERT_FIELDS, Parts, group_size_of, unpacked

VERSIONS = {"gptq": 1, "gptq_v2": 0}  # what is missing of a stored zero
BITS = (4, 8)


@dataclass(frozen=True)
class Gptq:
    """The format with its numbers."""

    bits: int
    group_size: int  # 0: a whole row
    missing: int  # of a stored zero
    name: str = "GPTQ"
    row_axis: int = 1
    ordered: bool = True  # `g_idx` need not say so
    scales: str = "scales"
    ignored: tuple[str, ...] = ("g_idx",)
    index: str = "g_idx"

    @property
    def packed(self) -> int:
        """Elements of a word."""
        return 32 // self.bits

    @property
    def suffixes(self) -> Mapping[str, int]:
        return {"qweight": 1, "qzeros": self.packed, "scales": 1}

    def shape(self, words: tuple[int, ...]) -> tuple[int, int]:
        return words[1], words[0] * self.packed

    def shapes(self, rows: int, columns: int) -> Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        groups = -(-columns // (self.group_size or columns))
        return {"qzeros": (("I32",), (groups, -(-rows // self.packed))), "scales": (("F16", "BF16"), (groups, rows))}

    def steps(self, columns: int, scales: str) -> Steps:
        most, exact = 2**self.bits - 1, scales == "F16"
        return Steps(self.name, 0, most, self.group_size or columns, bias=True, exact=exact, zeros=True)

    def decode(self, parts: Parts) -> Groups:
        # (words, out) -> (out, in): a word's elements follow each other along `in`.
        q = unpacked(parts["qweight"].T, self.bits)
        scale = parts["scales"].T.astype(np.float32)
        zeros = unpacked(parts["qzeros"], self.bits).T[: len(scale)].astype(np.float32) + self.missing
        return Groups.with_zeros(q, scale, zeros)

    def check(self, stem: str, shape: tuple[int, int], ignored: Parts) -> None:
        """What `g_idx` says is the checkpoint's to read."""


def read_config(fields: Mapping[str, Any]) -> Gptq:
    """The format that `quantization_config` describes. Raises WispError for what is not supported."""
    reader = FieldReader(fields, "config.json quantization_config", INERT_FIELDS, {}, prefix=None)
    reader.require("quant_method", "gptq")
    bits = reader.get("bits")
    if isinstance(bits, bool) or bits not in BITS:
        reader.refuse("bits", " or ".join(map(str, BITS)), "quantize it to 4 bits, or compile the original checkpoint")
    version = reader.get("checkpoint_format") or "gptq"
    if not isinstance(version, str) or version not in VERSIONS:
        reader.refuse("checkpoint_format", " or ".join(VERSIONS), "save it as gptq or gptq_v2")
    # Where the columns do lie in order for all that, `g_idx` says so; the flag alone says little.
    ordered = not reader.boolean("desc_act", default=False)
    for name in ("sym", "static_groups", "act_group_aware"):
        reader.boolean(name, default=False)
    reader.require("is_marlin_format", False, remedy="save it as gptq or gptq_v2")
    form = Gptq(bits, group_size_of(reader), VERSIONS[version], ordered=ordered)
    reader.finish()
    return form
