"""The mask of logits on a GPU against its numpy twin."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.kernels import reference
from compiler.kernels.mask import mask_logits
from tests.device.harness import Gpu
from tests.pure.test_mask import VOCABULARIES, case


@pytest.mark.parametrize("vocab", [*VOCABULARIES, 128256])
def test_masked_logits_are_those_of_the_twin(gpu: Gpu, vocab: int) -> None:
    arrays = case(vocab)
    got = gpu.run_kernel(mask_logits("mask", vocab), arrays)
    np.testing.assert_array_equal(got["logits"], reference.mask(arrays["logits"], arrays["mask"], arrays["bias"]))
