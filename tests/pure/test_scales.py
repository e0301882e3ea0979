"""The search for scales: never worse than MLC's rule, as good as its twin, and better where it says so."""

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.models.base import matrix
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.scales import (
    FLOAT16_MIN_NORMAL,
    RULES,
    Rule,
    absmax_scales,
    affine_scales,
    affine_steps_of,
    reference_affine_scale,
    reference_scale,
    search_affine,
    search_scales,
    storable,
)
from compiler.weights.schemes import SCHEMES, Scheme

GROUPED = [scheme for scheme in SCHEMES.values() if scheme.group_size == 32 and not scheme.bias]
ROWS, GROUPS = 24, 8


def draws(kind: str, seed: int = 0) -> NDArray[np.float32]:
    """Groups of one kind, (ROWS, GROUPS, 32)."""
    rng, shape = np.random.default_rng(seed), (ROWS, GROUPS, 32)
    values = {
        "gauss": lambda: rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(size=shape),
        "student": lambda: rng.standard_t(2, shape),
        "cauchy": lambda: np.clip(rng.standard_cauchy(shape), -4e5, 4e5),
        "uniform": lambda: rng.uniform(-1, 1, shape),
        "zero": lambda: np.zeros(shape),
        "one": lambda: np.eye(32)[rng.integers(0, 32, shape[:2])] * rng.standard_normal((ROWS, GROUPS, 1)),
        "equal": lambda: np.full(shape, -0.37),
        "denormal": lambda: rng.standard_normal(shape) * 1e-40,
        "tiny": lambda: rng.standard_normal(shape) * 10.0 ** rng.uniform(-9, -3, (ROWS, GROUPS, 1)),
        "huge": lambda: rng.uniform(-4.5e5, 4.5e5, shape),
        "mixed": lambda: rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 3, shape),
    }
    return values[kind]().astype(np.float32)


KINDS = (
    *("gauss", "laplace", "student", "cauchy", "uniform", "zero"),
    *("one", "equal", "denormal", "tiny", "huge", "mixed"),
)
IMPORTANCES = {
    "unweighted": None,
    "skewed": np.random.default_rng(5).lognormal(0, 3, (GROUPS, 32)).astype(np.float32),
    "mostly zero": np.where(np.random.default_rng(6).random((GROUPS, 32)) < 0.9, 0, 1).astype(np.float32),
}


def errors(
    groups: NDArray[np.float32], scales: NDArray[np.floating], zero_point: int, importance: NDArray | None
) -> NDArray[np.float64]:
    """The squared error of each group, in float64."""
    exact, step = groups.astype(np.float64), scales.astype(np.float64)[..., None]
    q = np.clip(np.rint(exact / np.where(step > 0, step, 1)), -zero_point, zero_point)
    return ((exact - q * step) ** 2 * (1 if importance is None else importance)).sum(axis=-1)


@pytest.mark.parametrize("importance", IMPORTANCES.values(), ids=IMPORTANCES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", GROUPED, ids=lambda s: s.name)
def test_no_group_is_worse_than_by_mlcs_rule(scheme: Scheme, kind: str, importance: NDArray | None) -> None:
    groups = draws(kind)
    absmax = storable(absmax_scales(groups, scheme.reach))
    found, q = search_scales(groups, absmax, scheme.reach, importance)
    ours = errors(groups, found, scheme.reach, importance)
    theirs = errors(groups, absmax, scheme.reach, importance)
    assert (ours <= theirs * (1 + 1e-5)).all()
    assert found.dtype == np.float16
    assert (np.abs(q) <= scheme.reach).all()
    assert ((found == 0) == (groups == 0).all(axis=-1)).all()
    assert (found[found > 0] >= FLOAT16_MIN_NORMAL).all()


@pytest.mark.parametrize("importance", IMPORTANCES.values(), ids=IMPORTANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_search_is_as_good_as_its_twin(kind: str, importance: NDArray | None) -> None:
    groups = draws(kind)[:3]
    absmax = storable(absmax_scales(groups, 7))
    found, _ = search_scales(groups, absmax, 7, importance)
    weights = [[] for _ in range(GROUPS)] if importance is None else importance.tolist()
    twin = np.array([[reference_scale(g, 7, "search", h) for g, h in zip(row, weights, strict=True)] for row in groups])
    # Elements at a tie may be rounded either way, and candidates of nearly the same gain be taken either way.
    ours, theirs = errors(groups, found, 7, importance), errors(groups, twin, 7, importance)
    energy = (np.square(groups, dtype=np.float64) * (1 if importance is None else importance)).sum(axis=-1)
    assert np.abs(ours - theirs).sum() <= 1e-3 * theirs.sum() + 1e-6 * energy.sum()
    assert np.mean(np.abs(ours - theirs) <= 1e-3 * theirs + 1e-6 * energy) >= 0.95


@pytest.mark.parametrize("largest", [15, 63])
@pytest.mark.parametrize("kind", ["gauss", "student", "one", "equal", "tiny"])
@pytest.mark.parametrize("weights", [None, "skewed", "mostly zero"])
def test_lines_against_the_slow_twin(weights: str | None, kind: str, largest: int) -> None:
    """No group is worse than by its range; the error is that of the twin, but for ties."""
    groups = draws(kind, 5)
    importance = IMPORTANCES[weights] if weights else np.ones(groups.shape[-2:], np.float32)
    assert importance is not None
    scales, biases = affine_scales(groups, largest)
    ranges = storable(scales), biases, affine_steps_of(groups, storable(scales), biases, largest)
    found = search_affine(groups, ranges[0], ranges[1], largest, importance)

    def error(scales: NDArray, biases: NDArray, steps: NDArray) -> NDArray:
        values = steps.astype(np.float64) * scales[..., None].astype(np.float64) + biases[..., None].astype(np.float64)
        summed: NDArray = (np.square(values - groups) * importance).sum(axis=-1)
        return summed

    assert ((found[2] >= 0) & (found[2] <= largest)).all()
    energy = (np.square(groups, dtype=np.float64) * importance).sum(axis=-1)
    ours = error(*found)
    assert (ours <= error(*ranges) + 1e-6 * energy).all()
    lines = [
        [reference_affine_scale(g, largest, "search", h) for g, h in zip(row, importance.tolist(), strict=True)]
        for row in groups.tolist()
    ]
    twin = np.array(lines, np.float16)
    theirs = error(twin[..., 0], twin[..., 1], affine_steps_of(groups, twin[..., 0], twin[..., 1], largest))
    if (
        weights != "mostly zero"
    ):  # few elements are met almost exactly by many lines: which, float32 and float64 differ in
        assert np.abs(ours - theirs).sum() <= 0.02 * theirs.sum() + 1e-6 * energy.sum()


@pytest.mark.parametrize(("kind", "most"), [("gauss", 0.85), ("laplace", 0.9), ("student", 0.97)], ids=str)
@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if s.bias and s.bits == 4], ids=lambda s: s.name)
def test_the_error_of_affine_groups_becomes_smaller(scheme: Scheme, kind: str, most: float) -> None:
    """Most where a few columns count: a group whose end hardly counts is cut."""
    weight = np.concatenate([draws(kind, seed).reshape(ROWS, -1) for seed in range(4)])
    spec = matrix("w", weight.shape[1], {"w": len(weight)}, "down", 0)
    importance = np.random.default_rng(9).lognormal(0, 1.5, (weight.shape[1],)).astype(np.float32)
    error: dict[str, float] = {}
    cases: list[tuple[str, Rule, NDArray[np.float32] | None]] = [
        ("range", "absmax", None),
        ("plain", "search", None),
        ("weighed", "search", importance),
    ]
    for name, rule, weights in cases:
        stored = quantize(spec, weight, scheme, None, rule, weights)
        difference = dequantize(spec, dict(stored), scheme) - weight
        error[name] = float((np.square(difference) * importance).sum())
    if scheme.zeros:  # an integer zero point leaves less to search for
        assert error["weighed"] < 0.97 * error["plain"]
        assert error["weighed"] < error["range"]
    else:
        assert error["weighed"] < most * error["plain"] < most * error["range"]


@pytest.mark.parametrize(
    ("kind", "most"), [("gauss", 0.89), ("laplace", 0.92), ("uniform", 0.86), ("student", 0.97)], ids=str
)
@pytest.mark.parametrize("scheme", GROUPED, ids=lambda s: s.name)
def test_the_error_becomes_smaller(scheme: Scheme, kind: str, most: float) -> None:
    weight = np.concatenate([draws(kind, seed).reshape(ROWS, -1) for seed in range(8)])
    spec = matrix("w", weight.shape[1], {"w": len(weight)}, "down", 0)
    error = {
        rule: np.square(dequantize(spec, dict(quantize(spec, weight, scheme, rule=rule)), scheme) - weight)
        for rule in RULES
    }
    more = 0.0 if scheme.bits in (4, 8) else 0.05  # bits, or smaller groups, leave the search less to find
    bound = most + more if scheme.bits == 4 or kind != "student" else 0.995
    assert error["search"].sum() < bound * error["absmax"].sum()


@pytest.mark.parametrize("scheme", GROUPED, ids=lambda s: s.name)
def test_what_lies_on_a_grid_stays_exact(scheme: Scheme) -> None:
    """Weights that were quantized by MLC's rule once, as training with quantization in mind leaves them."""
    rng = np.random.default_rng(3)
    scales = rng.uniform(0.001, 0.1, (16, 4, 1)).astype(np.float16).astype(np.float32)
    q = rng.integers(-scheme.reach, scheme.reach + 1, (16, 4, 32))
    q[..., 0] = scheme.reach
    weight, spec = (q * scales).astype(np.float32).reshape(16, 128), matrix("w", 128, {"w": 16}, "down", 0)
    stored = dict(quantize(spec, weight, scheme, rule="search"))
    np.testing.assert_array_equal(dequantize(spec, stored, scheme), weight)
    # And where the grid's own scale is not the largest element's, the source has to say it.
    q[..., 0] = 1
    weight = (q * scales).astype(np.float32).reshape(16, 128)
    source = scales[:, :, 0].astype(np.float16)
    stored = dict(quantize(spec, weight, scheme, lambda start, stop: source[start:stop], rule="search"))
    np.testing.assert_array_equal(stored["w.q_scale"], source)
    np.testing.assert_array_equal(dequantize(spec, stored, scheme), weight)


@pytest.mark.parametrize("columns", [40, 64])
def test_importance_lowers_the_error_of_the_product(columns: int) -> None:
    """Activations of which some columns are fifty times as large as others."""
    rng, scheme = np.random.default_rng(1), SCHEMES["q4f16_1"]
    weight, spec = rng.standard_normal((96, columns)).astype(np.float32), matrix("w", columns, {"w": 96}, "down", 0)
    x = rng.standard_normal((500, columns)) * np.where(rng.random(columns) < 0.15, 50, 1)
    importance = np.square(x).mean(axis=0).astype(np.float32)
    error = {}
    for name, weights in (("plain", None), ("weighted", importance)):
        stored = dict(quantize(spec, weight, scheme, rule="search", importance=weights))
        error[name] = np.square(x @ (dequantize(spec, stored, scheme) - weight).T).sum()
    assert error["weighted"] < 0.7 * error["plain"]


@pytest.mark.parametrize("rule", RULES)
def test_a_row_does_not_depend_on_its_block(rule: Rule) -> None:
    weight = np.random.default_rng(2).standard_normal((300, 1000)).astype(np.float32)
    spec, scheme = matrix("w", 1000, {"w": 300}, "down", 0), SCHEMES["q4f16_1"]
    whole = quantize(spec, weight, scheme, rule=rule)
    parts = quantize(spec, iter([weight[:1], weight[1:130], weight[130:]]), scheme, rule=rule)
    for (_, one), (_, other) in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
