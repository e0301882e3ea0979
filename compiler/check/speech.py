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
from .inputs import Sample

BOUND = 1e-3  # of an encoder state, relative to the largest

T = TypeVar("T")  # logits of a sample


@dataclass(frozen=True)
class Heard(Generic[T]):
    """Encoder states (positions, hidden) of the sound, and the logits that come of them."""

    states: NDArray[np.float32]
    logits: T


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
    check_logits: Callable[..., dict[str, Any]],
    config: ModelConfig,
    runtime: Session,
    variant: Mapping[str, Any],
    sample: Sample,
    stored: Heard[T],
    original: Heard[T],
) -> dict[str, Any]:
    """What a report says of a variant."""
    runtime.hear(sound(config))
    states = runtime.read("encoder_states").reshape(stored.states.shape)
    error = relative_error(states, stored.states)
    measured = check_logits(runtime, variant, sample=sample, stored=stored.logits, original=original.logits)
    failures = list(measured["failures"])
    if not error <= BOUND:
        failures.insert(0, f"encode: state error {error:.1e} exceeds {BOUND:g}")
    return {
        **measured,
        "status": "failed" if failures else "passed",
        "encoder_error": error,
        "encoder_against_source": relative_error(states, original.states),
        "failures": failures,
    }


def print_heard(report: Mapping[str, Any], console: Console) -> None:
    """A line a variant, before the table of logits."""
    for row in report["variants"]:
        if row["status"] != "skipped":
            line = (
                f"{row['encoder_error']:.1e} (bound {BOUND:g}), against the source {row['encoder_against_source']:.1e}"
            )
            console.print(f"  encoder states   {row['name']}: error {line}", markup=False)


def relative_error(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """The largest error, relative to the largest number; 1e30 for what is no number."""
    error = np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()
    return float(np.nan_to_num(error, nan=1e30, posinf=1e30))
