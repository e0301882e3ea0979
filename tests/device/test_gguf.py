"""A GGUF file compiled and replayed natively gives the logits of the network it was made from."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file, save_file

from compiler.build import build
from compiler.check.parity import check
from compiler.config import resolve_config
from compiler.lowering.lower import rope_constants
from compiler.models import config_from_huggingface, weight_specs
from compiler.runtime.wgpu import NativeRuntime
from compiler.sources.open import open_checkpoint
from compiler.target.variants import VARIANTS
from compiler.weights.quantize import quantize
from compiler.weights.schemes import SCHEMES
from tests.checkpoints import make_llama, make_phi3, reference_logits
from tests.device.harness import Gpu
from tests.gguf_files import write_gguf
from tests.lowering import lower_once

CONTEXT = 64
IDS = [1, 17, 300, 42, 5, 99, 261, 7, 7, 120, 33]
MAKERS = {"llama": make_llama, "phi3": make_phi3}


def logits(file: Path, scheme_name: str, gpu: Gpu) -> np.ndarray:
    """The logits after `IDS`, compiled in memory for the smallest variant."""
    checkpoint, scheme, variant = open_checkpoint(file), SCHEMES[scheme_name], VARIANTS["webgpu-f32"]
    model = config_from_huggingface(checkpoint.config, CONTEXT)
    specs = weight_specs(model)
    checkpoint.check_weights(specs, tied=model.tie_word_embeddings)
    lowered = lower_once(model, scheme, variant, CONTEXT, (16,), alternatives=False)
    stored: dict[str, np.ndarray] = {}
    for spec in specs:
        stored |= dict(quantize(spec, checkpoint.blocks(spec), scheme, checkpoint.source_scales(spec)))
    runtime = NativeRuntime(
        lowered.plan,
        lowered.kernels,
        variant.required_features,
        lambda name, start, stop: np.ascontiguousarray(stored[name][start:stop]).tobytes(),
        rope_constants(model, CONTEXT),
        gpu.adapter,
    )
    return runtime.logits(IDS)


@pytest.mark.parametrize("scheme", ["q0f32", "q4f16_1"])
@pytest.mark.parametrize("name", MAKERS)
def test_gguf_and_safetensors_give_the_same_logits(tmp_path: Path, gpu: Gpu, name: str, scheme: str) -> None:
    original = MAKERS[name](tmp_path / "original")
    file = write_gguf(original, tmp_path / "model.gguf", Type.F32)
    found = logits(file, scheme, gpu)
    np.testing.assert_array_equal(found, logits(original, scheme, gpu))
    expected = reference_logits(original, scheme, IDS)[-1]
    tolerance = {"float32": 1e-4, "float16": 2e-3}[SCHEMES[scheme].kv_dtype]
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_eight_bits_are_near_the_original(tmp_path: Path, gpu: Gpu) -> None:
    """Q8_0 in q8f16_1, its values exact: off by the file's own rounding only."""
    original = make_llama(tmp_path / "original")
    found = logits(write_gguf(original, tmp_path / "model.gguf", Type.Q8_0), "q8f16_1", gpu)
    expected = reference_logits(original, "q0f32", IDS)[-1]
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    assert found.argmax() == expected.argmax()


def test_subnormal_scales_are_read(tmp_path: Path, gpu: Gpu) -> None:
    """float16 below its normal numbers, as files have them: a device that took them for 0 would lose the matrix."""
    original = make_llama(tmp_path / "original", hidden_size=256, intermediate_size=512, num_attention_heads=4)
    factors = {"down_proj": np.float32(1 / 200), "up_proj": np.float32(200)}  # the product stays what it was
    tensors = load_file(original / "model.safetensors")
    scaled = {n: a * next((f for part, f in factors.items() if part in n), np.float32(1)) for n, a in tensors.items()}
    save_file(scaled, original / "model.safetensors")
    file = write_gguf(original, tmp_path / "model.gguf", Type.Q8_0)
    checkpoint = open_checkpoint(file)
    specs = weight_specs(config_from_huggingface(checkpoint.config, CONTEXT))
    (down,) = [spec for spec in specs if spec.role == "down" and spec.layer == 0]
    stored = checkpoint.stored(down, SCHEMES["q8f16_1"])
    assert stored is not None
    scales = dict(stored)[f"{down.name}.q_scale"]
    assert 0 < np.abs(scales).max() < 2.0**-14
    artifact = build(resolve_config(str(file), output=tmp_path / "out", context=CONTEXT, variants=["webgpu-f32"]))
    report = check(artifact, str(file), tokens=8)
    assert report["failures"] == []
