"""Hostile and merely unusual configurations: finite numbers or one clear refusal, and no other network."""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from compiler.build import build
from compiler.cli import main
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface
from compiler.models.base import ModelConfig
from compiler.sources.gguf.architecture import FAMILIES, huggingface_config
from compiler.sources.gguf.metadata import Metadata
from compiler.sources.open import open_checkpoint
from tests.checkpoints import FAMILY_DEFAULTS, make_llama
from tests.gguf_files import write_gguf

SIZES = {name: FAMILY_DEFAULTS[name] for name in FAMILY_DEFAULTS if "token" not in name} | {"hidden_size": 128}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 16,
    "long_factor": [2.0] * 16,
    "factor": 4.0,
    "attention_factor": 1.1,
    "original_max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

CLASSES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama3": (LlamaConfig, {"rope_parameters": LLAMA3, "head_dim": 32}),
    "linear": (LlamaConfig, {"rope_parameters": LINEAR}),
    "mistral": (MistralConfig, {"sliding_window": 64, "head_dim": 32}),
    "phi": (PhiConfig, {"rope_parameters": PARTIAL}),
    "phi3": (Phi3Config, {"sliding_window": 64}),
    "longrope": (Phi3Config, {"rope_parameters": LONGROPE, "original_max_position_embeddings": 128}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 32}),
    "yarn": (LlamaConfig, {"rope_parameters": YARN}),
    "dynamic": (LlamaConfig, {"rope_parameters": DYNAMIC}),
    "gemma2": (Gemma2Config, {"head_dim": 32}),
    "gemma3": (Gemma3TextConfig, {"head_dim": 32}),
    "granite": (GraniteConfig, {"attention_multiplier": 0.1}),
    "smollm3": (SmolLM3Config, {"pad_token_id": 0}),
    "olmo2": (Olmo2Config, {}),
}
ABSURD: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 10**400, -(10**400), 2**31, 2**63, 2**64),
    *(0.0, 0.5, -0.5, 1e308, -1e308, 1e-308, 5e-324, 1e-40, 1e39, math.nan, math.inf, -math.inf),
    *(None, True, False, "", "1", "silu", [], [1], [[1]], [math.nan], {}, {"a": 1}, {"rope_type": 3}),
]


def fields_of(family: str) -> dict[str, Any]:
    """What transformers writes, every field."""
    config_class, special = CLASSES[family]
    config = config_class(**{**SIZES, "vocab_size": 331, **copy.deepcopy(special)})
    fields: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return fields


def changed(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Each field, also the inner ones and each number of a list, with each absurd value."""
    for name, value in fields.items():
        for absurd in ABSURD:
            yield name, absurd, {**fields, name: absurd}
            if isinstance(value, list) and value:
                yield f"{name}[0]", absurd, {**fields, name: [absurd, *value[1:]]}
        if isinstance(value, dict):
            for inner, absurd, whole in changed(value):
                yield f"{name}.{inner}", absurd, {**fields, name: whole}


def numbers(config: ModelConfig) -> Iterator[float]:
    """Of the layers, which are of as many kinds as differ, and around them."""
    yield from (config.final_norm.epsilon, config.embedding_scale, config.logits_scale)
    for rope in config.ropes:
        yield from (rope.scaling, *rope.inv_freq)
    for layer in dict.fromkeys(config.layers):
        yield from (layer.residual_scale, layer.attention.scale or 1.0, layer.attention.soft_cap or 1.0)


def check_finite(config: ModelConfig) -> None:
    """Every number is one that float32 holds."""
    for number in numbers(config):
        assert 1e-37 < number < 1e37
    assert all(rope.dim <= config.head_dim for rope in config.ropes)


@pytest.mark.parametrize("family", CLASSES)
def test_an_absurd_value_is_refused_or_gives_finite_numbers(family: str) -> None:
    fields = fields_of(family)
    old = {k: v for k, v in fields.items() if k != "rope_parameters"}
    rope = fields["rope_parameters"].get("full_attention", fields["rope_parameters"])
    old |= {"rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"}}
    old |= {"rope_theta": 10000.0, "partial_rotary_factor": rope.get("partial_rotary_factor")}
    refused: list[WispError] = []
    for base in (fields, old, {**fields, "head_dim": None, "num_key_value_heads": None}):
        for context in (64, 512):
            check_finite(config_from_huggingface(base, context))
        for _, _, given in changed(base):
            try:
                check_finite(config_from_huggingface(given, 64))
            except WispError as error:
                refused.append(error)
    assert len(refused) > 500
    assert max(len(str(error)) for error in refused) < 500


@pytest.mark.parametrize(
    ("family", "path", "value"),
    [
        ("phi3", "original_max_position_embeddings", 1),
        ("longrope", "rope_parameters.original_max_position_embeddings", 1),
        ("phi", "rope_parameters.partial_rotary_factor", 1e308),
        ("phi3", "rope_parameters.partial_rotary_factor", 1e308),
        ("llama", "rms_norm_eps", 10**400),
        ("llama", "rms_norm_eps", 1e308),
        ("llama", "rope_parameters.rope_theta", 1e-308),
        ("llama", "rope_parameters.rope_type", 3),
        ("llama3", "rope_parameters.factor", 1e-308),
        ("linear", "rope_parameters.factor", 1e-308),
        ("longrope", "rope_parameters.attention_factor", 1e308),
    ],
)
def test_an_absurd_number_is_refused_by_name(family: str, path: str, value: Any) -> None:
    fields = fields_of(family)
    *outer, name = path.split(".")
    (fields[outer[0]] if outer else fields)[name] = value
    with pytest.raises(WispError, match=name) as caught:
        config_from_huggingface(fields, 512)
    assert caught.value.got is not None
    assert caught.value.expected is not None


def test_an_absurd_config_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_llama(tmp_path / "model")
    text = (tmp_path / "model" / "config.json").read_text()
    fields = json.loads(text) | {"rms_norm_eps": 0}
    absurd = json.dumps(fields).replace('"rms_norm_eps": 0', f'"rms_norm_eps": {"9" * 400}')
    (tmp_path / "model" / "config.json").write_text(absurd)
    assert main(["compile", str(tmp_path / "model"), "-o", str(tmp_path / "out")]) == 2
    assert "rms_norm_eps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------------- GGUF


def metadata_of(checkpoint: Path, file: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The metadata of a file as it is read, and the shapes of its tensors."""
    from compiler.sources.gguf.reader import read_header

    header = read_header(write_gguf(checkpoint, file))
    return dict(header.metadata), {name: tensor.shape for name, tensor in header.tensors.items()}


def test_absurd_gguf_metadata_is_refused_or_gives_finite_numbers(tmp_path: Path) -> None:
    values, shapes = metadata_of(make_llama(tmp_path / "model"), tmp_path / "model.gguf")
    refused = accepted = 0
    for architecture in FAMILIES:
        renamed = {key.replace("llama.", f"{architecture}."): value for key, value in values.items()}
        renamed |= {
            "general.architecture": architecture,
            f"{architecture}.attention.layer_norm_epsilon": 1e-5,
            f"{architecture}.attention.sliding_window": 0,
            f"{architecture}.rope.scaling.type": "linear",
            f"{architecture}.rope.scaling.factor": 2.0,
            f"{architecture}.rope.scaling.attn_factor": 1.0,
            f"{architecture}.rope.scaling.original_context_length": 128,
        }
        if architecture != "phi2":
            del renamed[f"{architecture}.attention.layer_norm_epsilon"]
        for key in [key for key in renamed if not key.startswith("tokenizer.")]:
            for absurd in ABSURD:
                if isinstance(absurd, dict):  # GGUF has none
                    continue
                given = Metadata("model.gguf", renamed | {key: absurd})
                try:
                    check_finite(config_from_huggingface(huggingface_config(given, shapes, lambda name: None), 64))
                    accepted += 1
                except WispError:
                    refused += 1
    assert refused > 1000
    assert accepted > 0


def test_rope_of_an_original_context_of_one_is_refused(tmp_path: Path) -> None:
    values, shapes = metadata_of(make_llama(tmp_path / "model"), tmp_path / "model.gguf")
    given = Metadata("model.gguf", values | {"llama.rope.scaling.original_context_length": 1})
    with pytest.raises(WispError, match="original_context_length"):
        huggingface_config(given, shapes, lambda name: None)


@pytest.mark.parametrize("value", [False, 0, "", 3])
def test_unknown_gguf_metadata_is_refused_unless_ignored(tmp_path: Path, value: Any) -> None:
    values, shapes = metadata_of(make_llama(tmp_path / "model"), tmp_path / "model.gguf")
    given = values | {"llama.attention.rotated_twice": value}
    with pytest.raises(WispError, match=r"rotated_twice.*--ignore-field llama\.attention\.rotated_twice"):
        huggingface_config(Metadata("model.gguf", given), shapes, lambda name: None)
    ignored = ["llama.attention.rotated_twice"]
    plain = huggingface_config(Metadata("model.gguf", values), shapes, lambda name: None)
    assert huggingface_config(Metadata("model.gguf", given), shapes, lambda name: None, ignored) == plain
    for neutral in ({"llama.expert_count": 0}, {"llama.rope.scaling.finetuned": False}):
        assert huggingface_config(Metadata("model.gguf", values | neutral), shapes, lambda name: None) == plain


def test_a_gguf_file_is_opened_with_an_ignored_field(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_bool("llama.attention.rotated_twice", False)

    file = write_gguf(make_llama(tmp_path / "model"), tmp_path / "model.gguf", metadata=add)
    with pytest.raises(WispError, match="rotated_twice"):
        open_checkpoint(file)
    assert open_checkpoint(file, ignored_fields=["llama.attention.rotated_twice"]).config["hidden_size"] == 192


# -------------------------------------------------------------------------------------------------------------- recipes

RECIPE_KEYS = [
    *("source", "revision", "id", "name", "quantization", "scales", "context", "prefill_chunks", "variants"),
    *("suggestions", "generation", "architecture", "ignore_fields", "quantization_overrides"),
    *(f"generation.{key}" for key in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")),
    *("quantization_overrides.embedding", "quantization_overrides.down"),
]
TOML_VALUES = [
    *("0", "-1", "true", "false", "1e308", "1e-308", "nan", "inf", "-inf", "9" * 400, "9" * 5000, "1979-05-27"),
    *("''", "'x'", "'~nobody-here/x'", "'\u0000'".replace("\u0000", "\\u0000"), '"\\u0000"', f"'{'x' * 5000}'"),
    *("[]", "[1]", "['a', 1]", "[['a']]", "[nan]", "[{a = 1}]", "{}", "{a = 1}", "{embedding = ['x']}"),
]


@pytest.mark.parametrize("key", RECIPE_KEYS)
def test_an_absurd_recipe_is_refused_or_complete(tmp_path: Path, key: str) -> None:
    path = tmp_path / "recipe.toml"
    for value in TOML_VALUES:
        source = "" if key == "source" else 'source = "org/model"\n'
        path.write_text(f"{source}{key} = {value}\n")
        try:
            config = resolve_config(str(path))
        except WispError:
            continue
        assert all(math.isfinite(number) for number in config.generation.values())


# --------------------------------------------------------------------------------------------------- unknown and inert

# `PretrainedConfig.to_dict` of transformers 4 wrote these into every config.json, with these defaults.
TRANSFORMERS_4: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "torch_dtype": "bfloat16",
    "use_bfloat16": False,
    "tf_legacy_loss": False,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "architectures": ["LlamaForCausalLM"],
    "finetuning_task": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "tokenizer_class": None,
    "prefix": None,
    "bos_token_id": 1,
    "pad_token_id": None,
    "eos_token_id": 2,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "task_specific_params": None,
    "problem_type": None,
    "_name_or_path": "somebody/model",
    "_attn_implementation_autoset": True,
    "transformers_version": "4.46.0",
}
# What published fine-tunes hold besides.
PUBLISHED: dict[str, Any] = {
    "max_length": 4096,
    "attn_implementation": "flash_attention_2",
    "tokenizer_padding_side": "right",
    "tokenizer_model_max_length": 2048,
    "max_sequence_length": 2048,
    "use_flash_attn": True,
    "unsloth_version": "2024.9",
    "rope_interleaved": False,
    "is_llama_config": True,
    "attention_bias": False,
    "use_mrope": False,
}


@pytest.mark.parametrize("family", CLASSES)
def test_what_transformers_writes_is_read(family: str) -> None:
    fields = fields_of(family)
    plain = config_from_huggingface(fields, 64)
    others = {name: value for name, value in TRANSFORMERS_4.items() if name != "tie_word_embeddings"}
    assert config_from_huggingface({**fields, **others}, 64) == plain
    assert config_from_huggingface({**PUBLISHED, **fields}, 64) == plain


@pytest.mark.parametrize("family", ["llama", "mistral", "phi3", "qwen2", "qwen3"])
def test_the_other_name_of_the_activation(family: str) -> None:
    fields = fields_of(family)
    assert config_from_huggingface({**fields, "activation": "swiglu"}, 64) == config_from_huggingface(fields, 64)
    with pytest.raises(WispError, match="'activation'"):
        config_from_huggingface({**fields, "activation": "gelu"}, 64)


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("value", [False, 0, "", [], {}, 0.0])
def test_an_unknown_field_is_refused_with_any_value(family: str, value: Any) -> None:
    for name in ("use_rms_norm", "is_causal", "scale_embeddings"):
        with pytest.raises(WispError, match=rf"'{name}'.*--ignore-field {name}"):
            config_from_huggingface({**fields_of(family), name: value}, 64)
    config_from_huggingface({**fields_of(family), "scale_embeddings": None, "is_causal": True}, 64)


def test_a_neutral_value_is_of_its_type() -> None:
    for name, neutral, other in (("mlp_bias", False, 0), ("num_experts", 0, False), ("is_encoder_decoder", False, 0)):
        fields = fields_of("qwen2")
        config_from_huggingface({**fields, name: neutral}, 64)
        with pytest.raises(WispError, match=name):
            config_from_huggingface({**fields, name: other}, 64)


def test_ignored_fields_of_arguments_and_recipe(tmp_path: Path) -> None:
    directory = make_llama(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config |= {"use_rms_norm": False, "scale_embeddings": 1.5}
    config["rope_parameters"] |= {"spiral": 0}
    (directory / "config.json").write_text(json.dumps(config))
    path = tmp_path / "recipe.toml"
    path.write_text('source = "./model"\nignore_fields = ["scale_embeddings", "rope_parameters.spiral"]\n')
    output = tmp_path / "out"
    with pytest.raises(WispError, match="--ignore-field use_rms_norm"):
        build(resolve_config(str(path), output=output, variants=["wasm-simd"]))
    assert not output.exists()
    chosen = resolve_config(str(path), output=output, variants=["wasm-simd"], ignore_fields=["use_rms_norm"])
    assert chosen.ignore_fields == ("scale_embeddings", "rope_parameters.spiral", "use_rms_norm")
    build(chosen)
    model = json.loads((output / "model.json").read_text())
    assert model["source"]["ignored_fields"] == list(chosen.ignore_fields)
    written = json.loads((output / "config.json").read_text())
    assert not {"use_rms_norm", "scale_embeddings"} & set(written)
    assert "spiral" not in written["rope_parameters"], "the artifact can be compiled again"


def test_a_field_that_is_read_cannot_be_ignored() -> None:
    from compiler.models import without_ignored

    fields = fields_of("llama3")
    assert without_ignored(fields, ["rope_parameters", "rope_theta", "hidden_size", "mlp_bias"]) == fields
    bad = {**fields, "rope_parameters": {"rope_type": "spiral", "factor": 2.0}}
    with pytest.raises(WispError, match="spiral"):
        without_ignored(bad, ["rope_parameters"])


def test_what_json_cannot_say_is_not_copied(tmp_path: Path) -> None:
    directory = make_llama(tmp_path / "model")
    text = (directory / "config.json").read_text().rstrip().removesuffix("}")
    (directory / "config.json").write_text(text + ', "temperature": NaN, "task_specific_params": "\\ud800"}')
    build(resolve_config(str(directory), output=tmp_path / "out", variants=["wasm-simd"]))
    assert "NaN" not in (tmp_path / "out" / "config.json").read_text()
