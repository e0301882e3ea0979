"""AWQ: 4 bits a weight, a float16 scale and a 4-bit zero a group, in the order that AutoAWQ's `gemm` kernels want.

Reference: `awq/utils/packing_utils.py` and `awq/modules/linear/gemm.py` of AutoAWQ. A matrix [out, in] lies transposed:
`qweight` int32 [in, out / 8], `qzeros` int32 [in / group, out / 8], `scales` float16 [in / group, out]; of the eight
columns in a word the nibbles, lowest first, hold those of `ORDER`. An element is `(q - zero) * scale`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.fields import FieldReader
from ..weights.kept import Groups, Steps
from .packed import INERT_FIELDS, Parts, group_size_of, unpacked

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PACKED = 8  # elements of a word


@dataclass(frozen=True)
class Awq:
    """The format with one group size."""

    group_size: int  # 0: a whole row
    name: str = "AWQ"
    row_axis: int = 1
    scales: str = "scales"
    ignored: tuple[str, ...] = ()
    index: str = ""
    ordered: bool = True

    @property
    def suffixes(self) -> Mapping[str, int]:
        return {"qweight": PACKED, "qzeros": PACKED, "scales": 1}

    def shape(self, words: tuple[int, ...]) -> tuple[int, int]:
        return words[1] * PACKED, words[0]

    def shapes(self, rows: int, columns: int) -> Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        groups = -(-columns // (self.group_size or columns))
        return {"qzeros": (("I32",), (groups, rows // PACKED)), "scales": (("F16", "BF16"), (groups, rows))}

    def steps(self, columns: int, scales: str) -> Steps:
        return Steps(self.name, 0, 15, self.group_size or columns, bias=True, exact=scales == "F16", zeros=True)

    def decode(self, parts: Parts) -> Groups:
        q, zeros = (in_order(parts[name]).T for name in ("qweight", "qzeros"))
        scale = parts["scales"].T.astype(np.float32)
        return Groups.with_zeros(np.ascontiguousarray(q), scale, zeros)

    def check(self, stem: str, shape: tuple[int, int], ignored: Parts) -> None:
        """Every matrix of the format can be kept."""


def in_order(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(N, columns / 8) -> (N, columns)."""
    nibbles = unpacked(words, 4).reshape(*words.shape, PACKED)
    found = np.empty_like(nibbles)
    found[:, :, ORDER] = nibbles
    return found.reshape(len(words), -1)


def read_config(fields: Mapping[str, Any]) -> Awq:
    """The format that `quantization_config` describes. Raises WispError for what is not supported."""
    reader = FieldReader(fields, "config.json quantization_config", INERT_FIELDS, {}, prefix=None)
    reader.require("quant_method", "awq")
    reader.require("bits", 4, remedy="quantize it to 4 bits, or compile the original checkpoint")
    reader.require("w_bit", 4)
    reader.require("version", "gemm", "GEMM", remedy="quantize it again with version gemm")
    reader.require("zero_point", True, remedy="quantize it again with zero_point")
    form = Awq(group_size_of(reader))
    reader.finish()
    return form
