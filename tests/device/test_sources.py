"""Sources other than a plain checkpoint, run natively: quantized weights taken as they are, and a merged adapter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.check.parity import check
from compiler.config import resolve_config
from compiler.runtime.wgpu import open_variant
from tests.checkpoints import make_llama, make_phi3
from tests.device.harness import Gpu
from tests.mlc_pack import pack, phi3_tensors, write_directory

VARIANT = "webgpu-f32"
IDS = [1, 17, 300, 5, 42, 99, 7]


def test_mlc_weights(gpu: Gpu, tmp_path: Path) -> None:
    checkpoint = make_phi3(tmp_path / "phi3")
    source = write_directory(tmp_path / "pack", checkpoint, pack(phi3_tensors(checkpoint)))
    artifact = build(resolve_config(str(source), output=tmp_path / "out", context=96, variants=[VARIANT]))
    report = check(artifact, str(source), tokens=16)
    assert report["failures"] == []
    assert report["quantization_error"]["max_error"] == 0


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_an_adapter_changes_the_logits_as_in_peft(gpu: Gpu, tmp_path: Path) -> None:
    base = make_llama(tmp_path / "llama")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager"),
        LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]),
    )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    model.save_pretrained(tmp_path / "adapter")
    model.eval()
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits[0, -1].numpy()
    config = resolve_config(
        str(base),
        lora=tmp_path / "adapter",
        output=tmp_path / "out",
        quantization="q0f32",
        context=96,
        variants=[VARIANT],
    )
    artifact = build(config)
    assert check(artifact, str(base), lora=tmp_path / "adapter", tokens=16)["failures"] == []
    got = open_variant(load_artifact(artifact), VARIANT, gpu.adapter).logits(IDS)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
