"""A kernel of a graph is known by all that it is made from: equal values are one kernel, different ones never are.

Networks of this file are none that Wisp compiles: their layers differ in what a layer may come to differ in.
"""

import dataclasses
from typing import Any

import pytest
from tvm.relax.frontend import nn

from compiler.kernels import epilogue
from compiler.models import config_from_huggingface, weight_specs
from compiler.network.cpu import CpuDecoder
from compiler.network.decoder import Decoder
from compiler.network.graph import ACTIVATION, Graph
from compiler.network.layers import Geometry
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 320,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
BASES = [pytest.param(Decoder, "webgpu-f32", id="webgpu"), pytest.param(CpuDecoder, "wasm-simd", id="wasm")]


def kernels(graph_type: type[Graph], variant: str) -> dict[str, int]:
    """How many kernels of each kind a graph has."""
    model = config_from_huggingface(LLAMA, 128)
    graph = graph_type(Geometry(model, SCHEMES["q4f16_1"], VARIANTS[variant], 128, (16,)), weight_specs(model))
    graph.export_tvm({program: {} for program in graph.geometry.programs})
    counted: dict[str, int] = {}
    for name in graph.kernels.functions:
        kind = name.rpartition("_")[0]
        counted[kind] = counted.get(kind, 0) + 1
    return counted


def changed(graph: Graph, **fields: Any) -> None:
    """From here on the graph is of a model with other numbers."""
    graph.geometry = dataclasses.replace(graph.geometry, model=dataclasses.replace(graph.geometry.model, **fields))


@pytest.mark.parametrize(("base", "variant"), BASES)
def test_layers_that_are_alike_share_their_kernels(base: type[Graph], variant: str) -> None:
    found = kernels(base, variant)
    assert found["attention"] == 2, "of decode and of prefill"
    assert (found["qkv"], found["gate_up"], found["project"]) == (1, 1, 2)


@pytest.mark.parametrize(("base", "variant"), BASES)
def test_two_windows_are_two_kernels(base: type[Graph], variant: str) -> None:
    """As in a network whose layers attend to everything and to a window in turn."""

    class Alternating(base):  # type: ignore[valid-type, misc]
        def layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
            changed(self, sliding_window=32 if layer % 2 else None)
            return super().layer(layer, x, chunk)

    assert kernels(Alternating, variant)["attention"] == 4


@pytest.mark.parametrize(("base", "variant"), BASES)
def test_two_norms_are_two_kernels(base: type[Graph], variant: str) -> None:
    """Of two widths, and of two epsilons: in dispatches of their own, and folded into products."""

    class TwoNorms(base):  # type: ignore[valid-type, misc]
        def layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
            changed(self, norm_eps=1e-5 if layer % 2 else 1e-6)
            x = super().layer(layer, x, chunk)
            if chunk > 1 and layer == 0:
                narrow, result = epilogue.Store(chunk, 32), ((chunk, 32), ACTIVATION)
                (half,) = self.product("narrow", "attention_output", layer, chunk, x, narrow, [], [result], 32)
                self.rms_norm("input_norm", layer, chunk, half)
            return x

    plain, found = kernels(base, variant), kernels(TwoNorms, variant)
    # A product of the GPU's decode step folds its norm in; the other norms have dispatches.
    folded = "qkv" if variant == "webgpu-f32" else "norm_quantize"
    assert found[folded] == 2 * plain[folded]
    # One more is as wide as nothing else here is.
    assert found["rms_norm"] == 2 * plain.get("rms_norm", 0) + 1


@pytest.mark.parametrize(("base", "variant"), BASES)
def test_two_epilogues_are_two_kernels(base: type[Graph], variant: str) -> None:
    class TwoEpilogues(base):  # type: ignore[valid-type, misc]
        def layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
            if layer != 1:
                return super().layer(layer, x, chunk)
            made = super().layer(layer, x, chunk)
            result = ((chunk, 64), ACTIVATION)
            declare = epilogue.Store(chunk, 64)
            return self.product("project", "attention_output", layer, chunk, made, declare, [], [result], 64)[0]

    plain, found = kernels(base, variant), kernels(TwoEpilogues, variant)
    assert found["project"] == plain["project"] + 1
    assert found["project_chunk"] == plain["project_chunk"] + 1


def test_epilogues_are_equal_when_they_store_alike() -> None:
    assert epilogue.Store(1, 8) == epilogue.Store(1, 8)
    different = [
        epilogue.Store(1, 8),
        epilogue.Store(1, 8, 4),
        epilogue.Store(2, 8),
        epilogue.StoreResidual(1, 8),
        epilogue.StoreGelu(1, 8),
        epilogue.StoreGated(1, 8),
        epilogue.WithBias(epilogue.Store(1, 8), 8, epilogue.OneRow(), f16=True),
        epilogue.WithBias(epilogue.Store(1, 8), 8, epilogue.OneRow(), f16=False),
    ]
    assert len(set(different)) == len(different)
