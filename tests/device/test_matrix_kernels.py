"""Matrix products, norms and embeddings against their numpy twins: odd sizes, every scheme, tuning and epilogue."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.bench.shapes import random_tensors
from compiler.kernels import embed, epilogue, reference
from compiler.kernels.cache import Cache, Heads
from compiler.kernels.epilogue import STATE_HEADER, Declare, HalfRows, OneRow, PairRows, UnitRows
from compiler.kernels.rope import rope_table
from compiler.kernels.shapes import MatrixShape, Norm
from compiler.kernels.webgpu import few, head_norm, matmul, matvec, norm
from compiler.kernels.webgpu.tuning import FEW_VECTORS, LOW_TILING, SPLIT_VECTORS, TILING, TUNING, VariantTuning
from compiler.models.base import WeightSpec, matrix
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.schemes import CODED, SCHEMES, STORED
from compiler.weights.storage import Storage
from tests.caches import plain, queries_for
from tests.conftest import unavailable
from tests.device.harness import Gpu, assert_close, assert_untouched, poison

STATE_WORDS = 192
ONE_ROW = OneRow()
CONTEXT = 600  # three coarse rows of the rotary table, the last one partial
EPSILON = 1e-2  # large enough to matter
ONE_LANE = VariantTuning(
    matvec.Tuning("lanes", 64, 1, 2),
    matvec.Tuning("lanes", 64, 1, 1),
    TUNING["webgpu-f32"].tiling,
    TUNING["webgpu-f32"].attention,
)
SPLIT = replace(TUNING["webgpu-f32-sg"], single=SPLIT_VECTORS, paired=matvec.Tuning("workgroup", 64, 64, 2))
TUNINGS = {
    "subgroup": TUNING["webgpu-f32-sg"],
    "workgroup": SPLIT,
    "lanes8": TUNING["webgpu-f32"],
    "lanes1": ONE_LANE,
}
WITH_SUBGROUPS = ("subgroup", "workgroup")
TILINGS = {"usual": TILING, "low": LOW_TILING}
SCHEME_NAMES = ("q4f16_1", "q8f16_1", "q0f16", "q0f32")
# But those whose kernels differ from others' by a number that makes no difference to what is tested.
LEFT_OUT = ("q4zf16_g64", "q4zf16_g128", "q8zf16_g32", "q8zf16_g64")
OTHER_NAMES = tuple(name for name in SCHEMES | CODED if name not in (*SCHEME_NAMES, *LEFT_OUT))
CACHE_DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Stored:
    """A random matrix: what the kernel binds and what it stands for."""

    arrays: dict[str, NDArray[Any]]
    values: NDArray[np.float32] = field(repr=False)


def stored_matrix(rng: np.random.Generator, scheme: str, rows: int, columns: int) -> Stored:
    spec: WeightSpec = matrix("m", columns, {"m": rows}, "lm_head")
    if STORED[scheme].codebook:
        tensors = dict(random_tensors(spec, STORED[scheme]))
    else:
        tensors = dict(quantize(spec, rng.normal(0, 1, (rows, columns)).astype(np.float32), STORED[scheme]))
    first, *scales = tensors.values()
    arrays = {"weights": first}
    for array in scales:  # bound as pairs, so an odd one gets a neighbour, as in the runtime
        arrays["scales"] = np.append(array.reshape(-1), poison(array.size % 2, "float16"))
    return Stored(arrays, dequantize(spec, tensors, STORED[scheme]))


def storage_of(scheme: str) -> Storage:
    return STORED[scheme].storage


def one_row(
    scheme: str, rows: int, k: int, declare: Declare, units: int | None = None, unit_rows: UnitRows = ONE_ROW
) -> MatrixShape:
    """A mat-vec, of a unit a row unless it is said otherwise."""
    return MatrixShape(storage_of(scheme), 1, rows, k, units or rows, unit_rows, declare, STATE_WORDS)


def require(gpu: Gpu, tuning: str) -> None:
    if tuning in WITH_SUBGROUPS and not gpu.subgroups:
        unavailable("the adapter lacks subgroups")


def state(position: int = 0, token: int = 0, length: int = 0) -> NDArray[np.uint32]:
    words = poison(STATE_WORDS, "uint32")
    words[:3] = position, token, length
    return words


def gamma_of(rng: np.random.Generator, scheme: str, k: int) -> NDArray[Any]:
    return rng.uniform(0.5, 1.5, k).astype(STORED[scheme].float_dtype)


def norm_of(scheme: str) -> Norm:
    return Norm(EPSILON, f16_weight=STORED[scheme].float_dtype == "float16")


# ------------------------------------------------------------------------------------------------------- decode: matvec


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize(
    ("rows", "k", "normed"),
    [
        (1003, 72, True),  # an odd number of scales, a last group of one part
        (1003, 40, True),
        (37, 104, False),  # fewer rows than a workgroup takes
        (64, 1048, False),  # more groups than lanes, the last one partial
    ],
)
def test_matvec(gpu: Gpu, rows: int, k: int, normed: bool, scheme: str, tuning: str) -> None:
    require(gpu, tuning)
    rng = np.random.default_rng(rows * k)
    weight = stored_matrix(rng, scheme, rows, k)
    x, gamma = rng.normal(0, 1, k).astype(np.float32), gamma_of(rng, scheme, k)
    offset = 5
    shape = one_row(scheme, rows, k, epilogue.Store(1, rows + 9, offset))
    kernel = matvec.matvec("matvec", shape, TUNINGS[tuning].single, norm_of(scheme) if normed else None)
    arrays = {"x": x, **weight.arrays, "out": poison(rows + 9, "float32")} | ({"gamma": gamma} if normed else {})
    out = gpu.run_kernel(kernel, arrays, tuning in WITH_SUBGROUPS)["out"]
    want = reference.matvec(x, weight.values, gamma if normed else None, EPSILON)
    assert_close(out[offset : offset + rows], want)
    assert_untouched(out[:offset])
    assert_untouched(out[offset + rows :])


# Of the rows of the table besides MLC's: a group, or a block of one, that K cuts short.
@pytest.mark.parametrize(("k", "tuning"), [(328, "subgroup"), (40, "lanes8"), (256, "lanes1")])
@pytest.mark.parametrize("scheme", OTHER_NAMES)
def test_matvec_of_every_storage(gpu: Gpu, scheme: str, k: int, tuning: str) -> None:
    require(gpu, tuning)
    rng, rows = np.random.default_rng(k), 37
    weight = stored_matrix(rng, scheme, rows, k)
    x, gamma = rng.normal(0.5, 1, k).astype(np.float32), gamma_of(rng, scheme, k)
    shape = one_row(scheme, rows, k, epilogue.Store(1, rows))
    kernel = matvec.matvec("matvec", shape, TUNINGS[tuning].single, norm_of(scheme))
    arrays = {"x": x, "gamma": gamma, **weight.arrays, "out": poison(rows, "float32")}
    out = gpu.run_kernel(kernel, arrays, tuning in WITH_SUBGROUPS)["out"]
    assert_close(out, reference.matvec(x, weight.values, gamma, EPSILON))


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_matvec_residual(gpu: Gpu, scheme: str, tuning: str) -> None:
    require(gpu, tuning)
    rng = np.random.default_rng(2)
    rows, k = 203, 136
    weight = stored_matrix(rng, scheme, rows, k)
    x, residual = rng.normal(0, 1, k).astype(np.float32), rng.normal(0, 1, rows).astype(np.float32)
    shape = one_row(scheme, rows, k, epilogue.StoreResidual(1, rows))
    kernel = matvec.matvec("project", shape, TUNINGS[tuning].single)
    arrays = {"x": x, **weight.arrays, "residual": residual, "out": poison(rows, "float32")}
    out = gpu.run_kernel(kernel, arrays, tuning in WITH_SUBGROUPS)["out"]
    assert_close(out, residual.astype(np.float64) + reference.matvec(x, weight.values))


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_matvec_gated(gpu: Gpu, scheme: str, tuning: str) -> None:
    require(gpu, tuning)
    rng = np.random.default_rng(3)
    inner, k = 101, 104
    weight = stored_matrix(rng, scheme, 2 * inner, k)
    x, gamma = rng.normal(0, 1, k).astype(np.float32), gamma_of(rng, scheme, k)
    shape = one_row(scheme, 2 * inner, k, epilogue.StoreGated(1, inner), inner, HalfRows(inner))
    kernel = matvec.matvec("gate_up", shape, TUNINGS[tuning].paired, norm_of(scheme))
    arrays = {"x": x, "gamma": gamma, **weight.arrays, "out": poison(inner, "float32")}
    out = gpu.run_kernel(kernel, arrays, tuning in WITH_SUBGROUPS)["out"]
    assert_close(out, reference.gated(reference.matvec(x, weight.values, gamma, EPSILON)))


HEADS = {
    "mqa": Heads(3, 1, 64, 64),
    "gqa_partial": Heads(4, 2, 40, 24),  # 24 of 40 dimensions rotate
    "mha_partial": Heads(2, 2, 96, 72),
}


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize(
    ("heads", "scheme", "tuning"),
    [
        ("mqa", "q4f16_1", "subgroup"),
        ("mqa", "q0f32", "lanes8"),
        ("gqa_partial", "q4f16_1", "lanes1"),
        ("mha_partial", "q0f16", "subgroup"),
        ("mha_partial", "q4f16_1", "workgroup"),
        ("mha_partial", "q8f16_1", "lanes8"),
    ],
)
def test_matvec_rotated(gpu: Gpu, heads: str, scheme: str, tuning: str, dtype: str) -> None:
    require(gpu, tuning)
    rng, shape = np.random.default_rng(4), HEADS[heads]
    k, position = 104, 7
    weight = stored_matrix(rng, scheme, shape.rows, k)
    x, gamma = rng.normal(0, 1, k).astype(np.float32), gamma_of(rng, scheme, k)
    angles = rng.uniform(0, 6, shape.rotary // 2)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    words = state(position)
    words[STATE_HEADER : STATE_HEADER + shape.rotary] = np.stack([cos, sin], axis=-1).reshape(-1).view(np.uint32)
    cache = Cache(shape, 10, dtype)
    declare = epilogue.StoreRotated(cache, STATE_WORDS)
    product = one_row(scheme, shape.rows, k, declare, shape.rows // 2, PairRows(shape))
    kernel = matvec.matvec("qkv", product, TUNINGS[tuning].paired, norm_of(scheme))
    arrays = {"x": x, "gamma": gamma, **weight.arrays, "state": words, "cache": empty_cache(cache)}
    arrays["query"] = poison((shape.query, shape.size), "float32")
    out = gpu.run_kernel(kernel, arrays, tuning in WITH_SUBGROUPS)
    want = reference.matvec(x, weight.values, gamma, EPSILON).reshape(1, -1, shape.size)
    turning = shape.query + shape.key_value
    turned = reference.rotate(want[:, :turning], cos[None], sin[None])
    assert_close(out["query"], queries_for(cache, turned[0, : shape.query]))
    kept = np.concatenate([turned[:, shape.query :], want[:, turning:]], axis=1)
    assert_cached(cache, out["cache"], position, kept)


def empty_cache(cache: Cache) -> NDArray[Any]:
    """A cache that nobody has written."""
    return poison((cache.context, cache.row_words), "uint32" if cache.halves else "float32")


def assert_cached(cache: Cache, got: NDArray[Any], position: int, kept: NDArray[Any]) -> None:
    """Keys, then values, of `kept` stand from `position` on, and nothing else was written."""
    rows = slice(position, position + len(kept))
    assert_close(plain(cache, got[rows]).reshape(kept.shape), kept, 1e-3 if cache.halves else 1e-5)
    assert_untouched(np.delete(got, np.s_[rows], axis=0))


def test_what_is_too_large_for_f16_is_kept_as_the_largest_of_it(gpu: Gpu) -> None:
    """Never an infinity, which would be NaN from the next softmax on."""
    shape, k, position = Heads(2, 1, 32, 32), 64, 3
    weight = stored_matrix(np.random.default_rng(1), "q0f32", shape.rows, k)
    words = state(position)
    words[STATE_HEADER : STATE_HEADER + shape.rotary] = np.tile(np.array([1, 0], np.float32), 16).view(np.uint32)
    cache = Cache(shape, 5, "float16")
    declare = epilogue.StoreRotated(cache, STATE_WORDS)
    product = one_row("q0f32", shape.rows, k, declare, shape.rows // 2, PairRows(shape))
    kernel = matvec.matvec("qkv", product, TUNINGS["lanes8"].paired)
    arrays = {"x": np.full(k, 1e4, np.float32), **weight.arrays, "state": words, "cache": empty_cache(cache)}
    arrays["query"] = poison((shape.query, shape.size), "float32")
    out = gpu.run_kernel(kernel, arrays)
    want = reference.matvec(arrays["x"], weight.values).reshape(1, -1, shape.size)
    assert np.abs(want).max() > 65504 * 1.5
    assert_close(out["query"], queries_for(cache, want[0, : shape.query]))
    assert_cached(cache, out["cache"], position, np.clip(want[:, shape.query :], -65504, 65504))


# ------------------------------------------------------------------------------------------------------------- prefill


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize(
    ("chunk", "length", "rows", "k", "kind"),
    [
        (16, 16, 203, 72, "store"),
        (16, 1, 64, 104, "store"),
        (37, 21, 101, 40, "residual"),  # a chunk that is no multiple of a tile, mostly padding
        (20, 13, 65, 128, "residual"),
        (16, 5, 51, 104, "gated"),
        (33, 33, 33, 136, "gated"),
    ],
)
def test_matmul(gpu: Gpu, chunk: int, length: int, rows: int, k: int, kind: str, scheme: str, tiling: str) -> None:
    rng = np.random.default_rng(chunk * k)
    weight = stored_matrix(rng, scheme, rows * 2 if kind == "gated" else rows, k)
    x = poison((chunk, k), "float32")
    x[:length] = rng.normal(0, 1, (length, k)).astype(np.float32)
    want = reference.matmul(x[:length], weight.values)
    arrays = {"x": x, **weight.arrays, "state": state(3, 0, length), "out": poison((chunk, rows), "float32")}
    declare: epilogue.Declare = epilogue.Store(chunk, rows)
    if kind == "residual":
        declare = epilogue.StoreResidual(chunk, rows)
        arrays["residual"] = rng.normal(0, 1, (chunk, rows)).astype(np.float32)
        want = want + arrays["residual"][:length]
    elif kind == "gated":
        declare = epilogue.StoreGated(chunk, rows)
        want = reference.gated(want)
    unit_rows = HalfRows(rows) if kind == "gated" else OneRow()
    shape = MatrixShape(storage_of(scheme), chunk, len(weight.values), k, rows, unit_rows, declare, STATE_WORDS)
    out = gpu.run_kernel(matmul.matmul("matmul", shape, TILINGS[tiling]), arrays)["out"]
    assert_close(out[:length], want)
    assert_untouched(out[length:])


@pytest.mark.parametrize(("k", "tiling"), [(328, "usual"), (72, "low")])
@pytest.mark.parametrize("scheme", OTHER_NAMES)
def test_matmul_of_every_storage(gpu: Gpu, scheme: str, k: int, tiling: str) -> None:
    rng, chunk, length, rows = np.random.default_rng(k), 12, 9, 21
    weight = stored_matrix(rng, scheme, rows, k)
    x = poison((chunk, k), "float32")
    x[:length] = rng.normal(0.5, 1, (length, k)).astype(np.float32)
    shape = MatrixShape(storage_of(scheme), chunk, rows, k, rows, OneRow(), epilogue.Store(chunk, rows), STATE_WORDS)
    kernel = matmul.matmul("matmul", shape, TILINGS[tiling])
    arrays = {"x": x, **weight.arrays, "state": state(3, 0, length), "out": poison((chunk, rows), "float32")}
    out = gpu.run_kernel(kernel, arrays)["out"]
    assert_close(out[:length], reference.matmul(x[:length], weight.values))
    assert_untouched(out[length:])


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize(
    ("chunk", "length", "rows", "k", "gated"),
    [
        (8, 8, 203, 72, False),  # a last group of one part, fewer blocks than lanes
        (8, 1, 33, 1048, True),  # most rows are padding; more blocks than lanes, the last one partial
        (5, 5, 51, 104, False),
        (3, 2, 37, 136, True),
    ],
)
def test_matmul_of_few_rows(gpu: Gpu, chunk: int, length: int, rows: int, k: int, gated: bool, scheme: str) -> None:
    rng = np.random.default_rng(chunk * k)
    weight = stored_matrix(rng, scheme, rows * 2 if gated else rows, k)
    x = poison((chunk, k), "float32")
    x[:length] = rng.normal(0, 1, (length, k)).astype(np.float32)
    want = reference.matmul(x[:length], weight.values)
    declare = epilogue.StoreGated(chunk, rows) if gated else epilogue.Store(chunk, rows)
    unit_rows = HalfRows(rows) if gated else OneRow()
    shape = MatrixShape(storage_of(scheme), chunk, len(weight.values), k, rows, unit_rows, declare, STATE_WORDS)
    kernel = few.matmul("few", shape, FEW_VECTORS[1 if gated else 0])
    arrays = {"x": x, **weight.arrays, "state": state(3, 0, length), "out": poison((chunk, rows), "float32")}
    out = gpu.run_kernel(kernel, arrays)["out"]
    assert_close(out[:length], reference.gated(want) if gated else want)
    assert_untouched(out[length:])


@pytest.mark.parametrize("scheme", OTHER_NAMES)
def test_matmul_of_few_rows_and_every_storage(gpu: Gpu, scheme: str) -> None:
    rng, chunk, length, rows, k = np.random.default_rng(1), 8, 6, 21, 328
    weight = stored_matrix(rng, scheme, rows, k)
    x = poison((chunk, k), "float32")
    x[:length] = rng.normal(0.5, 1, (length, k)).astype(np.float32)
    shape = MatrixShape(storage_of(scheme), chunk, rows, k, rows, OneRow(), epilogue.Store(chunk, rows), STATE_WORDS)
    arrays = {"x": x, **weight.arrays, "state": state(3, 0, length), "out": poison((chunk, rows), "float32")}
    out = gpu.run_kernel(few.matmul("few", shape, FEW_VECTORS[0]), arrays)["out"]
    assert_close(out[:length], reference.matmul(x[:length], weight.values))
    assert_untouched(out[length:])


@pytest.mark.parametrize("scheme", ["q4f16_1", "q0f32"])  # f16 and f32 norm weights
@pytest.mark.parametrize(("chunk", "length", "k"), [(7, 3, 40), (5, 5, 1000)])
def test_rms_norm(gpu: Gpu, chunk: int, length: int, k: int, scheme: str) -> None:
    rng = np.random.default_rng(k)
    x = poison((chunk, k), "float32")
    x[:length] = rng.normal(0, 3, (length, k)).astype(np.float32)
    gamma = gamma_of(rng, scheme, k)
    want, residual = reference.rms_norm(x[:length], gamma, EPSILON), rng.normal(0, 3, (chunk, k)).astype(np.float32)
    for scale in (None, 1.0, 0.25):  # what a residual is added to
        kernel = norm.rms_norm("rms_norm", chunk, k, norm_of(scheme), STATE_WORDS, scale)
        added = {} if scale is None else {"residual": residual}
        arrays = {"x": x, "gamma": gamma, "state": state(0, 0, length), **added, "out": poison((chunk, k), "float32")}
        out = gpu.run_kernel(kernel, arrays)["out"]
        assert_close(out[:length], want if scale is None else residual[:length] + scale * want)
        assert_untouched(out[length:])


@pytest.mark.parametrize("scheme", ["q4f16_1", "q0f32"])
@pytest.mark.parametrize(("chunk", "length", "k"), [(1, 1, 136), (7, 3, 40), (5, 5, 1000)])
def test_layer_norm(gpu: Gpu, chunk: int, length: int, k: int, scheme: str) -> None:
    """A chunk of one is a decode step, whose state has no valid length."""
    rng = np.random.default_rng(k)
    x = poison((chunk, k), "float32")
    x[:length] = rng.normal(2, 3, (length, k)).astype(np.float32)  # a mean that must not cost precision
    gamma, beta = gamma_of(rng, scheme, k), gamma_of(rng, scheme, k)
    kernel = norm.layer_norm("layer_norm", chunk, k, norm_of(scheme), STATE_WORDS)
    arrays = {"x": x, "gamma": gamma, "beta": beta, "out": poison((chunk, k), "float32")}
    if chunk > 1:
        arrays["state"] = state(0, 0, length)
    out = gpu.run_kernel(kernel, arrays)["out"]
    assert_close(out[:length], reference.layer_norm(x[:length], gamma, beta, EPSILON))
    assert_untouched(out[length:])


@pytest.mark.parametrize(("scheme", "kind"), [("q4f16_1", "gelu"), ("q0f32", "gelu"), ("q8f16_1", "gated")])
def test_biases_and_gelu(gpu: Gpu, scheme: str, kind: str) -> None:
    """Decode and prefill: an odd number of biases, added before the activation function, up to where it saturates."""
    rng = np.random.default_rng(8)
    k, units, chunk, length = 104, 51, 18, 7
    rows = 2 * units if kind == "gated" else units
    weight = stored_matrix(rng, scheme, rows, k)
    bias = rng.normal(0, 2, rows).astype(STORED[scheme].float_dtype)
    x = rng.normal(0, 1, (length, k)).astype(np.float32)
    x[1:3] *= 30 if kind == "gelu" else 4
    sums = reference.matmul(x, weight.values) + bias.astype(np.float64)
    want = reference.gated(sums) if kind == "gated" else reference.gelu(sums)

    unit_rows = HalfRows(units) if kind == "gated" else OneRow()

    def declare(rows_out: int) -> epilogue.Declare:
        make = epilogue.StoreGated if kind == "gated" else epilogue.StoreGelu
        return epilogue.WithBias(make(rows_out, units), rows, unit_rows, STORED[scheme].float_dtype == "float16")

    bound = np.append(bias, poison(rows % 2, "float16")) if bias.dtype == np.float16 else bias
    tuning = TUNINGS["lanes8"].paired if kind == "gated" else TUNINGS["lanes8"].single
    kernel = matvec.matvec("one", one_row(scheme, rows, k, declare(1), units, unit_rows), tuning)
    for row in (0, 1):
        arrays = {"x": x[row], **weight.arrays, "bias": bound, "out": poison(units, "float32")}
        assert_close(gpu.run_kernel(kernel, arrays)["out"], want[row])
    shape = MatrixShape(storage_of(scheme), chunk, rows, k, units, unit_rows, declare(chunk), STATE_WORDS)
    kernel = matmul.matmul("chunk", shape, TILING)
    padded = poison((chunk, k), "float32")
    padded[:length] = x
    arrays = {"x": padded, **weight.arrays, "bias": bound, "state": state(0, 0, length)}
    out = gpu.run_kernel(kernel, {**arrays, "out": poison((chunk, units), "float32")})["out"]
    assert_close(out[:length], want)
    assert_untouched(out[length:])


# ---------------------------------------------------------------------------------------------- embedding and positions


@pytest.mark.parametrize("scheme", SCHEMES)
def test_embed_token(gpu: Gpu, scheme: str) -> None:
    """An embedding in two pieces: the one with the token writes the row, the first also the angles of the position."""
    rng = np.random.default_rng(5)
    vocab, cut, k, pairs, position = 131, 64, 104, 24, 517
    table = rope_table(10000.0 ** -(np.arange(pairs) / pairs), 1.19, CONTEXT)
    whole = stored_matrix(rng, scheme, vocab, k)
    for rows in ((0, cut), (cut, vocab)):
        vocabulary, rope = embed.Vocabulary(storage_of(scheme), rows, k), embed.Table(pairs, CONTEXT)
        kernel = gpu.compile(embed.embed_token("embed", vocabulary, rope, STATE_WORDS))
        part = {name: array.reshape(-1) for name, array in whole.arrays.items()}
        for name, array in part.items():
            width = array.size // vocab
            part[name] = np.ascontiguousarray(array[rows[0] * width : rows[1] * width])
            if part[name].nbytes % 4:
                part[name] = np.append(part[name], poison(1, "float16"))
        for token in (0, cut - 1, cut, vocab - 1):
            arrays = {**part, "rope": table, "state": state(position, token), "out": poison(k, "float32")}
            result = gpu.run([kernel], arrays)
            if rows[0] <= token < rows[1]:
                assert_close(result["out"], reference.embed(whole.values, np.array([token], np.uint32))[0])
            else:
                assert_untouched(result["out"])
            if rows[0] == 0:
                got = result["state"][STATE_HEADER : STATE_HEADER + 2 * pairs].view(np.float32).reshape(-1, 2)
                cos, sin = reference.cos_sin(table, CONTEXT, np.array([position], np.uint32))
                np.testing.assert_allclose(got, np.stack([cos[0], sin[0]], axis=-1), atol=1e-6)
                assert_untouched(result["state"][STATE_HEADER + 2 * pairs :])
                assert list(result["state"][:3]) == [position, token, 0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_embed_chunk(gpu: Gpu, scheme: str) -> None:
    rng = np.random.default_rng(6)
    vocab, k, chunk = 131, 1032, 9
    whole = stored_matrix(rng, scheme, vocab, k)
    ids = rng.integers(0, vocab, chunk).astype(np.uint32)
    kernel = embed.embed_chunk("embed_chunk", embed.Vocabulary(storage_of(scheme), (0, vocab), k), chunk)
    arrays = {"input_ids": ids, **whole.arrays, "out": poison((chunk, k), "float32")}
    out = gpu.run_kernel(kernel, arrays)["out"]
    assert_close(out, reference.embed(whole.values, ids))


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_rotate_chunk(gpu: Gpu, heads: str, dtype: str) -> None:
    """A padded chunk over the seam of the rotary table's blocks; the cache outside the valid rows stays as it was."""
    rng, shape = np.random.default_rng(7), HEADS[heads]
    cache, chunk, length, position = Cache(shape, CONTEXT, dtype), 11, 8, 253
    table = rope_table(10000.0 ** -(np.arange(shape.rotary // 2) / shape.rotary * 2), 0.9, CONTEXT)
    qkv = poison((chunk, shape.rows), "float32")
    qkv[:length] = rng.normal(0, 1, (length, shape.rows)).astype(np.float32)
    kernel = embed.rotate_chunk("rotate", cache, chunk, STATE_WORDS)
    arrays = {
        "qkv": qkv,
        "state": state(position, 0, length),
        "rope": table,
        "cache": empty_cache(cache),
        "query": poison((chunk, shape.query, shape.size), "float32"),
    }
    out = gpu.run_kernel(kernel, arrays)
    split = qkv[:length].reshape(length, -1, shape.size)
    turning = shape.query + shape.key_value
    cos, sin = reference.cos_sin(table, CONTEXT, np.arange(position, position + length).astype(np.uint32))
    turned = reference.rotate(split[:, :turning], cos, sin)
    assert_close(out["query"][:length], queries_for(cache, turned[:, : shape.query]))
    assert_untouched(out["query"][length:])
    kept = np.concatenate([turned[:, shape.query :], split[:, turning:]], axis=1)
    assert_cached(cache, out["cache"], position, kept)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize(("heads", "scheme"), [("mqa", "q4f16_1"), ("gqa_partial", "q0f32"), ("mha_partial", "q0f16")])
@pytest.mark.parametrize(("chunk", "length"), [(1, 1), (11, 8)])
def test_normalize_rotate_chunk(gpu: Gpu, chunk: int, length: int, heads: str, scheme: str, dtype: str) -> None:
    """Queries and keys have their norms, values none; a chunk of one is a decode step."""
    rng, shape = np.random.default_rng(9), HEADS[heads]
    cache, position = Cache(shape, CONTEXT, dtype), 253
    table = rope_table(10000.0 ** -(np.arange(shape.rotary // 2) / shape.rotary * 2), 1.0, CONTEXT)
    qkv = poison((chunk, shape.rows), "float32")
    qkv[:length] = rng.normal(0, 2, (length, shape.rows)).astype(np.float32)
    gammas = [gamma_of(rng, scheme, shape.size) for _ in range(2)]
    kernel = head_norm.normalize_rotate_chunk("rotate", cache, chunk, norm_of(scheme), STATE_WORDS)
    arrays = {
        "qkv": qkv,
        "query_gamma": gammas[0],
        "key_gamma": gammas[1],
        "state": state(position, 0, length if chunk > 1 else 0),
        "rope": table,
        "cache": empty_cache(cache),
        "query": poison((chunk, shape.query, shape.size), "float32"),
    }
    out = gpu.run_kernel(kernel, arrays)
    split = qkv[:length].reshape(length, -1, shape.size).astype(np.float64)
    query, key, value = np.split(split, [shape.query, shape.query + shape.key_value], axis=1)
    cos, sin = reference.cos_sin(table, CONTEXT, np.arange(position, position + length).astype(np.uint32))
    query, key = (
        reference.rotate(reference.rms_norm(part, gamma, EPSILON), cos, sin)
        for part, gamma in zip((query, key), gammas, strict=True)
    )
    assert_close(out["query"][:length], queries_for(cache, query))
    assert_untouched(out["query"][length:])
    assert_cached(cache, out["cache"], position, np.concatenate([key, value], axis=1))


def test_rope_table_is_exact_at_long_contexts() -> None:
    """The two-level table gives cos and sin of large angles to f32's precision, which a f32 product would not."""
    inv_freq = 500000.0 ** -(np.arange(0, 64) / 64)
    context = 131072
    positions = np.array([0, 255, 256, 65537, 131071], np.uint32)
    cos, sin = reference.cos_sin(rope_table(inv_freq, 1.0, context), context, positions)
    angles = positions[:, None].astype(np.float64) * inv_freq
    np.testing.assert_allclose(cos, np.cos(angles), atol=3e-7)
    np.testing.assert_allclose(sin, np.sin(angles), atol=3e-7)
