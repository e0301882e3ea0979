"""What an artifact is held against: its checkpoint's weights in float32, and the tensors the pipeline makes of them.

Knows checkpoints, adapters and stored tensors; nothing of logits or devices.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..artifact.writer import Artifact
from ..config import resolve_config
from ..errors import WispError
from ..models import config_from_huggingface, weight_specs
from ..models.base import ModelConfig, ReadRows
from ..progress import Report
from ..sources.lora import Adapter
from ..sources.open import open_requested
from ..sources.protocol import Checkpoint
from ..sources.weights import float_rows, stored_tensors
from ..weights.choice import AUTO, scheme_of_model
from ..weights.schemes import SCHEMES, STORED, Scheme


@dataclass(frozen=True)
class Reference:
    """The checkpoint that an artifact was compiled from, and the adapter that was merged into it."""

    checkpoint: Checkpoint
    adapter: Adapter | None = None

    def rows(self) -> ReadRows:
        """Rows of its weights in float32, before any quantization of ours."""
        return float_rows(self.checkpoint, self.adapter)


def match(artifact: Artifact, reference: str, lora: Path | None) -> tuple[ModelConfig, Scheme, Reference]:
    """The reference and its network at the artifact's context. Raises WispError when it is another network."""
    ignored = artifact.model["source"].get("ignored_fields", ())
    quantization = artifact.model["quantization"]
    named = quantization if quantization in SCHEMES else AUTO  # others are only ever kept
    request = resolve_config(reference, quantization=named, lora=lora, ignore_fields=ignored)
    checkpoint, adapter = open_requested(request)
    config = config_from_huggingface(checkpoint.config, artifact.model["context"])
    ours = artifact.model["architecture"]
    ours = {**ours, "pooling": artifact.model.get("embedding", {}).get("pooling")}
    different = [key for key in ours if ours[key] != getattr(config, key)]
    if different:
        raise WispError(
            "the artifact is not of this checkpoint",
            got=", ".join(f"{key} {ours[key]}" for key in different),
            expected=", ".join(f"{key} {getattr(config, key)}" for key in different),
            remedy="give the checkpoint that it was compiled from as --reference",
        )
    checkpoint.check_weights(weight_specs(config), tied=not config.has_head)
    if adapter is not None:
        adapter.check(weight_specs(config), tied=not config.has_head)
    scheme = scheme_of_model(artifact.model, STORED[quantization], weight_specs(config))
    return config, scheme, Reference(checkpoint, adapter)


def compare_weights(
    artifact: Artifact, source: Reference, config: ModelConfig, scheme: Scheme, progress: Report
) -> list[str]:
    """Names of the stored tensors that are not, bit for bit, what the pipeline makes of the checkpoint."""
    specs, rule = weight_specs(config), artifact.model.get("scales", "absmax")
    differing: list[str] = []
    with progress.stage("weights", len(specs)) as advance:
        for spec in specs:
            for name, expected in stored_tensors(source.checkpoint, spec, scheme, source.adapter, rule):
                if not same_bits(artifact.tensor(name), expected):
                    differing.append(name)
            advance(1)
    return differing


def same_bits(got: NDArray, expected: NDArray) -> bool:
    """Whether two arrays of a type hold the same bytes: NaN equals itself, 0 is not -0."""
    unsigned = f"u{expected.dtype.itemsize}"
    return got.dtype == expected.dtype and np.array_equal(got.view(unsigned), expected.view(unsigned))
