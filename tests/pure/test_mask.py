"""The mask of logits against its numpy twin, on the CPU; `tests/device` runs the same cases on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.kernels import reference
from compiler.kernels.cpu.builder import CpuKernel
from compiler.kernels.mask import mask_logits, mask_words
from tests.cpu_kernels import Modules

VOCABULARIES = (5, 64, 331, 2000)


def case(vocab: int) -> dict[str, NDArray[Any]]:
    """Half of the tokens allowed; the last word's bits beyond the vocabulary are set and mean nothing."""
    rng = np.random.default_rng(vocab)
    return {
        "mask": rng.integers(0, 2**32, mask_words(vocab), np.uint32),
        "bias": np.where(rng.random(vocab) < 0.1, rng.normal(size=vocab) * 10, 0).astype(np.float32),
        "logits": rng.normal(size=vocab).astype(np.float32),
    }


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_masked_logits_are_those_of_the_twin(vocab: int) -> None:
    arrays = case(vocab)
    modules = Modules({"mask": mask_logits("mask", vocab, CpuKernel)})
    got = modules.run("mask", arrays)
    want = reference.mask(arrays["logits"], arrays["mask"], arrays["bias"])
    assert (want == reference.MASKED).any()
    assert (want != reference.MASKED).any()
    np.testing.assert_array_equal(got["logits"], want)
    assert modules.same_in_pieces("mask", arrays, got)
