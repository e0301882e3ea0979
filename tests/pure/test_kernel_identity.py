"""A kernel of a graph is known by all that it is made from: equal values are one kernel, different ones never are.

Networks of this file are none that Wisp compiles: their layers differ in what a layer may come to differ in.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from tvm.relax.frontend import nn

from compiler.kernels import epilogue
from compiler.models import config_from_huggingface, weight_specs
from compiler.models.base import Attention, Layer, ModelConfig, Rope
from compiler.network.backend import ACTIVATION, Backend, Operand, Product
from compiler.network.cpu import Cpu
from compiler.network.graph import Graph
from compiler.network.layers import Geometry
from compiler.network.webgpu import WebGpu
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES, Scheme, with_matrices

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
BACKENDS = [pytest.param(WebGpu, "webgpu-f32", id="webgpu"), pytest.param(Cpu, "wasm-simd", id="wasm")]
Change = Callable[[Layer], Layer]


def llama(odd: Change | None = None) -> ModelConfig:
    """A Llama whose odd layers are changed."""
    model = config_from_huggingface(LLAMA, 128)
    if odd is None:
        return model
    return replace(model, layers=tuple(odd(layer) if i % 2 else layer for i, layer in enumerate(model.layers)))


def attending(attention: Attention) -> Change:
    """The change to another attention."""
    return lambda layer: replace(layer, attention=attention)


def kernels(
    backend: type[Backend],
    variant: str,
    model: ModelConfig,
    graph_type: type[Graph] = Graph,
    scheme: Scheme = SCHEMES["q4f16_1"],
) -> Counter[str]:
    """How many kernels of each kind a graph has."""
    geometry = Geometry(model, scheme, VARIANTS[variant], 128, (16,))
    graph = graph_type(geometry, weight_specs(model), backend())
    graph.export_tvm({program: {} for program in graph.geometry.programs})
    return Counter(name.rpartition("_")[0] for name in graph.kernels.functions)


@pytest.mark.parametrize(("backend", "variant"), BACKENDS)
def test_a_scheme_is_its_numbers(backend: type[Backend], variant: str) -> None:
    """A matrix stored by equal numbers under another name takes the same kernel, one of other numbers its own."""
    plain, base = kernels(backend, variant, llama()), SCHEMES["q4f16_1"]
    for other, more in ((replace(base, name="other"), 0), (SCHEMES["q4af16_g32"], 1), (SCHEMES["q8f16_1"], 1)):
        scheme = with_matrices(base, {("qkv", 1): other})
        assert scheme != base
        found = kernels(backend, variant, llama(), scheme=scheme)
        assert (found["qkv"], found["qkv_chunk"]) == (plain["qkv"] + more, plain["qkv_chunk"] + more), other.name
        assert found["gate_up"] == plain["gate_up"]


@pytest.mark.parametrize(("backend", "variant"), BACKENDS)
def test_layers_that_are_alike_share_their_kernels(backend: type[Backend], variant: str) -> None:
    found = kernels(backend, variant, llama())
    # Of decode and of prefill; on the GPU a draft's few rows are tiled otherwise than a prompt's.
    assert found["attention"] == (3 if backend is WebGpu else 2)
    assert (found["qkv"], found["gate_up"], found["project"]) == (1, 1, 2)


@pytest.mark.parametrize(("backend", "variant"), BACKENDS)
def test_two_kinds_of_attention_are_two_kernels(backend: type[Backend], variant: str) -> None:
    """Layers that attend to everything and to a window in turn; other scales; and with a soft cap."""
    attention = llama().layers[0].attention
    others = [replace(attention, window=32), replace(attention, scale=0.5), replace(attention, soft_cap=30.0)]
    plain = kernels(backend, variant, llama())
    for other in others:
        assert kernels(backend, variant, llama(attending(other)))["attention"] == 2 * plain["attention"]


@pytest.mark.parametrize(("backend", "variant"), BACKENDS)
def test_two_rotary_embeddings_are_two_kernels(backend: type[Backend], variant: str) -> None:
    """Also where some layers have none; alike ones of other layers are one."""
    plain = kernels(backend, variant, llama())
    for rope in (None, Rope((1.0,) * 16), Rope((1.0,) * 8)):
        found = kernels(backend, variant, llama(attending(replace(llama().layers[0].attention, rope=rope))))
        assert (found["qkv"], found["rotate"]) == (2 * plain["qkv"], 2 * plain["rotate"])


@pytest.mark.parametrize(("backend", "variant"), BACKENDS)
def test_two_norms_are_two_kernels(backend: type[Backend], variant: str) -> None:
    """Of two epsilons: in dispatches of their own, and folded into products."""

    def other(layer: Layer) -> Layer:
        norm = replace(layer.mlp.norm or model.final_norm, epsilon=1e-6)
        return replace(layer, attention=replace(layer.attention, norm=norm), mlp=replace(layer.mlp, norm=norm))

    model = llama()
    plain, found = kernels(backend, variant, model), kernels(backend, variant, llama(other))
    # A product of the GPU's decode step folds its norm in; the other norms have dispatches.
    folded = "qkv" if variant == "webgpu-f32" else "norm_quantize"
    assert found[folded] == 2 * plain[folded]
    assert found["rms_norm"] == 2 * plain["rms_norm"]


@pytest.mark.parametrize(("backend", "variant"), BACKENDS)
def test_two_epilogues_are_two_kernels(backend: type[Backend], variant: str) -> None:
    class TwoEpilogues(Graph):
        def layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
            made = super().layer(layer, x, chunk)
            if layer != 1:
                return made
            product = Product("project", "attention_output", layer, chunk, epilogue.Store(chunk, 64), 64)
            return self.product(product, Operand(made), [], [((chunk, 64), ACTIVATION)])[0]

    plain, found = kernels(backend, variant, llama()), kernels(backend, variant, llama(), TwoEpilogues)
    assert found["project"] == plain["project"] + 1
    assert found["project_chunk"] == plain["project_chunk"] + 1
    scaled = kernels(backend, variant, llama(lambda layer: replace(layer, residual_scale=0.5)))
    assert (scaled["project"], scaled["project_chunk"]) == (2 * plain["project"], 2 * plain["project_chunk"])


def test_epilogues_are_equal_when_they_store_alike() -> None:
    assert epilogue.Store(1, 8) == epilogue.Store(1, 8)
    different = [
        epilogue.Store(1, 8),
        epilogue.Store(1, 8, 4),
        epilogue.Store(2, 8),
        epilogue.Store(1, 8, scale=2.0),
        epilogue.Store(1, 8, soft_cap=30.0),
        epilogue.StoreResidual(1, 8),
        epilogue.StoreResidual(1, 8, 0.5),
        epilogue.StoreGelu(1, 8),
        epilogue.StoreGated(1, 8),
        epilogue.StoreGated(1, 8, "gelu_tanh"),
        epilogue.WithBias(epilogue.Store(1, 8), 8, epilogue.OneRow(), f16=True),
        epilogue.WithBias(epilogue.Store(1, 8), 8, epilogue.OneRow(), f16=False),
    ]
    assert len(set(different)) == len(different)
