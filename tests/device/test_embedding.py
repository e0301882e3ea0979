"""Embedding models on a GPU: the pooling kernel against its twin, whole models against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.config import resolve_config
from compiler.kernels import reference
from compiler.kernels.pool import pool
from compiler.runtime.wgpu import open_variant
from tests.device.harness import Gpu
from tests.embeddings import BOUND, CASES, checkpoint, furthest


@pytest.mark.parametrize("adds", [False, True])
def test_rows_are_pooled_as_the_twin_pools_them(gpu: Gpu, adds: bool) -> None:
    rng = np.random.default_rng(0)
    state = np.zeros(64, np.uint32)
    state[0], state[2] = 5, 6
    x, before = rng.normal(size=(8, 104)).astype(np.float32), rng.normal(size=104).astype(np.float32)
    got = gpu.run_kernel(pool("pool", 8, 104, adds, 64), {"x": x.ravel(), "state": state, "out": before})
    want = reference.pool(x[:6], before if adds else None)
    np.testing.assert_allclose(got["out"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("pooling", "scheme"), CASES)
def test_a_gpu_gives_the_embeddings_of_transformers(gpu: Gpu, tmp_path: Path, pooling: str, scheme: str) -> None:
    source = checkpoint(tmp_path, pooling)
    variant = "webgpu-f32"
    config = resolve_config(
        str(source), output=tmp_path / "out", quantization=scheme, context=192, variants=[variant], scales="absmax"
    )
    session = open_variant(load_artifact(build(config)), variant, gpu.adapter)
    assert furthest(source, pooling, scheme, session) < BOUND
