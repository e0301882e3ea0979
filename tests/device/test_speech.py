"""Models that transcribe on a GPU, against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.config import resolve_config
from compiler.runtime.wgpu import open_variant
from tests.device.harness import Gpu
from tests.speech import BOUND, heard, heard_by_transformers, make_whisper, random_mel, relative


def test_a_gpu_hears_what_transformers_hears(gpu: Gpu, tmp_path: Path) -> None:
    source, variant = make_whisper(tmp_path / "whisper"), "webgpu-f32"
    config = resolve_config(str(source), output=tmp_path / "out", quantization="q0f32", variants=[variant])
    session = open_variant(load_artifact(build(config)), variant, gpu.adapter)
    mel = random_mel()
    for got, want in zip(heard(session, mel), heard_by_transformers(source, mel), strict=True):
        assert np.isfinite(got).all()
        assert relative(got, want) < BOUND
