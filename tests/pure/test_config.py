"""Recipes and arguments -> BuildConfig."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from compiler.artifact.state import SAMPLING_RANGES, SamplingParameters
from compiler.config import (
    DEFAULT_GENERATION,
    clip_prefill_chunks,
    default_context,
    generation_defaults,
    resolve_config,
)
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.target.variants import VARIANTS

RECIPES = Path(__file__).resolve().parent.parent.parent / "configs"


def recipe(tmp_path: Path, text: str) -> str:
    path = tmp_path / "Some Model.toml"
    path.write_text(text)
    return str(path)


def test_a_directory_with_every_default(tmp_path: Path) -> None:
    directory = tmp_path / "My Model (v1)"
    directory.mkdir()
    config = resolve_config(str(directory))
    assert (config.source, config.source_kind, config.revision) == (str(directory), "directory", None)
    assert (config.id, config.output) == ("my-model-v1", Path("artifacts/my-model-v1"))
    assert (config.quantization, config.context, config.weights) == ("auto", None, "full")
    assert config.prefill_chunks == (256, 64, 16, 8)
    assert config.variants == tuple(VARIANTS)
    assert config.architecture is None


def test_a_hub_id_with_a_revision() -> None:
    config = resolve_config("Org/Model-1.5B@v2")
    assert (config.source, config.source_kind, config.revision) == ("Org/Model-1.5B", "hub", "v2")
    assert config.id == "model-1.5b"
    assert resolve_config("Org/Model@v2", revision="main").revision == "main"


def test_arguments_win_over_the_recipe(tmp_path: Path) -> None:
    path = recipe(
        tmp_path,
        """
        source = "org/model"
        revision = "abc"
        id = "chosen"
        quantization = "q8f16_1"
        context = 1024
        prefill_chunks = [16, 128, 16]
        variants = ["wasm-simd", "webgpu-f32"]
        suggestions = ["Hello"]
        [generation]
        temperature = 0
        """,
    )
    config = resolve_config(path)
    assert (config.id, config.revision, config.quantization, config.context) == ("chosen", "abc", "q8f16_1", 1024)
    assert config.prefill_chunks == (128, 16)
    assert config.variants == ("webgpu-f32", "wasm-simd"), "best first"
    assert config.generation == {"temperature": 0}
    assert config.suggestions == ("Hello",)
    config = resolve_config(
        path, identifier="other", quantization="q0f16", context=64, variants=["webgpu-f32"], output=tmp_path / "out"
    )
    assert (config.id, config.quantization, config.context) == ("other", "q0f16", 64)
    assert (config.variants, config.output) == (("webgpu-f32",), tmp_path / "out")


def test_a_recipe_names_itself_after_its_file(tmp_path: Path) -> None:
    assert resolve_config(recipe(tmp_path, 'source = "org/model"')).id == "some-model"


def test_a_path_in_a_recipe_is_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    config = resolve_config(recipe(tmp_path, 'source = "./weights"'))
    assert (config.source_kind, Path(config.source)) == ("directory", tmp_path / "weights")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no source"),
        ("source = 3", "source"),
        ('source = "./missing"', "./missing"),
        ('source = "org/model"\ncontex = 3', "contex"),
        ('source = "org/model"\ncontext = 3', "context"),
        ('source = "org/model"\ncontext = true', "context"),
        ('source = "org/model"\ncontext = "4096"', "context"),
        ('source = "org/model"\nquantization = "q3"', "q4f16_1 or q8f16_1"),
        ('source = "org/model"\nvariants = ["webgl"]', "webgl"),
        ('source = "org/model"\nvariants = []', "variants"),
        ('source = "org/model"\nprefill_chunks = []', "prefill"),
        ('source = "org/model"\nprefill_chunks = [0]', "prefill"),
        ('source = "org/model"\nprefill_chunks = ["16"]', "prefill"),
        ('source = "org/model"\nid = "../x"', "id"),
        ('source = "org/model"\nsuggestions = [1]', "suggestions"),
        ('source = "org/model"\n[generation]\ntemprature = 1', "temprature"),
        ('source = "org/model"\n[generation]\ntemperature = -1', "temperature"),
        ('source = "org/model"\n[generation]\ntop_k = 1.5', "top_k"),
        ("source = ", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_bad_recipe_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(WispError, match=named):
        resolve_config(str(path))


def test_a_bad_argument_is_refused(tmp_path: Path) -> None:
    for bad in ({"quantization": "q3"}, {"context": 4}, {"variants": ["x"]}, {"identifier": "a/b"}, {"identifier": ""}):
        with pytest.raises(WispError):
            resolve_config("org/model", **bad)
    (tmp_path / "model.onnx").write_bytes(b"ONNX")
    for source in (
        "nothing-here",
        "./nothing/here",
        "a/b/c",
        str(tmp_path / "model.onnx"),
        str(tmp_path / "no.toml"),
        "",
    ):
        with pytest.raises(WispError):
            resolve_config(source)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_position_embeddings": 131072}, 4096),
        ({"max_position_embeddings": 1024}, 1024),
        ({"max_position_embeddings": 131072, "original_max_position_embeddings": 2048}, 2048),
        ({"max_position_embeddings": 4096, "sliding_window": 2047}, 4096),
        ({"max_position_embeddings": 4096, "sliding_window": None}, 4096),
        ({}, 4096),
    ],
)
def test_the_default_context(fields: dict[str, Any], expected: int) -> None:
    assert default_context(fields) == expected


def test_prefill_chunks_fit_the_context() -> None:
    assert clip_prefill_chunks((256, 64, 16), 4096) == (256, 64, 16)
    assert clip_prefill_chunks((256, 64, 16), 100) == (64, 16)
    assert clip_prefill_chunks((256,), 100) == (100,)


def test_sampling_ranges_are_those_of_the_page() -> None:
    golden = json.loads((RECIPES.parent / "tests" / "golden" / "sampling.json").read_text())
    assert {name: list(row) for name, row in SAMPLING_RANGES.items()} == golden["ranges"]


def test_generation_defaults_take_the_field_s_ways_to_say_off_and_greedy() -> None:
    assert generation_defaults({"top_p": 0, "top_k": -1}, {})["top_p"] == 0
    assert generation_defaults({"top_k": -1}, {})["top_k"] == 0
    with pytest.raises(WispError, match=r"generation_config\.json top_k.*-2"):
        generation_defaults({"top_k": -2}, {})


@pytest.mark.parametrize(
    "sampling", [SamplingParameters(temperature=1e-38), SamplingParameters(temperature=1, top_p=0, top_k=-1)]
)
def test_the_sampler_is_told_to_be_greedy(sampling: SamplingParameters) -> None:
    temperature, top_k = struct.unpack("<fI", sampling.words()[4:12])
    assert (temperature, top_k) == (0, 0)


def test_generation_defaults() -> None:
    assert generation_defaults({}, {}) == DEFAULT_GENERATION
    stated = {"temperature": 0.6, "top_p": None, "top_k": 50, "eos_token_id": 2, "do_sample": True}
    assert generation_defaults(stated, {"top_p": 0.8}) == {
        "temperature": 0.6,
        "top_k": 50,
        "top_p": 0.8,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    assert generation_defaults({"do_sample": False, "temperature": 0.6}, {})["temperature"] == 0
    with pytest.raises(WispError, match=r"generation_config\.json top_p"):
        generation_defaults({"top_p": 2}, {})


@pytest.mark.parametrize(
    ("name", "parameters"), [("llama-3.2-1b-instruct", 1_235_814_400), ("phi-3-mini-4k-instruct", 3_821_079_552)]
)
def test_the_recipes_that_come_along(name: str, parameters: int) -> None:
    config = resolve_config(str(RECIPES / f"{name}.toml"), weights="none")
    assert config.architecture is not None
    assert config.context is not None
    model = config_from_huggingface(config.architecture, config.context)
    assert sum(math.prod(spec.shape) for spec in weight_specs(model)) == parameters, "as the model's card says"


@pytest.mark.parametrize("name", ["phi-2", "phi-2.toml", "configs/phi-2", "configs/phi-2.toml"])
def test_what_comes_along_is_known_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_config(name) == resolve_config(str(RECIPES / "phi-2.toml"))
    assert resolve_config("configs/demo").source == resolve_config("demo").source == str(RECIPES / "demo")
    (tmp_path / "demo").mkdir()
    assert resolve_config("demo").source == "demo", "what is here comes first"
    for other in ("phi-2000", "configs/../demo", "../configs/phi-2", "configs/phi/2"):
        with pytest.raises(WispError):
            resolve_config(other)


def test_a_directory_may_hold_a_recipe(tmp_path: Path) -> None:
    assert resolve_config(str(tmp_path)).scales == "search"
    text = 'name = "A title"\nscales = "absmax"\ncontext = 64\nsuggestions = ["Hi"]\n'
    (tmp_path / "wisp.toml").write_text(text)
    config = resolve_config(str(tmp_path), context=128)
    assert (config.source, config.source_kind) == (str(tmp_path), "directory")
    assert (config.name, config.scales, config.context) == ("A title", "absmax", 128), "arguments win"
    assert config.suggestions == ("Hi",)
    (tmp_path / "wisp.toml").write_text('scale = "absmax"\n')
    with pytest.raises(WispError, match="unknown keys"):
        resolve_config(str(tmp_path))


@pytest.mark.parametrize(
    "line",
    ['id = "demo"', 'source = "org/other"', 'revision = "main"', 'ignore_fields = ["x"]', "[architecture]\nx = 1"],
)
def test_a_checkpoint_does_not_say_what_the_user_says(tmp_path: Path, line: str) -> None:
    (tmp_path / "wisp.toml").write_text(line)
    with pytest.raises(WispError, match=rf"only the user.*got {line.strip('[').split(' ')[0].split(']')[0]}.*-o"):
        resolve_config(str(tmp_path))


def test_a_recipe_of_a_directory_is_no_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.toml").write_text('name = "A secret"')
    (tmp_path / "model" / "wisp.toml").symlink_to(tmp_path / "secret.toml")
    with pytest.raises(WispError, match=r"wisp\.toml is a link"):
        resolve_config(str(tmp_path / "model"))


def test_the_output_is_named_by_the_user_or_after_the_source(tmp_path: Path) -> None:
    directory = tmp_path / "Some Model"
    directory.mkdir()
    derived = resolve_config(str(directory))
    assert (derived.id, derived.output, derived.output_named) == ("some-model", Path("artifacts/some-model"), False)
    assert resolve_config("org/Model").output == Path("artifacts/model")
    assert not resolve_config("org/Model").output_named
    assert resolve_config(str(directory), identifier="mine").output_named
    assert resolve_config(str(directory), output=tmp_path / "out").output_named
    assert resolve_config(recipe(tmp_path, 'source = "org/model"')).output_named


def test_overrides_are_checked_and_those_of_the_main_scheme_dropped(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('source = "org/model"\n[quantization_overrides]\nembedding = "q8f16_1"\nlm_head = "q4f16_1"\n')
    assert resolve_config(str(recipe)).quantization_overrides == {"embedding": "q8f16_1", "lm_head": "q4f16_1"}
    named = resolve_config(str(recipe), quantization="q4f16_1")
    assert named.quantization_overrides == {"embedding": "q8f16_1"}, "without those that are the main one"
    assert resolve_config(str(recipe), quantization="q8f16_1").quantization_overrides == {"lm_head": "q4f16_1"}
    recipe.write_text('source = "org/model"\n[quantization_overrides]\nqkv = "q8f16_1"\n')
    with pytest.raises(WispError, match="unknown key"):
        resolve_config(str(recipe))
