"""One network with a layer of every row of the table besides MLC's, on every backend, against the numpy reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.bench.shapes import random_tensors
from compiler.kernels.webgpu.tuning import ALTERNATIVES, PACKED
from compiler.lowering.lower import rope_constants
from compiler.models import config_from_huggingface, weight_specs
from compiler.models.base import ModelConfig, WeightSpec
from compiler.network import layers
from compiler.network.reference import ReferenceModel
from compiler.runtime.session import Session
from compiler.runtime.wasmtime import WasmRuntime
from compiler.runtime.wgpu import NativeRuntime, missing_features
from compiler.target.variants import VARIANTS
from compiler.weights.quantize import quantize
from compiler.weights.schemes import CODED, ORDERED, SCHEMES, MatrixKey, Scheme, with_matrices
from compiler.weights.stored import stored_rows
from tests.conftest import unavailable
from tests.device.harness import Gpu
from tests.lowering import lower_once

MLC = ("q4f16_1", "q8f16_1", "q0f16", "q0f32")
# Whose kernels are those of others.
LEFT_OUT = ("q4zf16_g64", "q8zf16_g64")
LAYERS = [scheme for name, scheme in SCHEMES.items() if name not in (*MLC, *LEFT_OUT)]
LAYERS += [ORDERED["q4zf16_g32_act"], ORDERED["q8zf16_g128_act"], *CODED.values()]
CONTEXT, CHUNK = 64, 16
# Biases of matrices beside those of groups make the most bindings; K is no multiple of any group but the least.
QWEN2 = {
    "model_type": "qwen2",
    "hidden_size": 176,
    "intermediate_size": 136,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 331,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
# Of the largest logit, by the type of the KV cache.
BOUNDS = {"float32": 3e-4, "float16": 2e-3}


class Weights:
    """Random weights as they are stored, by name."""

    def __init__(self, specs: list[WeightSpec], scheme: Scheme) -> None:
        rng = np.random.default_rng(0)
        self._tensors: dict[str, NDArray[Any]] = {}
        for spec in specs:
            if spec.kind == "matrix" and scheme.of(spec).codebook:
                self._tensors |= dict(random_tensors(spec, scheme.of(spec)))
                continue
            if spec.kind == "matrix":  # off centre, so that a bias matters
                values = rng.normal(0.3, 1, spec.shape) * (1.3 / spec.shape[1] ** 0.5)
            else:
                values = rng.uniform(0.5, 1.5, spec.shape) if "norm" in spec.role else rng.normal(0, 0.5, spec.shape)
            self._tensors |= dict(quantize(spec, values.astype(np.float32), scheme))
            if spec.kind == "matrix" and scheme.of(spec).ordered:
                self._tensors[f"{spec.name}.q_order"] = rng.permutation(spec.shape[1]).astype(np.uint32)

    def tensor(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        return self._tensors[name][start:stop]

    def bytes_of(self, name: str, start: int, stop: int) -> bytes:
        return np.ascontiguousarray(self.tensor(name, start, stop)).tobytes()


def described(schemes: Sequence[Scheme] = LAYERS) -> tuple[ModelConfig, Scheme]:
    """A network with a layer of each scheme; the matrices of its vocabulary are of two rows with biases."""
    model = config_from_huggingface({**QWEN2, "num_hidden_layers": len(schemes)}, CONTEXT)
    matrices: dict[MatrixKey, Scheme] = {
        (spec.role, spec.layer): schemes[spec.layer]
        for spec in weight_specs(model)
        if spec.kind == "matrix" and spec.layer is not None
    }
    matrices |= {("embedding", None): SCHEMES["q4af16_g64"], ("lm_head", None): SCHEMES["q8af16_g32"]}
    return model, with_matrices(SCHEMES["q4f16_1"], matrices)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_of_every_scheme(gpu: Gpu, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode, prefill and products in integers; on the GPU the vocabulary's matrices are in parts."""
    required = VARIANTS[variant].required_features if VARIANTS[variant].backend == "webgpu" else ()
    if missing := missing_features(gpu.adapter, required):
        unavailable(f"the adapter lacks {', '.join(missing)}")
    monkeypatch.setattr(layers, "CUT_BYTES", 1 << 14)
    monkeypatch.setitem(ALTERNATIVES, "webgpu-f32", (PACKED,))
    model, scheme = described()
    specs = list(weight_specs(model))
    weights = Weights(specs, scheme)
    ids = np.random.default_rng(1).integers(3, 331, 24).tolist()
    reference = ReferenceModel(model, stored_rows(weights, scheme))
    wanted = reference.logits(reference.hidden_states(ids))
    assert wanted.std() > 0.3, "logits that hardly differ would hide errors"

    packs = variant == "webgpu-f32"
    lowered = lower_once(model, scheme, VARIANTS[variant], CONTEXT, (CHUNK,), alternatives=packs)
    constants = rope_constants(model, CONTEXT)
    runtime: Session
    if VARIANTS[variant].backend == "wasm":
        runtime = WasmRuntime(lowered.plan, lowered.modules["kernels"], weights.bytes_of, constants)
    else:
        cut = [buffer for buffer in lowered.plan["buffers"] if buffer.get("name") == "model.embed_tokens.q_scale_bias"]
        assert [buffer["rows"] for buffer in cut] == [[0, 192], [192, 331]]
        sources = {file: source.decode() for file, source in lowered.alternatives.items()}
        runtime = NativeRuntime(
            lowered.plan, lowered.kernels, required, weights.bytes_of, constants, gpu.adapter, sources
        )
    bound = BOUNDS["float16"]
    for alternative in (None, "packed") if packs else (None,):
        if alternative is not None:
            assert isinstance(runtime, NativeRuntime)
            runtime.choose(alternative)
        got = runtime.logits(ids[:19])  # a chunk, and one that is mostly padding
        errors = [np.abs(got - wanted[18]).max()]
        for step in range(19, 24):
            errors.append(np.abs(runtime.next_logits(ids[step]) - wanted[step]).max())
        assert max(errors) < bound * np.abs(wanted).max(), (alternative, errors)
