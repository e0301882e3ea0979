"""Every recipe, compiled at full size without weights and without network: numbers, limits and the figures it states.

The default run compiles the best variant of every recipe, one of the others in turn, and all of a few recipes with all
that belongs to it; `WISP_ALL_VARIANTS=1` compiles every variant of every recipe.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compiler.cli import main
from compiler.errors import WispError
from compiler.lowering.lower import lower_variant
from compiler.places import CONFIGS
from compiler.recipes import (
    RecipeSummary,
    figures,
    plan_recipe,
    recipe_paths,
    summarize_recipe,
    update_figures,
)
from compiler.target.variants import VARIANTS

# Parameters of the published checkpoints, a tied head once: what the Hub shows for their safetensors.
PARAMETERS = {
    "deepseek-r1-0528-qwen3-8b": 8_190_735_360,
    "exaone-3.5-2.4b-instruct": 2_405_327_360,
    "falcon3-1b-instruct": 1_669_408_768,
    "gemma-1.1-2b-it": 2_506_172_416,
    "gemma-2-2b-it": 2_614_341_888,
    "gemma-3-1b-it": 999_885_952,
    "gemma-3-270m-it": 268_098_176,
    "gemma-3-4b-it": 3_880_263_168,  # of its language model
    "granite-3.3-2b-instruct": 2_533_539_840,
    "internlm2_5-1_8b-chat": 1_889_110_016,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "llama-3.2-1b-instruct": 1_235_814_400,
    "llama-3.2-3b-instruct": 3_212_749_824,
    "minicpm-2b-dpo-bf16": 2_724_880_896,
    "ministral-8b-instruct-2410": 8_019_808_256,
    "mistral-7b-instruct-v0.3": 7_248_023_552,
    "olmo-2-0425-1b-instruct": 1_484_916_736,
    "openchat_3.5": 7_241_748_480,
    "phi-2": 2_779_683_840,
    "phi-3-mini-128k-instruct": 3_821_079_552,
    "phi-3-mini-4k-instruct": 3_821_079_552,
    "phi-3.5-mini-instruct": 3_821_079_552,
    "phi-4-mini-instruct": 3_836_021_760,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "qwen2.5-1.5b-instruct": 1_543_714_304,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-embedding-0.6b": 595_776_512,
    "smollm2-1.7b-instruct": 1_711_376_384,
    "smollm2-135m-instruct": 134_515_008,
    "smollm2-360m-instruct": 361_821_120,
    "smollm3-3b": 3_075_098_624,
    "stablelm-2-zephyr-1_6b": 1_644_515_328,
    "tinyllama-1.1b-chat-v1.0": 1_100_048_384,
}
EMBEDDING = ("qwen3-embedding-0.6b",)
# Buffers that hold the embedding, and the head when it is not tied, where one binding cannot.
SPLIT = {
    "deepseek-r1-0528-qwen3-8b": 3,
    "gemma-1.1-2b-it": 2,
    "gemma-2-2b-it": 3,
    "gemma-3-1b-it": 2,
    "gemma-3-270m-it": 2,
    "gemma-3-4b-it": 3,
    "llama-3.1-8b-instruct": 2,
    "llama-3.2-3b-instruct": 2,
    "minicpm-2b-dpo-bf16": 2,
    "ministral-8b-instruct-2410": 2,
    "phi-4-mini-instruct": 3,
    "qwen3-1.7b": 2,
}

# WebGPU's default limits.
STORAGE_BUFFERS = 8
BINDING_BYTES = 128 << 20
WORKGROUP_BYTES = 16384
INVOCATIONS = 256
WORKGROUPS = 65535


def recipe(name: str) -> Path:
    return CONFIGS / f"{name}.toml"


def cases() -> Iterator[tuple[str, str]]:
    """(recipe, variant): what this run compiles."""
    best, *others = VARIANTS
    everything = bool(os.environ.get("WISP_ALL_VARIANTS"))
    for turn, name in enumerate(PARAMETERS):
        yield name, best
        in_turn = [others[-1 - turn % 2]]
        yield from ((name, other) for other in (others if everything or name in WHOLE else in_turn))


WHOLE = ("smollm2-360m-instruct", "phi-4-mini-instruct")


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Lines to show when the module is done."""
    lines: list[str] = []
    yield lines
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_the_recipes_are_those_of_the_published_models() -> None:
    assert [path.stem for path in recipe_paths()] == sorted(PARAMETERS)
    for path in recipe_paths():
        summary = summarize_recipe(path)
        assert summary.id == path.stem == summary.source.split("/")[-1].lower(), "named by the model in lower case"
        assert summary.parameters == PARAMETERS[path.stem], path.stem
        assert re.fullmatch(r"[0-9a-f]{40}", summary.revision or ""), "a commit, so that a recipe keeps its meaning"
        stated = path.read_text().split("[architecture]")[0]
        generates = () if path.stem in EMBEDDING else ("temperature",)
        for key in ("source", "quantization", "context", "prefill_chunks", *generates):
            assert re.search(rf"^{key} = ", stated, re.MULTILINE), f"{path.name} leaves {key} to a default"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), list(cases()))
def test_it_compiles_within_the_default_limits(name: str, variant: str, report: list[str]) -> None:
    config, network = plan_recipe(recipe(name))
    assert variant in config.variants, "no recipe leaves a device out"
    best = variant == next(iter(VARIANTS))  # whose figures stand in the recipe
    shape = network.context, network.prefill_chunks
    whole = best or name in WHOLE
    lowered = lower_variant(network.model, network.scheme, VARIANTS[variant], *shape, alternatives=whole)
    plan, summary = lowered.plan, summarize_recipe(recipe(name))
    on_cpu = VARIANTS[variant].backend == "wasm"
    if on_cpu:
        assert lowered.modules.keys() == {"kernels", *(("kernels_relaxed",) if whole else ())}
        check_module(plan, lowered.modules)
    else:
        check_limits(plan, lowered.kernels)
    chunks = plan["prefill_chunks"][:1] if on_cpu else (256, 64, 16, 8)
    answering = () if name in EMBEDDING else ("mask", "verify_8")
    assert set(plan["programs"]) == {"decode", *answering, *(f"prefill_{chunk}" for chunk in chunks)}
    check_sizes(plan, summary, 1 if on_cpu else SPLIT.get(name, 1))
    dispatches = len(plan["programs"]["decode"])
    if best:
        expected = figures(summary, plan)
        assert expected in recipe(name).read_text(), f"bring it up to date: python -m compiler.recipes\n{expected}"
        report.append(
            f"{name:<26}{summary.weight_bytes:>14,} bytes {summary.kv_bytes_per_token:>8,} KV bytes a token"
            f" {dispatches:>4} dispatches a token"
        )


def check_limits(plan: dict[str, Any], kernels: str) -> None:
    for kernel in plan["kernels"]:
        assert len(kernel["bindings"]) <= STORAGE_BUFFERS, kernel
        assert kernel["workgroup_bytes"] <= WORKGROUP_BYTES, kernel
        assert math.prod(kernel["workgroup_size"]) <= INVOCATIONS, kernel
        assert f"fn {kernel['entry']}(" in kernels
    for buffer in plan["buffers"]:
        assert 0 < buffer["bytes"] <= BINDING_BYTES, buffer
    for program in plan["programs"].values():
        for dispatch in program:
            assert all(1 <= extent <= WORKGROUPS for extent in dispatch["grid"]), dispatch
            assert len(dispatch["bind"]) == len(plan["kernels"][dispatch["kernel"]]["bindings"])


def check_module(plan: dict[str, Any], modules: dict[str, bytes]) -> None:
    """A plan of the CPU; its modules are small enough to compile while the weights come."""
    for code in modules.values():
        assert len(code) < 1 << 20
        assert all(kernel["entry"].encode() in code for kernel in plan["kernels"])
    for program in plan["programs"].values():
        for dispatch in program:
            kernel = plan["kernels"][dispatch["kernel"]]
            assert len(dispatch["bind"]) == len(kernel["bindings"]) <= 16
            assert 1 <= dispatch["grid"][0] < 1 << 31


def check_sizes(plan: dict[str, Any], summary: RecipeSummary, most_parts: int) -> None:
    """The plan binds every weight, whole and once, and caches what the summary says."""
    weights = [buffer for buffer in plan["buffers"] if buffer["kind"] == "weight"]
    assert sum(buffer["bytes"] for buffer in weights) == summary.weight_bytes
    cached = sum(buffer["bytes"] for buffer in plan["buffers"] if buffer["kind"] == "kv")
    assert cached == summary.kv_bytes
    parts: dict[str, int] = {}
    for buffer in weights:
        parts[buffer["name"]] = parts.get(buffer["name"], 0) + 1
    assert max(parts.values()) == most_parts


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("phi-3-mini-128k-instruct", "long_factor"),
        ("phi-3.5-mini-instruct", "short_factor"),
        ("phi-4-mini-instruct", "short_factor"),
    ],
)
def test_the_context_chooses_the_factors(name: str, factors: str) -> None:
    config, network = plan_recipe(recipe(name))
    assert config.architecture is not None
    rope = config.architecture["rope_scaling"]
    for stated in (rope["long_factor"], rope["short_factor"]):
        assert stated == sorted(stated), "longer wavelengths are stretched more"
    (found,) = network.model.ropes
    count = found.dim // 2
    expected = [10000.0 ** (-i / count) / factor for i, factor in enumerate(rope[factors])]
    assert found.inv_freq == pytest.approx(expected, rel=1e-12)
    stretch = math.sqrt(1 + math.log(131072 / 4096) / math.log(4096))
    assert found.scaling == pytest.approx(stretch)


def test_wisp_compile_needs_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compile", str(recipe("smollm2-135m-instruct")), "--weights", "none", "--variants", "webgpu-f32"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["source"]["revision"] == "12fd25f77366fa6b3b4b768ec3050bf629380bac"
    assert summary["parameters"] == PARAMETERS["smollm2-135m-instruct"]
    assert summary["context"] == 8192


def test_stale_figures_are_brought_up_to_date(tmp_path: Path) -> None:
    original = recipe("smollm2-135m-instruct").read_text()
    path = tmp_path / "smollm2-135m-instruct.toml"
    for text in (original.replace("MiB of weights", "MiB of air"), re.sub(r"# (GPU|[\d,]+ par).*\n", "", original)):
        path.write_text(text)
        update_figures(path)
        assert path.read_text() == original


def test_wisp_models_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    row = re.search(r"^llama-3.2-1b-instruct.*$", listed, re.MULTILINE)
    assert row is not None
    assert row[0].split() == [
        "llama-3.2-1b-instruct",
        "1.24",
        "B",
        "q4af16_g64",
        "4,096",
        "663.0",
        "MiB",
        "791.0",
        "MiB",
    ]
    assert max(map(len, listed.splitlines())) <= 100
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    assert [model["id"] for model in models] == sorted(PARAMETERS)
    one = models[1]
    assert one["memory_bytes"] == one["weight_bytes"] + one["kv_bytes_per_token"] * one["context"]


def test_without_recipes_it_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("compiler.recipes.CONFIGS", tmp_path)
    assert main(["models"]) == 2
    assert "there are no recipes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('source = "a/b"\ncontxt = 1024\n', "contxt"),
        ('source = "a/b"\ncontext = 1\n', "context"),
        ('source = "a/b"\n[generation]\nwarmth = 1\n', "warmth"),
        ('source = "a/b"\n', "has no [architecture]"),
        ('source = "a/b"\n[architecture]\nmodel_type = "gpt2"\n', "gpt2"),
        ("source", "a TOML file"),
    ],
)
def test_a_bad_recipe_is_one_clear_line(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.toml").write_text(text)
    monkeypatch.setattr("compiler.recipes.CONFIGS", tmp_path)
    assert main(["models"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert expected in captured.err


def test_a_recipe_without_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    path.write_text('source = "a/b"\n')
    with pytest.raises(WispError, match=r"none\.toml"):
        plan_recipe(path)
