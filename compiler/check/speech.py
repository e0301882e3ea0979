"""A model that transcribes against its checkpoint: encoder states of a sound, then logits of texts that attend to them.

Knows what is compared of such a model; logits are compared as those of any text, by a function that is handed in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..models.base import ModelConfig, ReadRows
from ..network.reference import ReferenceModel
from ..runtime.session import Session
from ..speech.mel import HOP, SAMPLE_RATE, log_mel
from ..weights.schemes import Scheme
from .inputs import Sample

# Of an encoder state, relative to the largest: of products in floats, and of those whose activations are integers.
BOUND, INTEGER_BOUND = 1e-3, 2e-3

T = TypeVar("T")  # logits of a sample


@dataclass(frozen=True)
class Heard(Generic[T]):
    """Encoder states (positions, hidden) of the sound, and the logits that come of them."""

    states: NDArray[np.float32]
    logits: T


@dataclass(frozen=True)
class HeardMethod:
    """What is known of the model that is checked, and how logits are."""

    check_logits: Callable[..., dict[str, Any]]
    config: ModelConfig
    scheme: Scheme


def sound(config: ModelConfig) -> NDArray[np.float32]:
    """A window of log-mel (bands, frames): a tone that rises and falls through a little noise, silence at the end."""
    encoder = config.encoder
    assert encoder is not None
    time = np.arange(encoder.frames * HOP * 2 // 3) / SAMPLE_RATE
    noise = np.random.default_rng(0).normal(size=len(time)) * 0.01
    tone = 0.3 * np.sin(2 * np.pi * (300 * time + 400 * np.sin(time * 3) / 3))
    return log_mel((tone + noise).astype(np.float32), encoder.mel_bands, encoder.frames)


def reference_heard(
    logits_of: Callable[[ReferenceModel, Sample], T], config: ModelConfig, read_rows: ReadRows, sample: Sample
) -> Heard[T]:
    """What numpy says of the sound and of a sample of text. Two passes over the decoder's weights."""
    model = ReferenceModel(config, read_rows)
    states = model.encode(sound(config))
    return Heard(states, logits_of(model, sample))


def check_heard(
    method: "HeardMethod",
    runtime: Session,
    variant: Mapping[str, Any],
    sample: Sample,
    stored: Heard[T],
    original: Heard[T],
) -> dict[str, Any]:
    """What a report says of a variant."""
    runtime.hear(sound(method.config))
    states = runtime.read("encoder_states").reshape(stored.states.shape)
    error = relative_error(states, stored.states)
    # Keys and values are in 32 bits whatever the scheme; what its products cost is bounded as in other models.
    usual = {**variant, "kv_dtype": method.scheme.kv_dtype}
    measured = method.check_logits(runtime, usual, sample=sample, stored=stored.logits, original=original.logits)
    bound = INTEGER_BOUND if method.scheme.group_size else BOUND
    failures = list(measured["failures"])
    if not error <= bound:
        failures.insert(0, f"encode: state error {error:.1e} exceeds {bound:g}")
    return {
        **measured,
        "status": "failed" if failures else "passed",
        "encoder_bound": bound,
        "encoder_error": error,
        "encoder_against_source": relative_error(states, original.states),
        "failures": failures,
    }


def print_heard(report: Mapping[str, Any], console: Console) -> None:
    """A line a variant, before the table of logits."""
    for row in report["variants"]:
        if row["status"] != "skipped":
            error, bound, cost = (row[f"encoder_{key}"] for key in ("error", "bound", "against_source"))
            line = f"{error:.1e} (bound {bound:g}), against the source {cost:.1e}"
            console.print(f"  encoder states   {row['name']}: error {line}", markup=False)


def relative_error(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """The largest error, relative to the largest number; 1e30 for what is no number."""
    error = np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()
    return float(np.nan_to_num(error, nan=1e30, posinf=1e30))
