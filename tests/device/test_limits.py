"""Plans of real models stay within WebGPU's default limits and our own budgets, and their shaders compile.

The budgets of submits, bind groups and bytes a token are in tests/browser/test_engine_loop.py, and that tokens are read
back while the next ones are computed in tests/browser/test_responsive.py.

Without weights: the embedded model, and the recipes for Llama 3.2 1B and Phi-3 mini, in every variant.
"""

import json
from math import prod
from typing import Any

import pytest
import wgpu

from compiler.config import clip_prefill_chunks, default_context, resolve_config
from compiler.lowering.lower import Lowered
from compiler.models import config_from_huggingface
from compiler.models.base import ModelConfig
from compiler.runtime.wgpu import missing_features, native_source
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES
from tests.conftest import ROOT, unavailable
from tests.device.harness import DEFAULT_LIMITS, Gpu
from tests.lowering import lower_once

WEBGPU = [name for name, variant in VARIANTS.items() if variant.backend == "webgpu"]
DISPATCHES_PER_LAYER, DISPATCHES_AROUND = 6, 5
MODELS = ("demo", "llama-3.2-1b-instruct", "phi-3-mini-4k-instruct")
SAMPLING_DISPATCHES = 4
DECODE_DISPATCHES = {"llama-3.2-1b-instruct": 101, "phi-3-mini-4k-instruct": 197}


def architecture(name: str) -> tuple[ModelConfig, int, tuple[int, ...]]:
    """(model, context, prefill chunks) as `wisp compile --weights none` would have them."""
    recipe = ROOT / "configs" / f"{name}.toml"
    config = resolve_config(str(recipe if recipe.is_file() else ROOT / "configs" / name), weights="none")
    raw = config.architecture or json.loads((ROOT / "configs" / name / "config.json").read_text())
    context = config.context or default_context(raw)
    return config_from_huggingface(raw, context), context, clip_prefill_chunks(config.prefill_chunks, context)


class Plans:
    """Lowered models, each once a session."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str, str], Lowered] = {}

    def __call__(self, name: str, variant: str, scheme: str = "q4f16_1") -> Lowered:
        key = (name, variant, scheme)
        if key not in self._made:
            model, context, chunks = architecture(name)
            self._made[key] = lower_once(model, SCHEMES[scheme], VARIANTS[variant], context, chunks)
        return self._made[key]


@pytest.fixture(scope="module")
def plans() -> Plans:
    return Plans()


def assert_within_limits(plan: dict[str, Any]) -> None:
    limits = {name.removeprefix("max-"): value for name, value in DEFAULT_LIMITS.items()}
    for kernel in plan["kernels"]:
        assert len(kernel["bindings"]) <= limits["storage-buffers-per-shader-stage"], kernel
        assert kernel["workgroup_bytes"] <= limits["compute-workgroup-storage-size"], kernel
        assert prod(kernel["workgroup_size"]) <= limits["compute-invocations-per-workgroup"], kernel
        assert kernel["workgroup_size"][2] <= 64
    for buffer in plan["buffers"]:
        assert 0 < buffer["bytes"] <= limits["storage-buffer-binding-size"], buffer
    for name, program in plan["programs"].items():
        for dispatch in program:
            kernel = plan["kernels"][dispatch["kernel"]]
            widest = limits["compute-workgroups-per-dimension"]
            assert all(0 < extent <= widest for extent in dispatch["grid"]), (name, dispatch)
            assert len(dispatch["bind"]) == len(kernel["bindings"])
            written = [b for b, access in zip(dispatch["bind"], kernel["bindings"], strict=True) if access != "read"]
            assert all(dispatch["bind"].count(b) == 1 for b in written), "a written buffer is bound twice"
            assert all(plan["buffers"][b]["kind"] not in ("weight", "constant") for b in written)


@pytest.mark.parametrize("variant", WEBGPU)
@pytest.mark.parametrize("name", MODELS)
def test_plan_fits_the_default_limits(plans: Plans, name: str, variant: str) -> None:
    assert_within_limits(plans(name, variant).plan)


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_without_subgroups_fits_compatibility_mode(plans: Plans, name: str) -> None:
    """The mode has half the invocations a workgroup, and as many storage buffers."""
    plan = plans(name, "webgpu-f32").plan
    for kernel in [*plan["kernels"], *(kernel for a in plan["alternatives"] for kernel in a["kernels"])]:
        assert prod(kernel["workgroup_size"]) <= 128, kernel
        assert len(kernel["bindings"]) <= 8, kernel


@pytest.mark.parametrize(("name", "scheme"), [("llama-3.2-1b-instruct", "q0f16"), ("phi-3-mini-4k-instruct", "q0f16")])
def test_larger_weights_are_cut_to_the_binding_limit(plans: Plans, name: str, scheme: str) -> None:
    """Unquantized vocabularies of 188 MiB and more: pieces that cover the rows without gap or overlap."""
    plan = plans(name, "webgpu-f32", scheme).plan
    assert_within_limits(plan)
    pieces: dict[str, list[tuple[int, int]]] = {}
    rows = {}
    for buffer in plan["buffers"]:
        if buffer["kind"] == "weight":
            pieces.setdefault(buffer["name"], []).append(tuple(buffer["rows"]))
            rows[buffer["name"]] = buffer["shape"][0]
    assert any(len(parts) > 1 for parts in pieces.values())
    for tensor, parts in pieces.items():
        parts.sort()
        assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])], tensor
        assert parts[-1][1] == rows[tensor]


@pytest.mark.parametrize("variant", WEBGPU)
@pytest.mark.parametrize("name", MODELS)
def test_dispatches_a_token(plans: Plans, name: str, variant: str) -> None:
    model, _, _ = architecture(name)
    count = len(plans(name, variant).plan["programs"]["decode"])
    assert count <= DISPATCHES_PER_LAYER * model.num_hidden_layers + DISPATCHES_AROUND
    assert count <= DECODE_DISPATCHES.get(name, count)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_dispatches_of_sampling(plans: Plans, name: str, variant: str) -> None:
    """What runs behind the vocabulary projection, whatever the sampling parameters: the plan is the same."""
    plan = plans(name, variant).plan
    entries = [plan["kernels"][dispatch["kernel"]]["entry"] for dispatch in plan["programs"]["decode"]]
    logits = next(i for i, buffer in enumerate(plan["buffers"]) if buffer["name"] == "logits")
    writers = [
        i
        for i, dispatch in enumerate(plan["programs"]["decode"])
        for buffer, access in zip(dispatch["bind"], plan["kernels"][dispatch["kernel"]]["bindings"], strict=True)
        if buffer == logits and access != "read"
    ]
    assert all(entries[i].startswith("lm_head") for i in writers)
    behind = plan["programs"]["decode"][writers[-1] + 1 :]
    assert 1 <= len(behind) <= SAMPLING_DISPATCHES
    if variant in WEBGPU:  # The logits are read once, by many workgroups, whatever the parameters.
        (reader,) = [dispatch for dispatch in behind if logits in dispatch["bind"]]
        vocabulary = plan["buffers"][logits]["bytes"] // 4
        assert prod(reader["grid"]) >= min(32, vocabulary // 1024)


def test_activations_of_llama_take_little(plans: Plans) -> None:
    """At a context of 4096: the scratch buffers of all programs together."""
    for variant in WEBGPU:
        plan = plans("llama-3.2-1b-instruct", variant).plan
        assert plan["context"] == 4096
        assert sum(b["bytes"] for b in plan["buffers"] if b["kind"] == "scratch") <= 32 << 20


@pytest.mark.parametrize("variant", WEBGPU)
@pytest.mark.parametrize("name", MODELS)
def test_shaders_compile(plans: Plans, gpu: Gpu, name: str, variant: str) -> None:
    """Every kernel becomes a pipeline on a device with default limits."""
    if missing := missing_features(gpu.adapter, VARIANTS[variant].required_features):
        unavailable(f"the adapter lacks {', '.join(missing)}")
    lowered = plans(name, variant)
    module = gpu.device.create_shader_module(code=native_source(lowered.kernels))
    for kernel in lowered.plan["kernels"]:
        entries = [
            {
                "binding": i,
                "visibility": wgpu.ShaderStage.COMPUTE,
                "buffer": {"type": "storage" if access == "read_write" else "read-only-storage"},
            }
            for i, access in enumerate(kernel["bindings"])
        ]
        group = gpu.device.create_bind_group_layout(entries=entries)
        pipeline = gpu.device.create_compute_pipeline(
            layout=gpu.device.create_pipeline_layout(bind_group_layouts=[group]),
            compute={"module": module, "entry_point": kernel["entry"]},
        )
        assert pipeline is not None


def test_the_device_has_default_limits(gpu: Gpu) -> None:
    """Else the test above would prove less than it says."""
    assert {name: gpu.device.limits[name] for name in DEFAULT_LIMITS} == DEFAULT_LIMITS
