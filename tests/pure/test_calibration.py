"""Calibration: the figures are those of the activations, and they lower the error of what the network computes."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface
from compiler.network.calibration import column_importance, read_calibration_text, spread
from compiler.network.reference import ReferenceModel
from compiler.sources.open import open_checkpoint
from compiler.sources.weights import float_rows
from compiler.weights.schemes import SCHEMES
from compiler.weights.stored import stored_rows
from tests.checkpoints import CORPUS, make_llama

OTHER = "A heron stood on a stone over the water. 'Is the light there?' it asked, and 42 small reeds bent in the wind. "


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a few channels of large activations, as trained models have them: norms scale them up."""
    path = make_llama(tmp_path_factory.mktemp("checkpoint") / "skewed")
    tensors = load_file(path / "model.safetensors")
    for name, tensor in tensors.items():
        if "layernorm" in name:
            tensor[::17] *= 12
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def text_file(directory: Path, text: str) -> Path:
    (directory / "text.txt").write_text(text)
    return directory / "text.txt"


def test_importance_is_the_mean_square_of_the_inputs(skewed: Path) -> None:
    checkpoint = open_checkpoint(skewed)
    config = config_from_huggingface(checkpoint.config, 64)
    importance = column_importance(config, float_rows(checkpoint), range(10, 40))
    assert {role for role, _ in importance} == {"embedding", "qkv", "attention_output", "gate_up", "down"}
    assert importance["down", 1].shape == (352,)
    assert importance["qkv", 0][::17].min() > 5 * np.median(importance["qkv", 0])
    hidden = ReferenceModel(config, float_rows(checkpoint)).hidden_states(range(10, 40))
    squares = np.square(hidden).mean(axis=0)
    np.testing.assert_allclose(importance["embedding", None], squares + 0.01 * squares.mean(), rtol=1e-5)


def test_pieces_of_all_of_a_text_are_read() -> None:
    ids = list(range(1803))
    found = spread(ids, 256)
    assert len(found) == 256
    assert (found[0], found[-1]) == (0, 1802)
    assert len(set(found)) == 256
    assert max(b - a for a, b in itertools.pairwise(found)) < 1803 / 14
    assert spread(ids[:200], 256) == ids[:200], "a short one is read whole"
    assert len(spread(ids, 7)) == 7
    assert spread(ids, 32) == [*range(16), *range(1787, 1803)]


def test_calibration_lowers_the_error_of_the_logits(skewed: Path, tmp_path: Path) -> None:
    """Calibrated on one text, measured on another."""
    read = read_calibration_text(text_file(tmp_path, OTHER), skewed / "tokenizer.json", 331, 64)
    assert read is not None
    ids = read.ids
    checkpoint = open_checkpoint(skewed)
    config, error = config_from_huggingface(checkpoint.config, 64), {}
    exact = ReferenceModel(config, float_rows(checkpoint))
    expected = exact.logits(exact.hidden_states(ids))
    text = text_file(tmp_path, CORPUS)
    choices = {
        "absmax": ("q4f16_1", "absmax", None),
        "search": ("q4f16_1", "search", None),
        "calibrated": ("q4f16_1", "search", text),
        "range": ("auto", "absmax", None),
        "auto": ("auto", "search", None),  # by a text of its own
    }
    for name, (quantization, scales, calibration) in choices.items():
        request = resolve_config(
            str(skewed),
            output=tmp_path / name,
            variants=["webgpu-f32"],
            context=64,
            quantization=quantization,
            scales=scales,
            calibration=calibration,
        )
        artifact = load_artifact(build(request))
        model = ReferenceModel(config, stored_rows(artifact, SCHEMES[artifact.model["quantization"]]))
        error[name] = float(np.square(model.logits(model.hidden_states(ids)) - expected).mean())
        described = json.loads((tmp_path / name / "model.json").read_text())
        assert described["scales"] == scales
        assert ("calibration" in described) == (name in ("calibrated", "auto"))
    assert described["calibration"]["tokens"] == 64
    assert described["quantization"] == "q4af16_g64"
    assert error["calibrated"] < 0.9 * error["search"] < 0.9 * error["absmax"]
    assert error["auto"] < 0.9 * error["range"]
    assert error["auto"] < 0.9 * error["calibrated"], "as many bits, and a better use of them"


def test_a_tokenizer_that_makes_little_of_the_text_of_our_own_goes_without(
    skewed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_calibration_text(None, skewed / "tokenizer.json", 331, 64) is not None
    monkeypatch.setattr("compiler.network.calibration.TEXT", "Few words.")
    assert read_calibration_text(None, skewed / "tokenizer.json", 331, 64) is None
    request = resolve_config(str(skewed), output=tmp_path / "short", variants=["webgpu-f32"], context=64)
    artifact = load_artifact(build(request))
    assert "calibration" not in artifact.model
    assert artifact.model["quantization"] == "q4af16_g64"


def test_what_cannot_calibrate_is_refused(skewed: Path, tmp_path: Path) -> None:
    with pytest.raises(WispError, match="too short"):
        read_calibration_text(text_file(tmp_path, "a"), skewed / "tokenizer.json", 331, 64)
    with pytest.raises(WispError, match="cannot be read"):
        read_calibration_text(tmp_path / "none", skewed / "tokenizer.json", 331, 64)
    with pytest.raises(WispError, match="scales absmax"):
        resolve_config(str(skewed), scales="absmax", calibration=tmp_path / "text.txt")
    with pytest.raises(WispError, match="absmax or search"):
        resolve_config(str(skewed), scales="best")
