"""Weights in MLC's format, and artifacts of Wisp, as sources: bit for bit what they hold, or a refusal."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm.contrib import tvmjs

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.cli import main
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.sources.mlc.checkpoint import MlcCheckpoint
from compiler.sources.open import open_checkpoint
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.schemes import SCHEMES
from tests.checkpoints import CHAT_TEMPLATE, make_llama, make_phi3
from tests.mlc_pack import Tensors, llama_tensors, pack, phi3_tensors, write_cache, write_directory

OPTIONS: dict[str, Any] = {"context": 64, "variants": ["webgpu-f32"]}
MAKERS: dict[str, tuple[Callable[..., Path], Callable[[Path], Tensors]]] = {
    "llama": (make_llama, llama_tensors),
    "phi3": (make_phi3, phi3_tensors),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make(root / name) for name, (make, _) in MAKERS.items()}


@pytest.fixture(scope="module")
def packed(checkpoints: dict[str, Path]) -> dict[str, Tensors]:
    return {name: pack(rename(checkpoints[name])) for name, (_, rename) in MAKERS.items()}


@pytest.fixture
def llama(checkpoints: dict[str, Path], packed: dict[str, Tensors], tmp_path: Path) -> Path:
    """A directory to break."""
    return write_directory(tmp_path / "pack", checkpoints["llama"], packed["llama"])


def opened(directory: Path) -> MlcCheckpoint:
    checkpoint = open_checkpoint(directory)
    assert isinstance(checkpoint, MlcCheckpoint)
    return checkpoint


def check(directory: Path) -> MlcCheckpoint:
    """Opens and checks, as a build does before it writes anything."""
    checkpoint = opened(directory)
    model = config_from_huggingface(checkpoint.config, 64)
    checkpoint.check_weights(weight_specs(model), tied=model.tie_word_embeddings)
    return checkpoint


def stored(checkpoint: MlcCheckpoint) -> Tensors:
    specs = weight_specs(config_from_huggingface(checkpoint.config, 64))
    return {name: array for spec in specs for name, array in checkpoint.stored(spec, checkpoint.scheme) or ()}


def assert_same(got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert sorted(got) == sorted(expected)
    for name, tensor in expected.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert got[name].tobytes() == tensor.tobytes(), name


# ------------------------------------------------------------------------------------------------------------ MLC's own


@pytest.mark.parametrize("cache", ["tensor-cache.json", "ndarray-cache.json"])
@pytest.mark.parametrize("kind", MAKERS)
def test_an_artifact_holds_the_sources_bits(
    kind: str, cache: str, checkpoints: dict[str, Path], packed: dict[str, Tensors], tmp_path: Path
) -> None:
    source = write_directory(tmp_path / "pack", checkpoints[kind], packed[kind], cache)
    assert len(list(source.glob("params_shard_*.bin"))) > 1
    artifact = load_artifact(build(resolve_config(str(source), output=tmp_path / "out", **OPTIONS)))
    assert_same({name: artifact.tensor(name) for name in artifact.tensors}, packed[kind])
    model = artifact.model
    assert (model["quantization"], model["context"], model["bos_token_id"]) == ("q4f16_1", 64, 1)
    assert model["stop_token_ids"] == [2, 6], "ids of another vocabulary are left out, stop strings are looked up"
    assert (model["generation"]["temperature"], model["generation"]["top_p"]) == (0.5, 0.75)
    assert model["generation"]["repetition_penalty"] == 1.25
    assert model["tokenizer"] == ["tokenizer.json", "tokenizer_config.json"]
    assert (artifact.path / "tokenizer.json").read_bytes() == (checkpoints[kind] / "tokenizer.json").read_bytes()
    assert "You are a helpful digital assistant." in model["chat_template"]


@pytest.mark.parametrize("kind", MAKERS)
def test_the_network_is_the_checkpoints(
    kind: str, checkpoints: dict[str, Path], packed: dict[str, Tensors], tmp_path: Path
) -> None:
    source = opened(write_directory(tmp_path / "pack", checkpoints[kind], packed[kind]))
    theirs = open_checkpoint(checkpoints[kind])
    assert config_from_huggingface(source.config, 64) == config_from_huggingface(theirs.config, 64)


def edit(directory: Path, name: str, change: Callable[[Any], object]) -> None:
    value = json.loads((directory / name).read_text())
    change(value)
    (directory / name).write_text(json.dumps(value))


def edit_model(directory: Path, **fields: Any) -> None:
    edit(directory, "mlc-chat-config.json", lambda chat: chat["model_config"].update(fields))


def test_rope_scaling_of_llama(llama: Path, checkpoints: dict[str, Path]) -> None:
    scaling: dict[str, Any] = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0}
    scaling |= {"original_max_position_embeddings": 128, "rope_type": "llama3"}
    edit_model(llama, rope_scaling=scaling, position_embedding_base=500000.0)
    theirs = open_checkpoint(checkpoints["llama"]).config | {"rope_parameters": {**scaling, "rope_theta": 500000.0}}
    assert config_from_huggingface(opened(llama).config, 64) == config_from_huggingface(theirs, 64)


def test_long_rope_of_phi3(checkpoints: dict[str, Path], packed: dict[str, Tensors], tmp_path: Path) -> None:
    source = write_directory(tmp_path / "pack", checkpoints["phi3"], packed["phi3"])
    factors = {"long_factor": [1.0 + i / 8 for i in range(48)], "short_factor": [1.0 + i / 64 for i in range(48)]}
    # What MLC makes of `"type": "su"`.
    copies = {"max_position_embeddings": 512, "original_max_position_embeddings": 128}
    scaling = {**factors, "type": "longrope", "rope_type": "longrope", **copies}
    edit_model(source, rope_scaling=scaling, original_max_position_embeddings=128)
    theirs = open_checkpoint(checkpoints["phi3"]).config
    rope = {**factors, "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    theirs = theirs | {"rope_parameters": rope, "original_max_position_embeddings": 128}
    for context in (64, 256):
        ours = config_from_huggingface(opened(source).config, context)
        assert ours == config_from_huggingface(theirs, context)


def test_a_description_that_leaves_ties_out(llama: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    edit(llama, "mlc-chat-config.json", lambda chat: chat["model_config"].pop("tie_word_embeddings"))
    assert check(llama).config["tie_word_embeddings"] is True
    untied = make_llama(tmp_path / "untied", tie_word_embeddings=False)
    other = write_directory(tmp_path / "other", untied, pack(llama_tensors(untied)))
    edit(other, "mlc-chat-config.json", lambda chat: chat["model_config"].pop("tie_word_embeddings"))
    assert check(other).config["tie_word_embeddings"] is False


def test_what_tvm_writes(llama: Path, packed: dict[str, Tensors]) -> None:
    for shard in llama.glob("params_shard_*"):
        shard.unlink()
    (llama / "tensor-cache.json").unlink()
    tvmjs.dump_tensor_cache(packed["llama"], str(llama), meta_data={"ParamSize": 1}, show_progress=False)
    assert_same(stored(check(llama)), packed["llama"])


@pytest.mark.parametrize("kind", MAKERS)
def test_the_checkpoints_own_names(
    kind: str, checkpoints: dict[str, Path], packed: dict[str, Tensors], tmp_path: Path
) -> None:
    """Packs that kept Hugging Face's names, unfused where the checkpoint is."""
    checkpoint = open_checkpoint(checkpoints[kind])
    theirs = pack({name: checkpoint.read(name) for name in checkpoint.tensors})
    assert_same(stored(check(write_directory(tmp_path / "pack", checkpoints[kind], theirs))), packed[kind])


@pytest.mark.parametrize("scheme", ["q0f32", "q0f16"])
def test_floats_that_are_not_quantized(scheme: str, llama: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    exact = {
        n: ((t.view(np.uint32) >> 16) << 16).view(np.float32) for n, t in llama_tensors(checkpoints["llama"]).items()
    }
    if scheme == "q0f16":
        exact = {name: tensor.astype(np.float16) for name, tensor in exact.items()}
    write_cache(llama, exact, "tensor-cache.json")
    edit(llama, "mlc-chat-config.json", lambda chat: chat.update(quantization=scheme))
    artifact = load_artifact(build(resolve_config(str(llama), output=tmp_path / "out", **OPTIONS)))
    assert artifact.model["quantization"] == scheme
    assert_same({name: artifact.tensor(name) for name in artifact.tensors}, exact)


def test_floats_are_converted_only_without_loss(llama: Path, packed: dict[str, Tensors]) -> None:
    exact = np.linspace(0.5, 1.5, 192).astype(np.float16).astype(np.float32)
    exact = ((exact.view(np.uint32) >> 16) << 16).view(np.float32)
    write_cache(llama, {**packed["llama"], "model.norm.weight": exact}, "tensor-cache.json")
    np.testing.assert_array_equal(stored(check(llama))["model.norm.weight"], exact.astype(np.float16))
    exact[7] = 2.0**100
    write_cache(llama, {**packed["llama"], "model.norm.weight": exact}, "tensor-cache.json")
    with pytest.raises(WispError, match=r"model\.norm\.weight does not fit float16"):
        stored(check(llama))


def test_values_for_comparisons(llama: Path, checkpoints: dict[str, Path], packed: dict[str, Tensors]) -> None:
    checkpoint, scheme = check(llama), SCHEMES["q4f16_1"]
    for spec in weight_specs(config_from_huggingface(checkpoint.config, 64)):
        expected = dequantize(spec, packed["llama"], scheme)
        np.testing.assert_array_equal(np.concatenate(list(checkpoint.blocks(spec))), expected)
        first = 0
        for source, rows in zip(spec.sources, spec.source_rows, strict=True):
            np.testing.assert_array_equal(checkpoint.read(source, 3, 11), expected[first + 3 : first + 11])
            first += rows
        # The source was packed from the same weights, so it is near what we would have made of them.
        own = open_checkpoint(checkpoints["llama"])
        if spec.kind == "matrix":
            near = dequantize(spec, dict(quantize(spec, own.blocks(spec), scheme)), scheme)
            assert np.abs(near - expected).mean() < 0.02 * np.abs(near).mean()


# ----------------------------------------------------------------------------------------------------- Wisp's artifacts


@pytest.mark.parametrize(
    ("kind", "scheme", "variants"),
    [("llama", "q4f16_1", ["webgpu-f32-sg", "webgpu-f32"]), ("phi3", "q8f16_1", ["webgpu-f32"])],
)
def test_an_artifact_is_compiled_again(
    kind: str,
    scheme: str,
    variants: list[str],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compiler.artifact.writer.SHARD_BYTES", 40000)  # so that tensors are split over shards
    config = resolve_config(str(checkpoints[kind]), output=tmp_path / "first", quantization=scheme, **OPTIONS)
    first = load_artifact(build(config))
    assert any(len(tensor.parts) > 1 for tensor in first.tensors.values())
    again = load_artifact(build(resolve_config(str(first.path), output=tmp_path / "b", context=128, variants=variants)))
    assert (again.model["context"], again.model["quantization"]) == (128, scheme)
    assert [variant["name"] for variant in again.model["variants"]] == variants
    assert_same({n: again.tensor(n) for n in again.tensors}, {n: first.tensor(n) for n in first.tensors})
    same = ("architecture", "parameters", "generation", "chat_template", "bos_token_id", "stop_token_ids", "tokenizer")
    assert {key: again.model[key] for key in same} == {key: first.model[key] for key in same}
    assert again.model["chat_template"] == CHAT_TEMPLATE
    options = {**OPTIONS, "context": 128, "quantization": scheme}
    direct = build(resolve_config(str(checkpoints[kind]), output=tmp_path / "c", **options))
    plan = "webgpu-f32/plan.json"
    assert (again.path / plan).read_bytes() == (direct / plan).read_bytes()


def test_an_artifact_of_several_schemes(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(f'source = "{checkpoints["phi3"]}"\n[quantization_overrides]\nlm_head = "q8f16_1"\n')
    first = load_artifact(build(resolve_config(str(recipe), output=tmp_path / "first", **OPTIONS)))
    assert first.model["quantization_overrides"] == {"lm_head": "q8f16_1"}
    for i, named in enumerate((None, first.model["quantization"])):
        options = {**OPTIONS, "quantization": named}
        again = load_artifact(build(resolve_config(str(first.path), output=tmp_path / f"again{i}", **options)))
        assert_same({n: again.tensor(n) for n in again.tensors}, {n: first.tensor(n) for n in first.tensors})
        assert again.model["quantization_overrides"] == first.model["quantization_overrides"]
    document = json.loads((first.path / "model.json").read_text())
    (first.path / "model.json").write_text(json.dumps({**document, "schemes": {"lm_head": ["q8f16_1"]}}))
    with pytest.raises(WispError, match=r"model\.json schemes are not usable"):
        build(resolve_config(str(first.path), output=tmp_path / "bad", **OPTIONS))
    (first.path / "model.json").write_text(json.dumps(document))
    recipe.write_text(f'source = "{first.path}"\n[quantization_overrides]\nembedding = "q8f16_1"\n')
    with pytest.raises(WispError, match=r"quantized already.*quantization_overrides.*expected lm_head q8f16_1"):
        build(resolve_config(str(recipe), output=tmp_path / "other", **OPTIONS))


@pytest.mark.parametrize("kind", MAKERS)
def test_what_we_write_for_mlc_is_complete(kind: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Without the files of our own, an artifact reads as a directory of MLC's."""
    config = resolve_config(str(checkpoints[kind]), output=tmp_path / "out", **OPTIONS)
    artifact = build(config)
    ours = opened(artifact)
    for name in ("model.json", "config.json"):
        (artifact / name).unlink()
    theirs = check(artifact)
    networks = [config_from_huggingface(checkpoint.config, 512) for checkpoint in (theirs, ours)]
    assert networks[0] == networks[1]
    assert theirs.stop_token_ids == ours.stop_token_ids
    assert theirs.chat_template == ours.tokenizer_config.get("chat_template")


def test_an_artifact_is_compiled_onto_itself(llama: Path, tmp_path: Path) -> None:
    first = load_artifact(build(resolve_config(str(llama), output=tmp_path / "out", **OPTIONS)))
    before = {name: first.tensor(name) for name in first.tensors}
    again = load_artifact(
        build(resolve_config(str(first.path), output=first.path, context=128, variants=["webgpu-f32"]))
    )
    assert again.model["context"] == 128
    assert_same({name: again.tensor(name) for name in again.tensors}, before)


# ------------------------------------------------------------------------------------------------------------ bad input


def edit_record(tensor: str, **fields: Any) -> Callable[[Path], None]:
    """Changes fields of one tensor's record."""

    def change(directory: Path) -> None:
        def update(cache: Any) -> None:
            records = [record for shard in cache["records"] for record in shard["records"]]
            next(record for record in records if record["name"] == tensor).update(fields)

        edit(directory, "tensor-cache.json", update)

    return change


def edit_shard(**fields: Any) -> Callable[[Path], None]:
    return lambda directory: edit(directory, "tensor-cache.json", lambda cache: cache["records"][0].update(fields))


def edit_chat(**fields: Any) -> Callable[[Path], None]:
    return lambda directory: edit(directory, "mlc-chat-config.json", lambda chat: chat.update(fields))


def drop_window(directory: Path) -> None:
    edit_model(directory, context_window_size=None)


def flip_bit(directory: Path) -> None:
    data = bytearray((directory / "params_shard_1.bin").read_bytes())
    data[100] ^= 1
    (directory / "params_shard_1.bin").write_bytes(data)


def append(directory: Path) -> None:
    with (directory / "params_shard_0.bin").open("ab") as file:
        file.write(b"more")


def write_text(name: str, text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(text)


NORM = "model.norm.weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "the transposed scheme": (edit_chat(quantization="q4f16_0"), r"q4f16_0.*transposed.*expected q4f16_1"),
    "another scheme": (edit_chat(quantization="q4f16_ft"), "quantization is not supported: got 'q4f16_ft'"),
    "no scheme": (edit_chat(quantization=None), "quantization is not supported: got None"),
    "another architecture": (edit_chat(model_type="gpt_neox"), "architecture is not supported.*gpt_neox"),
    "no model_config": (edit_chat(model_config=None), "model_config is not usable: got NoneType"),
    "an unknown field": (lambda d: edit_model(d, new_trick=3), "new_trick"),
    "several GPUs": (lambda d: edit_model(d, tensor_parallel_shards=2), "tensor_parallel_shards.*got 2"),
    "no context": (
        lambda d: [change(d) for change in (edit_chat(context_window_size=None), drop_window)],
        "max_position_embeddings",
    ),
    "a bit": (flip_bit, r"params_shard_1\.bin is damaged: got MD5 .*expected"),
    "more bytes": (append, r"params_shard_0\.bin is not whole: got \d+ bytes, expected \d+"),
    "no shard": (lambda d: (d / "params_shard_1.bin").unlink(), r"params_shard_1\.bin is not whole: got no such file"),
    "a path": (edit_shard(dataPath="../params_shard_0.bin"), "dataPath: got '../params_shard_0.bin'"),
    "another kind of shard": (edit_shard(format="zip"), "params_shard_0.bin format: got 'zip'"),
    "no records": (write_text("tensor-cache.json", '{"records": []}'), "records: got.*a list of shards"),
    "other records": (write_text("tensor-cache.json", '{"records": [3]}'), "tensor-cache.json is not usable"),
    "no JSON": (write_text("tensor-cache.json", "{"), "tensor-cache.json cannot be read"),
    "a renamed tensor": (
        edit_record(NORM, name="model.final.weight"),
        r"1 missing: model\.norm\.weight; 1 unexpected: model\.final\.weight",
    ),
    "a tensor twice": (edit_record(NORM, name="model.layers.0.input_layernorm.weight"), "a part from row 0 on"),
    "another type": (
        edit_record("model.embed_tokens.q_scale", dtype="bfloat16"),
        "embed_tokens.q_scale dtype: got 'bfloat16'",
    ),
    "another encoding": (edit_record(NORM, format="zstd"), "norm.weight format: got 'zstd'"),
    "another size": (edit_record(NORM, nbytes=380), "norm.weight nbytes: got 380, expected 384"),
    "an overlap": (edit_record(NORM, byteOffset=0), "byteOffset: got"),
    "another shape": (
        edit_record("model.embed_tokens.q_scale", shape=[662, 3]),
        r"embed_tokens\.q_scale float16 \[662, 3\] instead of float16 \[331, 6\]",
    ),
    "words as floats": (
        edit_record("model.embed_tokens.q_weight", dtype="float32", format="raw"),
        "embed_tokens.q_weight float32.*instead of uint32",
    ),
    "a transposed tensor": (
        edit_record("model.embed_tokens.q_weight", shape=[24, 331]),
        r"model\.embed_tokens\.q_weight is in the transposed layout of q4f16_0.*\[24, 331\].*\[331, 24\]",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_hold_together_is_refused(
    case: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = BAD[case]
    damage(llama)
    options = ["--context", "64", "--variants", "webgpu-f32", "-o", str(tmp_path / "out")]
    assert main(["compile", str(llama), *options]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wisp: ")]
    with pytest.raises(WispError, match=message):
        raise WispError(error[0])
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_scales_that_are_not_numbers(llama: Path, packed: dict[str, Tensors]) -> None:
    scales = packed["llama"]["model.embed_tokens.q_scale"].copy()
    scales[3, 1] = np.nan
    write_cache(llama, {**packed["llama"], "model.embed_tokens.q_scale": scales}, "tensor-cache.json")
    with pytest.raises(WispError, match=r"model\.embed_tokens\.q_scale holds NaN"):
        stored(check(llama))


def test_nothing_more_than_taking_it_as_it_is(llama: Path, tmp_path: Path) -> None:
    for fields, message in (
        ({"quantization": "q8f16_1"}, "quantized already: got --quant q8f16_1, expected q4f16_1"),
        ({"lora": tmp_path}, "an adapter cannot be merged.*compile the original checkpoint"),
    ):
        with pytest.raises(WispError, match=message):
            build(resolve_config(str(llama), output=tmp_path / "out", **OPTIONS, **fields))
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
