"""What the documents list is what there is: commands in README.md, names of weights in compiler/artifact/FORMAT.md."""

import re
import tomllib
from dataclasses import replace

import pytest

from compiler import cli
from compiler.models import ARCHITECTURES, config_from_huggingface, weight_specs
from compiler.models.base import HeadNorm
from compiler.recipes import recipe_paths
from tests.conftest import ROOT

FORMAT = (ROOT / "compiler" / "artifact" / "FORMAT.md").read_text()

# Of a network whose architecture has no recipe.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "use_qkv_bias": True,
}


def test_the_readme_lists_every_command() -> None:
    listed = re.findall(r"^\| `wisp (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    (commands,) = (action for action in cli._parser()._actions if action.choices)
    assert commands.choices is not None
    assert set(listed) == set(commands.choices)
    assert len(listed) == len(set(listed))


def documented(model_type: str) -> set[str]:
    """The names of FORMAT.md's row for an architecture."""
    named = {
        "phi": "Phi (1",
        "ministral3": "Ministral 3",
        "internlm2": "InternLM 2",
        "phi3": "Phi-3",
        "olmo2": "OLMo 2",
        "gemma2": "Gemma 2",
        "gemma3_text": "Gemma 3",
    }
    title = named.get(model_type, model_type)
    rows = [line for line in FORMAT.splitlines() if line.startswith("| ") and "behind `" in line]
    (row,) = (line for line in rows if title.lower() in line.split("|")[1].lower().strip().split(", "))
    _, _, around, layer, _ = row.split("|")
    prefix, *names = re.findall(r"`([^`]+)`", layer)
    return {*re.findall(r"`([^`]+)`", around), *(prefix + name for name in names)}


def test_the_format_names_every_weight_of_whisper() -> None:
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    sizes = {f"{side}_{name}": 16 for side in ("encoder", "decoder") for name in ("layers", "ffn_dim")}
    raw = {"model_type": "whisper", "d_model": 16, "vocab_size": 64, **heads, **sizes}
    names = {re.sub(r"\.\d+\.", ".{i}.", spec.name) for spec in weight_specs(config_from_huggingface(raw, 64))}
    assert names == documented("whisper") | documented("whisper's encoder")


@pytest.mark.parametrize("model_type", [name for name in ARCHITECTURES if name != "whisper"])
def test_the_format_names_every_weight(model_type: str) -> None:
    """Of a network with all that an architecture may have; the row names nothing else."""
    stated = [tomllib.loads(path.read_text())["architecture"] for path in recipe_paths()]
    raw = next((fields for fields in stated if fields["model_type"] == model_type), {**SIZES, "model_type": model_type})
    if model_type == "ministral3":
        raw = {name: value for name, value in raw.items() if name != "use_qkv_bias"}
    model = replace(config_from_huggingface(raw, 64), tie_word_embeddings=False)
    layer = model.layers[0]
    if not model_type.startswith(("phi", "stablelm", "exaone", "internlm2")):
        head_norm = layer.attention.head_norm or HeadNorm(model.final_norm)
        attention = replace(layer.attention, bias=True, output_bias=True, head_norm=head_norm)
        biased = model_type not in ("gemma2", "gemma3_text", "olmo2")
        fullest = replace(layer, attention=attention, mlp=replace(layer.mlp, bias=biased))
        model = replace(model, layers=(fullest,) * len(model.layers))
    specs = weight_specs(model)
    names = {re.sub(r"\.\d+\.", ".{i}.", spec.name) for spec in specs}
    assert names == documented(model_type)
