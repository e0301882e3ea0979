"""What became of the values of a source that is quantized: how many matrices keep them, and what the others lost.

Knows stored tensors and blocks of float32 rows; nothing of files or of how either came about.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..models.base import WeightSpec
from .kept import Held, bits_per_weight
from .quantize import dequantize, span_of
from .schemes import Scheme

Outcome = Literal["exact", "rounded", "requantized"]


@dataclass(frozen=True)
class Fate:
    """One matrix: the source's formats of it, and what it lost: squares of differences and of the values themselves."""

    formats: tuple[str, ...]
    outcome: Outcome
    error: float = 0.0
    norm: float = 0.0


@dataclass(frozen=True)
class SourceValues:
    """All matrices that the source had quantized.

    `exact` ones are the source's values, `rounded` ones those with scales rounded to float16; `squared_error` is that
    of the requantized ones, relative to the squares of the source's values in them.
    """

    formats: Mapping[str, int]  # how many matrices hold each
    exact: int
    rounded: int
    requantized: int
    squared_error: float

    def described(self) -> dict[str, Any]:
        """As model.json has it."""
        return {**asdict(self), "formats": dict(self.formats)}


@dataclass(frozen=True)
class Merged:
    """Matrices that the source had quantized and an adapter changed: what is lost of what they are with it."""

    count: int
    schemes: tuple[str, ...]
    bytes_more: int  # than in the scheme that took the source's values
    squared_error: float  # relative to the squares of what they are


def fate_of(
    spec: WeightSpec,
    held: Held,
    kept: bool,
    tensors: Sequence[tuple[str, NDArray]],
    scheme: Scheme,
    blocks: Iterable[NDArray[np.float32]],
) -> Fate:
    """What a matrix lost. `blocks`, its rows in order as they should be, are read only if it may have lost anything."""
    own = scheme.of(spec)
    if kept or (own == held.scheme and not own.group_size):
        return Fate(held.formats, "exact" if held.exact else "rounded")
    error, norm = squared_error(spec, dict(tensors), scheme, blocks)
    return Fate(held.formats, "requantized" if error else "exact", error, norm)


def squared_error(
    spec: WeightSpec, tensors: Mapping[str, NDArray], scheme: Scheme, blocks: Iterable[NDArray[np.float32]]
) -> tuple[float, float]:
    """Squares of what stored tensors differ by from rows, and of the rows, in sum."""
    error = norm = 0.0
    row = 0
    for block in blocks:
        part = replace(spec, shape=block.shape)
        stop = row + len(block)
        spans = {name: span_of(name, len(tensor), row, stop) for name, tensor in tensors.items()}
        difference = dequantize(part, {name: tensors[name][slice(*span)] for name, span in spans.items()}, scheme)
        difference -= block
        error += float(np.vdot(difference, difference))
        norm += float(np.vdot(block, block))
        row = stop
    return error, norm


def summed(fates: Sequence[Fate]) -> SourceValues | None:
    """All of a model; None for a source without a quantized matrix."""
    if not fates:
        return None
    outcomes = Counter(fate.outcome for fate in fates)
    lost = [fate for fate in fates if fate.outcome == "requantized"]
    norm = sum(fate.norm for fate in lost)
    return SourceValues(
        formats=dict(sorted(Counter(name for fate in fates for name in fate.formats).items())),
        exact=outcomes["exact"],
        rounded=outcomes["rounded"],
        requantized=outcomes["requantized"],
        squared_error=float(f"{sum(fate.error for fate in lost) / norm:.4g}") if norm else 0.0,
    )


def summed_merged(merged: Sequence[tuple[WeightSpec, Held, Fate]], scheme: Scheme) -> Merged | None:
    """All matrices that an adapter changes, with what the source held them in; None where there are none."""
    if not merged:
        return None
    bits = sum(
        math.prod(spec.shape) * (bits_per_weight(scheme.of(spec)) - bits_per_weight(held.scheme))
        for spec, held, _ in merged
    )
    error, norm = sum(fate.error for *_, fate in merged), sum(fate.norm for *_, fate in merged)
    schemes = tuple(sorted({scheme.of(spec).name for spec, *_ in merged}))
    return Merged(len(merged), schemes, round(bits / 8), error / norm if norm else 0.0)
