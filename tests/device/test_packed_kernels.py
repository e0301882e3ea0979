"""Products of quantized activations against the numpy twin: odd sizes, every storage, norms, epilogues, padding."""

import numpy as np
import pytest

from compiler.kernels import epilogue, reference
from compiler.kernels.epilogue import HalfRows, OneRow
from compiler.kernels.shapes import MatrixShape
from compiler.kernels.webgpu import packed
from compiler.kernels.webgpu.tuning import PACKED
from compiler.weights.schemes import STORED
from tests.device.harness import Gpu, assert_untouched, poison
from tests.device.test_matrix_kernels import (
    EPSILON,
    OTHER_NAMES,
    SCHEME_NAMES,
    STATE_WORDS,
    gamma_of,
    norm_of,
    state,
    storage_of,
    stored_matrix,
)

# Of the largest element. A step is 1 / 16256 of a group's largest activation; measured: 6e-5.
TOLERANCE = 2e-4


CASES = [
    (16, 16, 203, 72, False, False),  # a last group of one part
    (37, 21, 101, 40, True, False),  # a chunk that is no multiple of a tile, mostly padding
    (16, 1, 64, 1000, True, True),
    (33, 33, 33, 136, False, True),
]
RAGGED = [(9, 7, 21, 328, True, False)]
RUNS = [
    (*case, name)
    for name in (*SCHEME_NAMES, *OTHER_NAMES)
    if STORED[name].group_size
    for case in (CASES if name in SCHEME_NAMES else RAGGED)
]


@pytest.mark.parametrize(("chunk", "length", "rows", "k", "normed", "gated", "scheme"), RUNS)
def test_packed_product(
    gpu: Gpu, chunk: int, length: int, rows: int, k: int, normed: bool, gated: bool, scheme: str
) -> None:
    assert PACKED.packed is not None
    rng = np.random.default_rng(chunk * k)
    weight = stored_matrix(rng, scheme, 2 * rows if gated else rows, k)
    x, gamma = poison((chunk, k), "float32"), gamma_of(rng, scheme, k)
    x[:length] = rng.normal(0, 1, (length, k)).astype(np.float32)
    x[0, :32] = 0  # a group without a scale
    x[0, -1] = 40  # an outlier costs its own group precision, no other
    quantized_rows = packed.Rows.of(storage_of(scheme), k)
    words, scales = quantized_rows.shapes(chunk)
    arrays = {"x": x, "state": state(3, 0, length), "words": poison(words, "uint32")}
    arrays |= {"scales": poison(scales, "float32")} | ({"gamma": gamma} if normed else {})
    norm = norm_of(scheme) if normed else None
    quantized = gpu.run_kernel(packed.quantize("quantize", quantized_rows, chunk, norm, STATE_WORDS), arrays)
    for made in quantized.values():
        assert_untouched(made[length:])
    declare = epilogue.StoreGated(chunk, rows) if gated else epilogue.Store(chunk, rows)
    unit_rows = HalfRows(rows) if gated else OneRow()
    shape = MatrixShape(storage_of(scheme), chunk, len(weight.values), k, rows, unit_rows, declare, STATE_WORDS)
    kernel = packed.matmul("packed", shape, PACKED.packed)
    arrays = {"words": quantized["words"], "row_scales": quantized["scales"], **weight.arrays}
    out = gpu.run_kernel(kernel, {**arrays, "state": state(3, 0, length), "out": poison((chunk, rows), "float32")})[
        "out"
    ]
    want = reference.matmul(reference.rms_norm(x[:length], gamma, EPSILON) if normed else x[:length], weight.values)
    want = reference.gated(want) if gated else want
    assert np.isfinite(out[:length]).all()
    assert np.abs(out[:length] - want).max() <= TOLERANCE * np.abs(want).max()
    assert_untouched(out[length:])
