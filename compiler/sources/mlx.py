"""MLX: 4 or 8 bits a weight, a scale and a bias for a group, as `mlx_lm.convert -q` writes them.

Reference: `mlx.core.quantize`. A matrix [out, in] is `weight` uint32 [out, in * bits / 32] with elements along `in`,
lowest bits first, `scales` and `biases` [out, in / group] in float16, bfloat16 or float32. An element is
`q * scale + bias`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.fields import FieldReader
from ..weights.kept import Groups, Steps
from .packed import Parts, group_size_of, unpacked

BITS = (4, 8)
FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Mlx:
    """The format with its numbers."""

    bits: int
    group_size: int
    name: str = "MLX"
    row_axis: int = 0
    scales: str = "scales"
    ignored: tuple[str, ...] = ()
    index: str = ""
    ordered: bool = True

    @property
    def suffixes(self) -> Mapping[str, int]:
        return {"weight": 1, "scales": 1, "biases": 1}

    def shape(self, words: tuple[int, ...]) -> tuple[int, int]:
        return words[0], words[1] * 32 // self.bits

    def shapes(self, rows: int, columns: int) -> Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        factors = (FLOATS, (rows, -(-columns // self.group_size)))
        words = (("U32",), (rows, columns * self.bits // 32))
        return {"weight": words, "scales": factors, "biases": factors}

    def steps(self, columns: int, scales: str) -> Steps:
        return Steps(self.name, 0, 2**self.bits - 1, self.group_size, bias=True, exact=scales == "F16")

    def decode(self, parts: Parts) -> Groups:
        scale, bias = (parts[name].astype(np.float32) for name in ("scales", "biases"))
        return Groups(unpacked(parts["weight"], self.bits), scale, bias)

    def check(self, stem: str, shape: tuple[int, int], ignored: Parts) -> None:
        """Every matrix of the format can be kept."""


def read_config(fields: Mapping[str, Any]) -> Mlx:
    """The format that `quantization` describes. Raises WispError for what is not supported."""
    reader = FieldReader(fields, "config.json quantization", frozenset(), {}, prefix=None)
    bits = reader.get("bits")
    if isinstance(bits, bool) or bits not in BITS:
        reader.refuse("bits", " or ".join(map(str, BITS)), "convert it with -q --q-bits 4, or compile the original")
    reader.require("mode", "affine", remedy="convert it with --q-mode affine, or compile the original checkpoint")
    form = Mlx(bits, group_size_of(reader))
    reader.finish()
    return form
