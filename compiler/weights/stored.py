"""The weights that an artifact stores, in float32, as `network.reference` reads them. Knows schemes; opens no file."""

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..models.base import ReadRows, WeightSpec
from .quantize import dequantize, parameter_layout, span_of
from .schemes import Scheme


class Tensors(Protocol):
    """Gives rows of stored tensors by name."""

    def tensor(self, name: str, start: int = 0, stop: int | None = None) -> NDArray: ...


def stored_rows(weights: Tensors, scheme: Scheme) -> ReadRows:
    """Rows of stored weights, dequantized."""

    def read(spec: WeightSpec, start: int, stop: int) -> NDArray[np.float32]:
        part = replace(spec, shape=(stop - start, *spec.shape[1:]))
        spans = {name: span_of(name, shape[0], start, stop) for name, _, shape in parameter_layout(part, scheme)}
        return dequantize(part, {name: weights.tensor(name, *span) for name, span in spans.items()}, scheme)

    return read
