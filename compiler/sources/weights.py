"""Weights on their way from a source, an adapter merged into them: in float32, or as an artifact stores them.

Knows checkpoints and adapters by what they offer; opens none.
"""

import numpy as np
from numpy.typing import NDArray

from compiler.models.base import ReadRows, WeightSpec
from compiler.sources.lora import Adapter
from compiler.sources.protocol import Checkpoint
from compiler.weights.quantize import quantize
from compiler.weights.scales import Rule
from compiler.weights.schemes import Scheme


def stored_tensors(
    checkpoint: Checkpoint,
    spec: WeightSpec,
    scheme: Scheme,
    adapter: Adapter | None = None,
    rule: Rule = "absmax",
    importance: NDArray[np.float32] | None = None,
) -> list[tuple[str, NDArray]]:
    """The tensors that a weight is stored as: those of the source when it is quantized already, else our own."""
    stored = checkpoint.stored(spec)
    if stored is not None:
        return stored
    blocks = checkpoint.blocks(spec)
    merged = blocks if adapter is None else adapter.merge(spec, blocks)
    return quantize(spec, merged, scheme, checkpoint.source_scales(spec), rule, importance)


def float_rows(checkpoint: Checkpoint, adapter: Adapter | None = None) -> ReadRows:
    """Rows of the weights before any quantization of ours."""
    return _own_rows(checkpoint) if adapter is None else _merged_rows(checkpoint, adapter)


def _own_rows(checkpoint: Checkpoint) -> ReadRows:
    def read(spec: WeightSpec, start: int, stop: int) -> NDArray[np.float32]:
        parts, first = [], 0
        for source, rows in zip(spec.sources, spec.source_rows, strict=True):
            low, high = max(start, first) - first, min(stop, first + rows) - first
            if low < high:
                parts.append(checkpoint.read(source, low, high))
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
