"""Weights on their way from a source, an adapter merged into them: in float32, or as an artifact stores them.

Knows checkpoints and adapters by what they offer; opens none.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..models.base import ZEROS, ReadRows, WeightSpec
from ..weights.quantize import quantize
from ..weights.scales import Rule
from ..weights.schemes import Scheme
from .lora import Adapter
from .protocol import Checkpoint


def stored_tensors(
    checkpoint: Checkpoint,
    spec: WeightSpec,
    scheme: Scheme,
    adapter: Adapter | None = None,
    rule: Rule = "absmax",
    importance: NDArray[np.float32] | None = None,
) -> list[tuple[str, NDArray]]:
    """The tensors that a weight is stored as: the source's own values where the scheme holds them, else our own."""
    kept = kept_tensors(checkpoint, spec, scheme, adapter)
    return kept or quantized_tensors(checkpoint, spec, scheme, adapter, rule, importance)


def kept_tensors(
    checkpoint: Checkpoint, spec: WeightSpec, scheme: Scheme, adapter: Adapter | None = None
) -> list[tuple[str, NDArray]] | None:
    """The source's own integers in the words of the scheme; None for what has to be quantized."""
    return None if adapter is not None and adapter.changes(spec) else checkpoint.stored(spec, scheme)


def quantized_tensors(
    checkpoint: Checkpoint,
    spec: WeightSpec,
    scheme: Scheme,
    adapter: Adapter | None = None,
    rule: Rule = "absmax",
    importance: NDArray[np.float32] | None = None,
) -> list[tuple[str, NDArray]]:
    """The weight in float32, with the adapter added, quantized here."""
    blocks = float_blocks(checkpoint, spec, adapter)
    return quantize(spec, blocks, scheme, checkpoint.source_scales(spec), rule, importance)


def float_blocks(
    checkpoint: Checkpoint, spec: WeightSpec, adapter: Adapter | None = None
) -> Iterable[NDArray[np.float32]]:
    """The rows of a weight in order, with the adapter added."""
    blocks = checkpoint.blocks(spec)
    return blocks if adapter is None else adapter.merge(spec, blocks)


def float_rows(checkpoint: Checkpoint, adapter: Adapter | None = None) -> ReadRows:
    """Rows of the weights before any quantization of ours."""
    return _own_rows(checkpoint) if adapter is None else _merged_rows(checkpoint, adapter)


def _own_rows(checkpoint: Checkpoint) -> ReadRows:
    def read(spec: WeightSpec, start: int, stop: int) -> NDArray[np.float32]:
        parts, first = [], 0
        for source, begin, rows in spec.pieces:
            low, high = max(start, first) - first, min(stop, first + rows) - first
            if low < high and source == ZEROS:
                parts.append(np.zeros((high - low, *spec.shape[1:]), np.float32))
            elif low < high:
                parts.append(spec.shaped(checkpoint.read(source, begin + low, begin + high)))
            first += rows
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return read


def _merged_rows(checkpoint: Checkpoint, adapter: Adapter) -> ReadRows:
    """The weight asked for last is kept."""
    kept: tuple[WeightSpec, NDArray[np.float32]] | None = None

    def read(spec: WeightSpec, start: int, stop: int) -> NDArray[np.float32]:
        nonlocal kept
        if kept is None or kept[0] != spec:
            kept = (spec, np.concatenate(list(adapter.merge(spec, checkpoint.blocks(spec)))))
        return kept[1][start:stop]

    return read
