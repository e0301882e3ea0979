"""How much work a kernel is on a GPU: registers, spills and instructions, as AMD's compiler counts them for navi21.

Time depends on the machine, these do not: a kernel that gets more expensive fails here, whatever a software adapter
says. Bars are of a turn of the product's loop, in instructions of a wave: in decode for each 128 weights, also those
that four rows of activations share, in prefill for the 1024 multiply-adds of 32 columns in a tile of 8 x 4.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compiler.kernels.webgpu.tuning import ALTERNATIVES
from compiler.lowering import wgsl
from compiler.lowering.lower import geometry_of
from compiler.models import weight_specs
from compiler.network.graph import Graph
from compiler.network.webgpu import WebGpu
from compiler.places import CONFIGS
from compiler.recipes import plan_recipe
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES
from tests.device.isa.counts import Counts, count

RECIPE_NAMES = ("phi-3-mini-4k-instruct", "llama-3.2-1b-instruct", "qwen2.5-0.5b-instruct", "smollm2-135m-instruct")
VARIANT = "webgpu-f32-sg"
DECODE_NORMED, DECODE, PREFILL, PACKED, FEW = 450, 400, 1500, 950, 1000
REGISTERS = 128


PRODUCTS = ("qkv", "project", "gate_up", "lm_head")


def graph_of(recipe: str, alternative: str | None = None, scheme: str | None = None, variant: str = VARIANT) -> Graph:
    """Of a network of two layers: one ends with its cache in prefill."""
    _, network = plan_recipe(CONFIGS / f"{recipe}.toml")
    model = replace(network.model, num_hidden_layers=2, layers=network.model.layers[:2])
    chosen = SCHEMES[scheme or "q4f16_1"]
    geometry = geometry_of(model, chosen, VARIANTS[variant], network.context, (256, 4))
    if alternative:
        (other,) = (other for other in ALTERNATIVES[variant] if other.name == alternative)
        geometry = replace(geometry, alternative=other)
    graph = Graph(geometry, weight_specs(model), WebGpu())
    graph.export_tvm({program: {} for program in geometry.programs})
    return graph


def kernels(
    recipe: str, alternative: str | None = None, scheme: str | None = None, kinds: tuple[str, ...] = PRODUCTS
) -> dict[str, wgsl.KernelInfo]:
    """The kernels of such kinds, those with a loop over weights, by name."""
    functions = graph_of(recipe, alternative, scheme).kernels.functions
    return {n: wgsl.render(f, n) for n, f in functions.items() if n.startswith(kinds)}


def step(name: str, counted: Counts) -> int:
    """Instructions for 128 weights, each of which is unpacked by a multiply-add, or for 1024 multiply-adds."""
    if "_few" in name:
        return counted.step("v_fmac_f32_e32", 512)
    if name.endswith("packed"):
        return counted.step("v_dot4c_i32_i8_e32", 384)
    return counted.step("v_fmac_f32_e32", 1024) if "chunk" in name else counted.step("v_fma_mix_f32", 128)


def check(
    counts: dict[str, Counts], prefill: int, normed: int = DECODE_NORMED, plain: int = DECODE, few: int = FEW
) -> None:
    """Every kernel within the bars; the test's output has all counts."""
    bars = {}
    steps = {name: step(name, counted) for name, counted in counts.items()}
    for name, counted in counts.items():
        print(f"{name:24} {counted.registers:4} registers {counted.spills:4} spilled {steps[name]:5} a step")
        bars[name] = plain if name.startswith("project") else normed
        if "chunk" in name or "_few" in name:
            bars[name] = prefill if "chunk" in name else few
        assert counted.spills == 0, name
        assert counted.registers <= REGISTERS, name
    over = {name: step for name, step in steps.items() if step > bars[name]}
    assert not over, f"instructions a step beyond {bars}"


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_products_of_a_published_shape(recipe: str, tmp_path: Path) -> None:
    check(count(kernels(recipe), subgroups=True, scratch=tmp_path), PREFILL)


@pytest.mark.parametrize("scheme", ["q4af16_g64", "q8f16_1"])
def test_other_storages_cost_a_tenth_more_at_most(scheme: str, tmp_path: Path) -> None:
    found = count(kernels(RECIPE_NAMES[1], scheme=scheme), subgroups=True, scratch=tmp_path)
    check(found, *(bar * 11 // 10 for bar in (PREFILL, DECODE_NORMED, DECODE, FEW)))


@pytest.mark.parametrize("variant", ["webgpu-f32-sg", "webgpu-f32"])
def test_an_alternative_for_few_registers(variant: str, tmp_path: Path) -> None:
    """Mali and Adreno have 64 to 128. Whatever it runs keeps within them: in decode, in prefill, the sampler's too."""
    counted: dict[str, wgsl.KernelInfo] = {}
    for i, recipe in enumerate(RECIPE_NAMES):
        for name, function in graph_of(recipe, "narrow", variant=variant).kernels.functions.items():
            # What neither reads weights nor attends differs in sizes alone.
            if i == 0 or name.startswith((*PRODUCTS, "attention")):
                made = wgsl.render(function, "k")
                counted.setdefault(made.source, replace(made, entry=f"{name}_{i}"))
    named = {
        made.entry: replace(made, source=source.replace("fn k(", f"fn {made.entry}("))
        for source, made in counted.items()
    }
    found = count(named, subgroups=variant.endswith("sg"), scratch=tmp_path)
    print({name: c.registers for name, c in found.items()})
    assert {name: (c.registers, c.spills) for name, c in found.items() if c.registers > REGISTERS or c.spills} == {}


def test_products_in_integers(tmp_path: Path) -> None:
    check(count(kernels(RECIPE_NAMES[0], "packed"), subgroups=True, scratch=tmp_path), PACKED)
