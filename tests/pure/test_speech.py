"""Models that transcribe: log-mel, kernels, programs and checkpoints, each held against transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from compiler.artifact.inspect import inspect
from compiler.artifact.manifest import validate
from compiler.artifact.writer import Artifact, load_artifact
from compiler.build import build
from compiler.chat.model import load_model as load_chat
from compiler.check.parity import check, print_report
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.kernels import hearing, reference
from compiler.kernels.cpu.builder import CpuKernel
from compiler.models import config_from_huggingface, weight_specs
from compiler.network.reference import ReferenceModel
from compiler.runtime.wasmtime import open_wasm_variant
from compiler.serving.catalogue import Catalogue
from compiler.sources.open import open_checkpoint
from compiler.sources.weights import float_rows
from compiler.speech.mel import log_mel
from compiler.speech.model import load_model
from compiler.weights.schemes import SCHEMES
from compiler.weights.stored import stored_rows
from tests.cpu_kernels import Modules
from tests.speech import (
    BOUND,
    IDS,
    POSITIONS,
    SUPPRESSED,
    heard,
    heard_by_transformers,
    make_whisper,
    random_mel,
    reference_model,
    relative,
    write_ctranslate2,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("speech") / "tiny-whisper")


@pytest.fixture(scope="module")
def mel() -> NDArray[np.float32]:
    return random_mel()


def compiled(source: Path, scheme: str) -> Artifact:
    output = source.parent / scheme
    if not output.exists():
        build(resolve_config(str(source), output=output, quantization=scheme, variants=["wasm-simd"], scales="absmax"))
    return load_artifact(output)


# ------------------------------------------------------------------------------------------------------------- log-mel


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("seconds", [0.0001, 1.3, 30.0, 31.0])
def test_log_mel_is_that_of_transformers(bands: int, seconds: float) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(max(1, int(seconds * 16000))) / 16000
    tone = np.sin(time * 2 * np.pi * (200 + 300 * time)) * 0.3 + rng.normal(size=len(time)) * 0.01
    samples = tone.astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=bands)
    want = extractor(samples, sampling_rate=16000, return_tensors="np").input_features[0]
    np.testing.assert_allclose(log_mel(samples, bands, 3000), want, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- kernels


def test_kernels_do_what_their_twins_do() -> None:
    rng = np.random.default_rng(0)
    bands, steps, channels = 5, 6, 72
    mel = rng.normal(size=(bands, 2 * steps)).astype(np.float32)
    even, odd = (rng.normal(size=(steps, channels)).astype(np.float32) for _ in range(2))
    table = rng.normal(size=(9, channels)).astype(np.float16)
    state = np.zeros(64, np.uint32)
    state[0] = 2
    kernels = {
        "first": hearing.unfold_mel("first", bands, steps, 0, CpuKernel),
        "second": hearing.unfold_mel("second", bands, steps, 1, CpuKernel),
        "pairs": hearing.unfold_pairs("pairs", channels, steps, CpuKernel),
        "add": hearing.add_positions("add", (steps, channels, 9), True, 64, CpuKernel),
    }
    modules = Modules(kernels)
    for parity, name in enumerate(("first", "second")):
        got = modules.run(name, {"mel": mel.ravel(), "out": np.zeros(steps * 3 * bands, np.float32)})
        np.testing.assert_array_equal(got["out"], reference.unfold_mel(mel, parity).ravel())
    out = np.zeros(steps * 3 * channels, np.float32)
    got = modules.run("pairs", {"even": even.ravel(), "odd": odd.ravel(), "out": out})
    np.testing.assert_array_equal(got["out"], reference.unfold_pairs(even, odd).ravel())
    arrays = {
        "x": even.ravel(),
        "table": table.view(np.uint32).ravel(),
        "state": state,
        "out": np.zeros_like(even).ravel(),
    }
    got = modules.run("add", arrays)
    want = reference.add_positions(even, table.astype(np.float32), 2)
    np.testing.assert_array_equal(got["out"], want.ravel())


# ------------------------------------------------------------------------------------------------------------ networks


def test_the_cpu_hears_what_transformers_hears(source: Path, mel: NDArray[np.float32]) -> None:
    session = open_wasm_variant(compiled(source, "q0f32"), "wasm-simd")
    (states, logits), (true_states, true_logits) = heard(session, mel), heard_by_transformers(source, mel)
    assert relative(states, true_states) < BOUND
    assert relative(logits, true_logits) < BOUND


def test_in_8_bits_it_hears_what_its_weights_say(source: Path, mel: NDArray[np.float32]) -> None:
    artifact = compiled(source, "q8f16_1")
    states, logits = heard(open_wasm_variant(artifact, "wasm-simd"), mel)
    config = config_from_huggingface(open_checkpoint(source).config, artifact.model["context"])
    model = ReferenceModel(config, stored_rows(artifact, SCHEMES["q8f16_1"]))
    assert relative(states, model.encode(mel)) < 1e-3
    assert relative(logits, model.logits(model.hidden_states(IDS))) < 2e-3


def test_the_reference_is_transformers(source: Path, mel: NDArray[np.float32]) -> None:
    checkpoint = open_checkpoint(source)
    config = config_from_huggingface(checkpoint.config, 64)
    model = ReferenceModel(config, float_rows(checkpoint))
    states, logits = heard_by_transformers(source, mel)
    assert relative(model.encode(mel), states) < BOUND
    assert relative(model.logits(model.hidden_states(IDS)), logits) < BOUND


def test_8_bits_are_the_default(source: Path, tmp_path: Path) -> None:
    path = build(resolve_config(str(source), output=tmp_path / "out", variants=["wasm-simd"]))
    model = load_artifact(path).model
    assert model["quantization"] == "q8f16_1"
    assert "calibration" not in model


# ------------------------------------------------------------------------------------------------------------ artifact


def test_an_artifact_says_that_it_transcribes(source: Path) -> None:
    artifact = compiled(source, "q0f32")
    speech = artifact.model["speech"]
    assert (speech["mel_bands"], speech["positions"], speech["encoder_layers"]) == (80, POSITIONS, 2)
    assert speech["tokens"]["languages"] == {"en": 258, "de": 259}
    assert speech["tokens"]["suppress"] == SUPPRESSED
    assert speech["tokens"]["no_timestamps"] == 265
    plan = artifact.plans["wasm-simd"]
    assert list(plan["programs"]) == ["decode", *(f"prefill_{n}" for n in plan["prefill_chunks"]), "encode"]
    summary = inspect(artifact.path)
    assert summary["task"] == "transcription"
    assert summary["schemes"]["model.encoder.conv1"] == {"q0f32": 1}
    assert not any("positions" in name for name in summary["schemes"])
    assert [model["task"] for model in Catalogue([artifact.path]).read().models] == ["transcription"]


def test_its_cache_is_kept_in_32_bits(source: Path, tmp_path: Path) -> None:
    (variant,) = compiled(source, "q8f16_1").model["variants"]
    assert variant["kv_dtype"] == "float32"
    with pytest.raises(WispError, match="keeps keys and values in 32 bits: got --kv q8"):
        build(resolve_config(str(source), output=tmp_path / "out", variants=["wasm-simd"], kv="q8"))


def test_what_generates_text_refuses_it(source: Path) -> None:
    with pytest.raises(WispError, match=r"wisp chat is for models that generate text.*use wisp transcribe"):
        load_chat(compiled(source, "q0f32").path)


def test_a_prompt_is_text_alone(source: Path) -> None:
    model = load_model(compiled(source, "q0f32").path, "wasm-simd")
    assert model.text(model.ids(" Ab<|endoftext|>c ")) == " Abc"
    assert model.ids("  ") == []


def test_its_manifest_is_checked(source: Path) -> None:
    artifact = compiled(source, "q0f32")
    cache = json.loads((artifact.path / artifact.model["weights"]).read_text())

    def refused(match: str, change: Any) -> None:
        model, plan = json.loads(json.dumps([artifact.model, artifact.plans["wasm-simd"]]))
        change(model, plan)
        with pytest.raises(WispError, match=match):
            validate(model, cache, {"wasm-simd": plan})

    refused("speech.mel_bands", lambda model, _: model["speech"].update(mel_bands=0))
    refused("speech.tokens.end", lambda model, _: model["speech"]["tokens"].update(end=331))
    refused("programs differ", lambda _, plan: plan["programs"].pop("encode"))
    refused("buffer mel", lambda _, plan: next(b for b in plan["buffers"] if b["name"] == "mel").update(bytes=16))


def test_a_check_compares_states_and_logits(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(compiled(source, "q8f16_1").path, str(source), tokens=24)
    assert report["passed"], report["failures"]
    (variant,) = report["variants"]
    assert 0 < variant["encoder_error"] < 1e-3
    assert variant["encoder_error"] < variant["encoder_against_source"] < 0.1
    assert 0 < variant["max_error"] < variant["bound"]
    print_report(report)
    assert "encoder states   wasm-simd: error" in capsys.readouterr().out


def test_a_check_sees_other_weights(source: Path, tmp_path: Path) -> None:
    other = make_whisper(tmp_path / "other", seed=1)
    report = check(compiled(source, "q8f16_1").path, str(other), tokens=8)
    assert not report["passed"]
    assert any("are not those of the checkpoint" in failure for failure in report["failures"])


# ------------------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("number", [0, 4])
def test_ctranslate2_holds_the_same_network(source: Path, tmp_path: Path, number: int) -> None:
    ours, theirs = open_checkpoint(source), open_checkpoint(write_ctranslate2(source, tmp_path / "ct2", number))
    network = config_from_huggingface(ours.config, 64)
    assert config_from_huggingface(theirs.config, 64) == network
    specs = weight_specs(network)
    theirs.check_weights(specs, tied=True)
    for spec in specs:
        want, got = (np.concatenate(list(checkpoint.blocks(spec))) for checkpoint in (ours, theirs))
        np.testing.assert_array_equal(got, want.astype(np.float16) if number else want)
    assert theirs.stop_token_ids == (256,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-400], "model.bin is damaged"),
        (lambda data: data[:40], "model.bin is damaged"),
        (lambda data: b"\x07" + data[1:], "of version 7, expected WhisperSpec of version 5 or 6"),
        (lambda data: data.replace(b"WhisperSpec", b"WhisperSpek"), "WhisperSpek"),
        (lambda data: data.replace(b"encoder/conv1/bias\0", b"encoder/conv3/bias\0"), "missing.*conv1.bias"),
    ],
)
def test_a_damaged_file_of_ctranslate2_is_refused(source: Path, tmp_path: Path, change: Any, message: str) -> None:
    path = write_ctranslate2(source, tmp_path / "ct2")
    (path / "model.bin").write_bytes(change((path / "model.bin").read_bytes()))
    with pytest.raises(WispError, match=message):
        build(resolve_config(str(path), output=tmp_path / "out", variants=["wasm-simd"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("activation_function", "relu", "only the exact form of GELU"),
        ("num_mel_bins", 100, "80 or 128"),
        ("encoder_attention_heads", 2, "encoder and decoder have heads of one size"),
        ("scale_embedding", True, "not scaled"),
        ("decoder_attention_heads", 5, "a divisor of d_model"),
        ("speaker_embedding", True, "'speaker_embedding' is not supported"),
    ],
)
def test_what_no_kernel_stands_for_is_refused(source: Path, field: str, value: object, message: str) -> None:
    fields = {**json.loads((source / "config.json").read_text()), field: value}
    with pytest.raises(WispError, match=message):
        config_from_huggingface(fields, 64)


def test_published_sizes_are_known() -> None:
    """Sizes of large-v3-turbo and of a distilled model: few layers that speak, many that hear."""
    large = {"model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "decoder_layers": 4, "vocab_size": 51866}
    heads = {f"{side}_attention_heads": 20 for side in ("encoder", "decoder")}
    inner = {f"{side}_ffn_dim": 5120 for side in ("encoder", "decoder")}
    network = config_from_huggingface({**large, **heads, **inner, "num_mel_bins": 128}, 448)
    parameters = sum(int(np.prod(spec.shape)) for spec in weight_specs(network))
    assert round(parameters / 1e6) == 809
    assert network.encoder is not None
    assert network.encoder.frames == 3000


def test_a_text_model_is_asked_to_transcribe(artifact_demo: Path) -> None:
    with pytest.raises(WispError, match=r"wisp transcribe is for models that transcribe.*a model for text-generation"):
        load_model(artifact_demo)


def test_transformers_reads_what_is_compiled(source: Path) -> None:
    """The reference of these tests is the checkpoint, not what this compiler makes of it."""
    model = WhisperForConditionalGeneration.from_pretrained(source)
    theirs, ours = model.state_dict(), reference_model(source).state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
