"""How the KV cache is kept: what is asked for, which variants come of it, and what an artifact says of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.build import describe_variant, fitting_variants
from compiler.config import BuildConfig, resolve_config
from compiler.errors import WispError
from compiler.lowering.lower import geometry_of
from compiler.progress import Silent
from compiler.recipes import plan_recipe
from compiler.target.variants import ALL_VARIANTS, VARIANTS
from tests.lowering import lower_once

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def variants_of(name: str, **changes: Any) -> tuple[BuildConfig, tuple[str, ...]]:
    config, network = plan_recipe(CONFIGS / f"{name}.toml")
    return config, fitting_variants(replace(config, **changes), network, Silent())


def test_large_caches_may_be_kept_in_8_bits() -> None:
    """1.6 GB of keys and values of Phi-3-mini, and 23 MB of SmolLM2, whose memory ends elsewhere."""
    assert variants_of("phi-3-mini-4k-instruct")[1] == tuple(ALL_VARIANTS)
    assert variants_of("smollm2-135m-instruct")[1] == tuple(VARIANTS)


def test_what_is_asked_for_is_compiled() -> None:
    assert variants_of("smollm2-135m-instruct", kv="q8")[1] == tuple(f"{name}-q8" for name in VARIANTS)
    assert variants_of("phi-3-mini-4k-instruct", kv="f16")[1] == tuple(VARIANTS)
    named = variants_of("phi-3-mini-4k-instruct", variants=("wasm-simd",), variants_named=True)[1]
    assert named == ("wasm-simd", "wasm-simd-q8")


def test_the_option_and_the_recipe_key(tmp_path: Path) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text('source = "org/name"\nkv = "q8"\n')
    assert resolve_config(str(recipe)).kv == "q8"
    assert resolve_config(str(recipe), kv="f16").kv == "f16"
    assert resolve_config("org/name").kv == "auto"
    with pytest.raises(WispError, match="got 'int8', expected auto or f16 or q8"):
        resolve_config("org/name", kv="int8")


def test_a_variant_in_8_bits_says_so() -> None:
    """A dispatch a layer more in decode: scales are those of whole heads. Half the bytes, and the scales."""
    _, network = plan_recipe(CONFIGS / "smollm2-135m-instruct.toml")
    layers = network.model.num_hidden_layers
    shape = (network.model, network.scheme)
    entries = []
    for name in ("webgpu-f32", "webgpu-f32-q8"):
        variant = ALL_VARIANTS[name]
        geometry = geometry_of(*shape, variant, network.context, (16,))
        lowered = lower_once(*shape, variant, network.context, (16,), alternatives=False)
        assert lowered.plan["variant"] == name
        entries.append(describe_variant(name, lowered))
        assert entries[-1]["kv_bytes_per_token"] == 4 * geometry.cache.row_words * layers
    own, twin = entries
    assert (own["kv_dtype"], twin["kv_dtype"]) == ("float16", "q8")
    assert twin["required_features"] == own["required_features"]
    assert twin["dispatches_per_token"] == own["dispatches_per_token"] + layers
    assert twin["kv_bytes_per_token"] < 0.55 * own["kv_bytes_per_token"]
