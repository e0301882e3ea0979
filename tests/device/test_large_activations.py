"""Activations beyond what f16 holds, in every family and variant: finite, and as right as small ones.

A trained model has them (`down_proj` of a few channels, and the residual stream from there on); random weights have
not, so some are enlarged. The reference runs in float32.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from compiler.kernels.webgpu.tuning import ALTERNATIVES
from compiler.lowering.lower import Lowered
from compiler.models import config_from_huggingface
from compiler.models.base import ModelConfig
from compiler.runtime.wgpu import NativeRuntime, missing_features
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES
from tests.checkpoints import FAMILIES, LARGE, RENAMED_TENSORS, enlarge, model_logits, reference_model
from tests.conftest import unavailable
from tests.device.harness import Gpu
from tests.device.test_parity import CASES_OF_ALTERNATIVES, CHECKPOINTS, CHUNKS, error, loaded, tolerance_of
from tests.lowering import lower_once

SCHEME = "q4f16_1"
NAMES = ("llama-mqa-64", "phi3-mha-96", *(name for name in FAMILIES if name not in RENAMED_TENSORS))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every family's checkpoint as it is made."""
    root = tmp_path_factory.mktemp("large")
    for name in NAMES:
        CHECKPOINTS[name].make(root / name)
    return root


class Lowerings:
    """What a family is lowered to, once a variant: its weights change nothing in it."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], tuple[ModelConfig, Lowered]] = {}

    def __call__(self, path: Path, variant: str) -> tuple[ModelConfig, Lowered]:
        key = path.name, variant
        if key not in self._made:
            context = CHECKPOINTS[path.name].context
            model = config_from_huggingface(json.loads((path / "config.json").read_text()), context)
            alternatives = (path.name, SCHEME, variant) in CASES_OF_ALTERNATIVES
            made = lower_once(model, SCHEMES[SCHEME], VARIANTS[variant], context, CHUNKS, alternatives=alternatives)
            self._made[key] = model, made
        return self._made[key]


@pytest.fixture(scope="module")
def lowerings() -> Lowerings:
    return Lowerings()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_large_activations(
    checkpoints: Path, lowerings: Lowerings, gpu: Gpu, tmp_path: Path, name: str, variant: str
) -> None:
    """Prefill in chunks, then decode steps; by the plan's own programs, and by its alternatives where it has some."""
    features = VARIANTS[variant].required_features if VARIANTS[variant].backend == "webgpu" else ()
    if missing := missing_features(gpu.adapter, features):
        unavailable(f"the adapter lacks {', '.join(missing)}")
    ids = np.random.default_rng(5).integers(3, 300, 40).tolist()
    for change in LARGE:
        path = enlarge(Path(shutil.copytree(checkpoints / name, tmp_path / change / name)), change)
        want = model_logits(reference_model(path, SCHEME), ids)
        assert want.std() > 0.1, "a model whose logits hardly differ would hide errors"
        runtime = loaded(path, *lowerings(path, variant), SCHEME, variant, gpu)
        for alternative in (None, *(described["name"] for described in runtime.plan.get("alternatives", ()))):
            if alternative is not None:
                assert isinstance(runtime, NativeRuntime)
                runtime.choose(alternative)
            got = [runtime.logits(ids[:37]), *(runtime.next_logits(token) for token in ids[37:])]
            for step, logits in zip(range(36, 40), got, strict=True):
                assert np.isfinite(logits).all(), (change, alternative, step)
                assert error(logits, want[step]) < tolerance_of(SCHEME), (change, alternative, step)


def test_integer_products_are_among_them() -> None:
    """Those that outliers would hurt most: their activations are integers."""
    held = {(name, variant) for name, scheme, variant in CASES_OF_ALTERNATIVES if scheme == SCHEME and name in NAMES}
    packed = {variant for variant, alternatives in ALTERNATIVES.items() if any(a.packed for a in alternatives)}
    assert {variant for _, variant in held} >= packed
