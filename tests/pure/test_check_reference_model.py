"""The numpy reference against transformers, which nothing but tests depends on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.errors import WispError
from compiler.models import config_from_huggingface
from compiler.network.reference import ReferenceModel
from compiler.sources.open import open_checkpoint
from compiler.sources.weights import float_rows
from tests.checkpoints import FAMILIES, make_family, make_llama, make_phi3, reference_logits

IDS = [1, *np.random.default_rng(7).integers(3, 300, size=39).tolist()]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (make_llama, {}),
    "llama-separate-head-gqa": (
        make_llama,
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 40, "tie_word_embeddings": False},
    ),
    "llama3-rope": (make_llama, {"rope_parameters": LLAMA3}),
    "phi3": (make_phi3, {}),
    "phi3-partial-rotary": (
        make_phi3,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}},
    ),
}


def reference_model(path: Path, context: int = 64) -> ReferenceModel:
    checkpoint = open_checkpoint(path)
    return ReferenceModel(config_from_huggingface(checkpoint.config, context), float_rows(checkpoint))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    make, overrides = CASES[case]
    path = make(tmp_path, **overrides)
    expected = reference_logits(path, "q0f32", IDS)
    model = reference_model(path)
    got = model.logits(model.hidden_states(IDS))
    assert got.shape == expected.shape
    assert largest_error(got, expected) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_transformers(family: str, tmp_path: Path) -> None:
    path = make_family(family, tmp_path)
    expected = reference_logits(path, "q0f32", IDS)
    model = reference_model(path)
    assert largest_error(model.logits(model.hidden_states(IDS)), expected) < 1e-4


def test_feeding_tokens_in_parts_changes_nothing(llama: Path) -> None:
    whole = reference_model(llama)
    parts = reference_model(llama)
    expected = whole.hidden_states(IDS)
    got = np.concatenate([parts.hidden_states(part) for part in (IDS[:1], IDS[1:18], IDS[18:])])
    assert parts.position == len(IDS)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_later_token_changes_nothing_before_it(llama: Path) -> None:
    first, second = reference_model(llama), reference_model(llama)
    one, other = first.hidden_states([*IDS, 5]), second.hidden_states([*IDS, 6])
    np.testing.assert_allclose(one[:-1], other[:-1], atol=1e-5)
    assert np.abs(one[-1] - other[-1]).max() > 1e-3


def test_no_tokens_are_refused(llama: Path) -> None:
    with pytest.raises(WispError, match="nothing to run"):
        reference_model(llama).hidden_states([])


def largest_error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())
