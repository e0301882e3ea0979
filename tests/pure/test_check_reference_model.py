"""The numpy reference against transformers, which nothing but tests depends on."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.network.reference import ReferenceModel
from compiler.sources.open import open_checkpoint
from compiler.sources.weights import float_rows
from tests.checkpoints import (
    FAMILIES,
    FAMILY_DEFAULTS,
    GEMMA3,
    make_family,
    make_llama,
    make_phi3,
    reference_logits,
    write_tokenizer,
)

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


def test_the_language_model_of_a_checkpoint_that_also_sees(tmp_path: Path) -> None:
    """Under the names of transformers 4 and of 5; what is not of the language model is passed over."""
    text = {**FAMILY_DEFAULTS, **GEMMA3, "model_type": "gemma3_text"}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text,
        vision_config={**vision, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1,
    )
    torch.manual_seed(0)
    sees = Gemma3ForConditionalGeneration(config).eval()
    sees.save_pretrained(tmp_path / "new")
    write_tokenizer(tmp_path / "new")
    with torch.inference_mode():
        expected = sees(torch.tensor([IDS])).logits[0].numpy()
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    assert any("vision_tower" in name for name in tensors)
    begin = "model.language_model." if any(n.startswith("model.language_model.") for n in tensors) else ""
    other, same = ("language_model.model.", begin) if begin else ("model.language_model.", "language_model.model.")
    renamed = {other + name.removeprefix(same) if name.startswith(same) else name: t for name, t in tensors.items()}
    save_file(renamed, tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    for directory in ("new", "old"):
        checkpoint = open_checkpoint(tmp_path / directory)
        assert checkpoint.config["model_type"] == "gemma3_text"
        described = config_from_huggingface(checkpoint.config, 64)
        checkpoint.check_weights(weight_specs(described), tied=described.tie_word_embeddings)
        model = reference_model(tmp_path / directory)
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
