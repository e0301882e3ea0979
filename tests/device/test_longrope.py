"""LongRoPE on both sides of its switch: tiny Phi-3s whose short and long factors differ, against transformers.

A context up to the original one compiles the short factors, a longer one the long factors, for every position.
transformers chooses by the length of the sequence: up to the original context the short factors, beyond it the long
ones, for all of the sequence. So the two agree wherever a length is on the same side as the compiled context.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.models import config_from_huggingface
from compiler.runtime.session import Session
from compiler.runtime.wgpu import missing_features
from compiler.target.variants import VARIANTS
from tests.checkpoints import make_phi3, model_logits, reference_model
from tests.conftest import unavailable
from tests.device.harness import Gpu
from tests.device.test_parity import compiled, error, tolerance_of

ORIGINAL, LONGEST = 64, 256
TOKENS = 150


def make_longrope(path: Path, partial_rotary_factor: float = 1.0) -> Path:
    """A Phi-3 of two heads of 48 over one of keys; its long factors are far from its short ones."""
    count = int(48 * partial_rotary_factor) // 2
    return make_phi3(
        path,
        hidden_size=96,
        intermediate_size=136,
        num_key_value_heads=1,
        max_position_embeddings=LONGEST,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": ORIGINAL,
            "partial_rotary_factor": partial_rotary_factor,
            "short_factor": np.linspace(1.0, 1.3, count).tolist(),
            "long_factor": np.linspace(1.5, 12.0, count).tolist(),
        },
    )


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "full": make_longrope,  # Phi-3-mini-128k
    "partial": functools.partial(make_longrope, partial_rotary_factor=0.75),  # Phi-4-mini
}
CASES = [
    ("full", "q4f16_1", "webgpu-f32-sg"),
    ("partial", "q0f32", "webgpu-f32"),
    ("partial", "q4f16_1", "webgpu-f32-sg"),
]


@dataclass(frozen=True)
class Case:
    """A checkpoint on the device with the short and with the long factors, and what transformers makes of some ids."""

    path: Path
    model: Any
    tolerance: float
    ids: list[int]
    short: Session
    long: Session

    @functools.cached_property
    def short_logits(self) -> NDArray[np.float32]:
        return model_logits(self.model, self.ids[:ORIGINAL])

    @functools.cached_property
    def long_logits(self) -> NDArray[np.float32]:
        return model_logits(self.model, self.ids)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gpu: Gpu) -> Case:
    name, scheme, variant = request.param
    if missing := missing_features(gpu.adapter, VARIANTS[variant].required_features):
        unavailable(f"the adapter lacks {', '.join(missing)}")
    path = CHECKPOINTS[name](tmp_path_factory.mktemp("longrope") / name)
    return Case(
        path,
        reference_model(path, scheme),
        tolerance_of(scheme),
        np.random.default_rng(3).integers(3, 300, TOKENS).tolist(),
        compiled(path, ORIGINAL, scheme, variant, gpu),
        compiled(path, LONGEST, scheme, variant, gpu),
    )


def test_up_to_the_original_context_the_short_factors(case: Case) -> None:
    """Prompts up to the compiled context, and every decode step into its last place."""
    for length in (1, 2, 33, ORIGINAL):
        assert error(case.short.logits(case.ids[:length]), case.short_logits[length - 1]) < case.tolerance, length
    case.short.logits(case.ids[:40])
    for i in range(40, ORIGINAL):
        assert error(case.short.next_logits(case.ids[i]), case.short_logits[i]) < case.tolerance, i


def test_beyond_it_the_long_factors(case: Case) -> None:
    """Prompts longer than the original context, each alone in transformers; then every step beyond it."""
    for length in (ORIGINAL + 1, 97, TOKENS):
        expected = model_logits(case.model, case.ids[:length])[-1]
        assert error(case.long.logits(case.ids[:length]), expected) < case.tolerance, length
    case.long.logits(case.ids[:ORIGINAL])
    for i in range(ORIGINAL, TOKENS):
        assert error(case.long.next_logits(case.ids[i]), case.long_logits[i]) < case.tolerance, i


def test_a_long_context_uses_the_long_factors_for_short_prompts_too(case: Case) -> None:
    """As transformers does for the first positions of a longer sequence; the short factors would give other logits."""
    for length in (20, ORIGINAL):
        got = case.long.logits(case.ids[:length])
        assert error(got, case.long_logits[length - 1]) < case.tolerance, length
        assert error(got, case.short_logits[length - 1]) > 20 * case.tolerance, length


def test_the_attention_scaling_is_that_of_transformers(case: Case) -> None:
    raw = json.loads((case.path / "config.json").read_text())
    expected = case.model.model.rotary_emb.attention_scaling
    assert expected > 1.1
    for context in (ORIGINAL, LONGEST):
        assert config_from_huggingface(raw, context).ropes[0].scaling == pytest.approx(expected)
