"""whisper.cpp's files: network and tokenizer of the checkpoint that they are made of, blocks kept as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.build import build
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.sources.open import open_checkpoint
from compiler.sources.speech import speech_tokens
from compiler.sources.whisper_tokenizer import byte_characters, no_speech, special_tokens, tokenizer_of
from compiler.weights.choice import AUTO, choose_scheme
from compiler.weights.quantize import dequantize
from tests.speech import checkpoint, make_whisper, write_ggml

TEXTS, LANGUAGES = 256, 2
END = 50257  # of Whisper's text in many languages


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With as many tokens as two languages and the timestamps of 30 seconds ask for; columns in whole blocks."""
    sizes = {"d_model": 96, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    return make_whisper(tmp_path_factory.mktemp("ggml") / "tiny", vocab_size=TEXTS + LANGUAGES + 1509, **sizes)


def test_a_file_holds_the_network_of_its_checkpoint(source: Path, tmp_path: Path) -> None:
    ours, theirs = open_checkpoint(source), open_checkpoint(write_ggml(source, tmp_path / "ggml-tiny.bin"))
    network = config_from_huggingface(ours.config, 64)
    assert config_from_huggingface(theirs.config, 64) == network
    specs = weight_specs(network)
    theirs.check_weights(specs, tied=True)
    for spec in specs:
        want, got = (np.concatenate(list(checkpoint.blocks(spec))) for checkpoint in (ours, theirs))
        np.testing.assert_array_equal(got, want.astype(np.float16) if spec.kind == "matrix" else want)
        assert theirs.held(spec) is None


@pytest.mark.parametrize(("kind", "scheme"), [("Q8_0", "q8f16_1"), ("Q5_1", "q5af16_g32"), ("Q5_0", "q5f16_g32")])
def test_blocks_are_kept(source: Path, tmp_path: Path, kind: str, scheme: str) -> None:
    opened = open_checkpoint(write_ggml(source, tmp_path / "ggml.bin", kind))
    specs = [s for s in weight_specs(config_from_huggingface(opened.config, 64)) if s.kind == "matrix"]
    chosen = choose_scheme(AUTO, {}, {(spec.role, spec.layer): opened.held(spec) for spec in specs})
    assert chosen.name == scheme
    for spec in specs:
        stored = opened.stored(spec, chosen)
        if spec.role in ("conv1", "conv2"):
            assert stored is None
            assert chosen.of(spec).name == "q0f16"
            continue
        assert stored is not None
        values = np.concatenate(list(opened.blocks(spec)))
        np.testing.assert_allclose(dequantize(spec, dict(stored), chosen), values, rtol=1e-6, atol=1e-7)


def test_its_tokens_are_whispers(source: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(write_ggml(source, tmp_path / "ggml.bin"))
    tokens = speech_tokens(opened.token_ids, opened.config, opened.generation_config)
    assert (tokens["end"], tokens["start"], tokens["no_timestamps"]) == (256, 257, 265)
    assert opened.token_ids["<|zh|>"] == 259
    assert opened.stop_token_ids == (256,)


def test_the_published_tokenizer_comes_out_of_its_tokens(tmp_path: Path) -> None:
    """Merges, special tokens and what is never said, as they were published."""
    path = checkpoint(tmp_path)
    published = json.loads((path / "tokenizer.json").read_text())
    stated = json.loads((path / "config.json").read_text())
    back = {character: byte for byte, character in byte_characters().items()}
    vocabulary = sorted(published["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [bytes(back[c] for c in text) for text, i in vocabulary if i < END]
    special = special_tokens(51865, len(tokens))
    made = tokenizer_of(tokens, special)
    known = {text: i for text, i in published["model"]["vocab"].items() if i < END}
    assert made["model"]["vocab"] == known
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in published["model"]["merges"]]
    first, *others = [list(merge) for merge in made["model"]["merges"]]
    assert first == ["Ġ", "t"]  # which the published file lost: its first line was taken for a header
    assert others == merges
    renamed = {"<|nocaptions|>": "<|nospeech|>"}
    added = {renamed.get(t["content"], t["content"]): t["id"] for t in published["added_tokens"]}
    assert {token["content"]: token["id"] for token in made["added_tokens"]} == added
    never, begin = no_speech(made)
    assert never == sorted(stated["suppress_ids"])
    assert begin == stated["suppress_ids_begin"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:60], "is damaged"),
        (lambda data: data[:-9], "is damaged: got tensor"),
        (lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], "is damaged: got -1 vocab_size"),
        (lambda data: data.replace(b"encoder.conv1.bias", b"encoder.conv7.bias"), "missing.*conv1.bias"),
    ],
)
def test_a_damaged_file_is_refused(source: Path, tmp_path: Path, change: Any, message: str) -> None:
    file = write_ggml(source, tmp_path / "ggml-tiny.bin")
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(WispError, match=message):
        build(resolve_config(str(file), output=tmp_path / "out", variants=["wasm-simd"]))


def test_a_file_is_named_after_itself(source: Path, tmp_path: Path) -> None:
    config = resolve_config(str(write_ggml(source, tmp_path / "ggml-tiny.bin")))
    assert (config.source_kind, config.id) == ("ggml", "ggml-tiny")
