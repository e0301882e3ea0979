"""The scale of a group of weights: MLC's rule, and the search for the scale that leaves the least squared error.

Knows float32 groups `(..., group_size)` and the range of a quantized element, `-zero_point..zero_point` steps. Knows
nothing of packing, names or checkpoints. Whatever the rule, what is stored is one float16 scale a group; of an affine
group, whose elements are `0..largest` steps above its bias, one float16 bias as well.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Rule = Literal["absmax", "search"]
RULES: tuple[Rule, ...] = get_args(Rule)

FLOAT16_MAX = 65504.0
# The least scale of a group that is not all zeros: a device may flush float16 subnormals and would lose the group.
FLOAT16_MIN_NORMAL = 2.0**-14
MOST_ZERO = 2048  # the largest zero point: whole numbers up to here are float16 numbers
# Where the largest element of a group is tried, in steps relative to `zero_point`, where MLC's rule puts it. More steps
# than the range holds clip it, for the sake of all others; that pays up to about two.
TRIED_STEPS = tuple(np.arange(-1, 2.25, 0.25).tolist())
# What is tried of an affine group's range: these shares of it cut off, below and above, for the sake of what lies
# between; the range with a little more (a negative share) puts other elements onto whole steps.
TRIED_CUTS = (-0.03, 0.03, 0.09)
# How often the best line is drawn anew through the steps that the last one rounds to.
REFINEMENTS = 2
# An element may count so little by its importance that clipping it harder pays: up to a scale of half the size.
TRIED_SHRINKING = (0.7, 0.6, 0.5)


def absmax_scales(groups: NDArray[np.float32], zero_point: int) -> NDArray[np.float32]:
    """MLC's rule, `(..., group_size)` -> `(...)`: the largest element lies at the end of the range. Not yet rounded."""
    flat = np.abs(groups.reshape(-1, groups.shape[-1]))
    # Reducing over the first axis of the transposed copy is several times as fast as over a short last one.
    largest: NDArray[np.float32] = np.maximum.reduce(np.ascontiguousarray(flat.T), axis=0)
    return (largest / np.float32(zero_point)).reshape(groups.shape[:-1])


def storable(scales: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rounded to float16: 0 stays 0, all others are at least the smallest normal number."""
    return np.where(scales > 0, np.clip(scales, FLOAT16_MIN_NORMAL, FLOAT16_MAX), 0).astype(np.float16)


def steps_of(groups: NDArray[np.float32], scales: NDArray[np.float16], zero_point: int) -> NDArray[np.float32]:
    """Each element in whole steps of its group's scale, within the range."""
    steps = groups / np.where(scales > 0, scales, 1).astype(np.float32)[..., None]
    np.rint(steps, out=steps)
    return np.clip(steps, -zero_point, zero_point, out=steps)


def search_scales(
    groups: NDArray[np.float32],
    scales: NDArray[np.float16],
    zero_point: int,
    importance: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Scales of least squared error, never of more than those given; and the elements in steps of them.

    `importance`, broadcast to `groups`, weighs the squared error of an element: for the columns of a matrix, the mean
    square of the activations that they are multiplied with. Each of a few scales rounds the elements to whole steps q;
    for given q the best scale is sum(w q) / sum(q^2), which takes sum(w q)^2 / sum(q^2) off the error.
    """
    weighted = groups if importance is None else groups * importance
    largest = absmax_scales(groups, 1)
    inverse = (1 / np.maximum(largest, 1e-30)).astype(np.float32)
    tried = [zero_point + step for step in TRIED_STEPS]
    if importance is not None:
        tried += [zero_point / factor for factor in TRIED_SHRINKING]
    q = np.empty_like(groups)
    best, found = np.zeros_like(largest), np.zeros_like(largest)
    for steps in tried:
        np.multiply(groups, (np.float32(steps) * inverse)[..., None], out=q)
        np.rint(q, out=q)
        np.clip(q, -zero_point, zero_point, out=q)
        product = np.vecdot(weighted, q)
        norm = np.vecdot(q, q) if importance is None else np.vecdot(q * q, importance)
        scale = product / np.maximum(norm, 1e-30)
        gain = product * scale
        better = gain > best
        np.copyto(best, gain, where=better)
        np.copyto(found, scale, where=better)
    found_scales = np.where(found > 0, storable(found), scales)
    own, q = steps_of(groups, scales, zero_point), steps_of(groups, found_scales, zero_point)
    better = _error(groups, q, found_scales, importance) < _error(groups, own, scales, importance)
    np.copyto(own, q, where=better[..., None])
    return np.where(better, found_scales, scales), own


def affine_scales(groups: NDArray[np.float32], largest: int) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Scales, not yet rounded, and biases: from the least element of a group to its largest in `largest` steps."""
    flat = np.ascontiguousarray(groups.reshape(-1, groups.shape[-1]).T)
    low, high = (reduce(flat, axis=0).reshape(groups.shape[:-1]) for reduce in (np.minimum.reduce, np.maximum.reduce))
    biases = storable_biases(low)
    scales = np.maximum(high - biases.astype(np.float32), 0) / np.float32(largest)
    return scales, biases


def search_affine(
    groups: NDArray[np.float32],
    scales: NDArray[np.float16],
    biases: NDArray[np.float16],
    largest: int,
    importance: NDArray[np.float32],
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float32]]:
    """Scales and biases of least squared error, never of more than those given; and the elements in steps.

    `importance`, broadcast to `groups`, weighs the squared error of an element, and is 0 for one that does not count.
    Each of a few ranges rounds the elements to whole steps q; for given q the best scale and bias are the line that
    weighted least squares draw through them, which takes covariance^2 / variance off the error.
    """
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    middle = (low + high) / 2
    centred = groups - middle[..., None]  # or the sums would lose what they differ by
    weights = np.broadcast_to(importance, groups.shape)
    weighted, total = centred * importance, np.maximum(importance.sum(axis=-1), 1e-30)
    mean = weighted.sum(axis=-1) / total
    best, slope, offset = np.full_like(low, -1), np.zeros_like(low), np.zeros_like(low)
    q, product = np.empty_like(groups), np.empty_like(groups)

    def try_line(step: NDArray[np.float32], start: NDArray[np.float32]) -> None:
        """Round the elements to steps from `start` on, draw the best line through them, keep it if none was better."""
        inverse = 1 / np.maximum(step, 1e-30)
        np.multiply(centred, inverse[..., None], out=q)
        np.subtract(q, (start * inverse)[..., None], out=q)
        np.rint(q, out=q)
        np.clip(q, 0, largest, out=q)
        np.multiply(q, importance, out=product)
        mean_q = product.sum(axis=-1) / total
        covariance = np.vecdot(weighted, q) - mean * mean_q * total
        variance = np.vecdot(product, q) - mean_q * mean_q * total
        found = covariance / np.maximum(variance, 1e-30)
        gain = covariance * found
        better = (gain > best) & (covariance > 0) & (variance > 0)
        np.copyto(best, gain, where=better)
        np.copyto(slope, found, where=better)
        np.copyto(offset, mean - found * mean_q, where=better)

    span = high - low
    for below in TRIED_CUTS:
        for above in TRIED_CUTS:
            try_line(span * np.float32((1 - below - above) / largest), low - middle + span * np.float32(below))
    for _ in range(REFINEMENTS):
        try_line(slope.copy(), offset.copy())
    found_scales, found_biases = storable(slope), storable_biases(offset + middle)
    own, found = (
        affine_steps_of(groups, scales, biases, largest),
        affine_steps_of(groups, found_scales, found_biases, largest),
    )
    better = _affine_error(groups, found, found_scales, found_biases, weights) < _affine_error(
        groups, own, scales, biases, weights
    )
    np.copyto(own, found, where=better[..., None])
    return np.where(better, found_scales, scales), np.where(better, found_biases, biases), own


def storable_biases(biases: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rounded to float16, of which none is subnormal."""
    least = np.float32(FLOAT16_MIN_NORMAL)
    rounded = np.where(np.abs(biases) < least, np.rint(biases / least) * least, biases)
    return np.clip(rounded, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)


def affine_steps_of(
    groups: NDArray[np.float32], scales: NDArray[np.float16], biases: NDArray[np.float16], largest: int
) -> NDArray[np.float32]:
    """Each element in whole steps of its group's scale above its bias, within the range."""
    steps = groups - biases.astype(np.float32)[..., None]
    steps /= np.where(scales > 0, scales, 1).astype(np.float32)[..., None]
    np.rint(steps, out=steps)
    np.clip(steps, 0, largest, out=steps)
    steps *= (scales > 0)[..., None]
    return steps


def with_zero_points(
    scales: NDArray[np.float16], biases: NDArray[np.float16]
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Scales, and in place of biases the zero points, whole numbers, that make `-zero * scale` come nearest to them.

    A group that is alike, without a scale, is one step of its own value's size from zero; one that lies far from zero
    takes larger steps, as a zero point is at most so many.
    """
    sizes = np.abs(biases)
    scales = np.where(scales > 0, np.maximum(scales, sizes / np.float16(MOST_ZERO)), sizes)
    zeros = np.rint(-biases.astype(np.float32) / np.where(scales > 0, scales, 1).astype(np.float32))
    return scales, np.clip(zeros, -MOST_ZERO, MOST_ZERO).astype(np.float16)


def _error(
    groups: NDArray[np.float32],
    steps: NDArray[np.float32],
    scales: NDArray[np.float16],
    importance: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """The squared error of each group."""
    difference = steps * scales.astype(np.float32)[..., None]
    difference -= groups
    return np.vecdot(difference, difference if importance is None else difference * importance)


def _affine_error(
    groups: NDArray[np.float32],
    steps: NDArray[np.float32],
    scales: NDArray[np.float16],
    biases: NDArray[np.float16],
    importance: NDArray[np.float32],
) -> NDArray[np.float32]:
    difference = steps * scales.astype(np.float32)[..., None]
    difference += biases.astype(np.float32)[..., None]
    difference -= groups
    return np.vecdot(difference, difference * importance)


def reference_scale(group: Sequence[float], zero_point: int, rule: Rule, importance: Sequence[float] = ()) -> float:
    """The scale of one group, element by element: the definition that the functions above are tested against."""
    largest = max(abs(value) for value in group)
    if largest == 0:
        return 0.0
    weights = importance or [1.0] * len(group)

    def rounded(scale: float) -> float:
        return float(np.float16(min(max(scale, FLOAT16_MIN_NORMAL), FLOAT16_MAX)))

    def steps(scale: float) -> list[int]:
        return [min(max(round(value / scale), -zero_point), zero_point) for value in group]

    def error(scale: float) -> float:
        return sum(h * (value - q * scale) ** 2 for h, value, q in zip(weights, group, steps(scale), strict=True))

    absmax = rounded(float(np.float32(largest) / np.float32(zero_point)))
    if rule == "absmax":
        return absmax
    best = found = 0.0
    tried = [zero_point + step for step in TRIED_STEPS]
    for position in tried + ([zero_point / factor for factor in TRIED_SHRINKING] if importance else []):
        q = steps(largest / position)
        product = sum(h * value * step for h, value, step in zip(weights, group, q, strict=True))
        norm = sum(h * step * step for h, step in zip(weights, q, strict=True))
        if norm > 0 and product * product / norm > best:
            best, found = product * product / norm, product / norm
    return min(absmax, rounded(found), key=error) if found > 0 else absmax


def reference_zero_point(scale: float, bias: float) -> tuple[float, float]:
    """The scale and the zero point of one affine group."""
    scale = max(scale, abs(bias) / MOST_ZERO) if scale else abs(bias)
    return scale, float(min(max(round(-bias / scale), -MOST_ZERO), MOST_ZERO)) if scale else 0.0


def reference_affine_scale(
    group: Sequence[float], largest: int, rule: Rule = "absmax", importance: Sequence[float] = ()
) -> tuple[float, float]:
    """The scale and the bias of one affine group, element by element."""
    low, high = float(min(group)), float(max(group))

    def rounded(scale: float, bias: float) -> tuple[float, float]:
        if abs(bias) < FLOAT16_MIN_NORMAL:
            bias = round(bias / FLOAT16_MIN_NORMAL) * FLOAT16_MIN_NORMAL
        return (
            float(np.float16(min(max(scale, FLOAT16_MIN_NORMAL), FLOAT16_MAX))),
            float(np.float16(min(max(bias, -FLOAT16_MAX), FLOAT16_MAX))),
        )

    _, bias = rounded(1.0, low)
    if high <= bias:
        return 0.0, bias
    whole = rounded(float(np.float32(high - bias) / np.float32(largest)), low)
    if rule == "absmax" or high == low:
        return whole
    weights = importance or [1.0] * len(group)

    def steps(scale: float, bias: float) -> list[int]:
        return [min(max(round((value - bias) / scale), 0), largest) for value in group]

    def error(line: tuple[float, float]) -> float:
        scale, bias = line
        q = steps(scale, bias)
        return sum(h * (value - step * scale - bias) ** 2 for h, value, step in zip(weights, group, q, strict=True))

    total = sum(weights)
    mean = sum(h * value for h, value in zip(weights, group, strict=True)) / total
    best, found = 0.0, whole
    ranges = [(below, above) for below in TRIED_CUTS for above in TRIED_CUTS]
    for turn in range(len(ranges) + REFINEMENTS):
        line = found
        if turn < len(ranges):
            below, above = ranges[turn]
            line = (high - low) * (1 - below - above) / largest, low + (high - low) * below
        q = steps(*line)
        mean_q = sum(h * step for h, step in zip(weights, q, strict=True)) / total
        variance = sum(h * (step - mean_q) ** 2 for h, step in zip(weights, q, strict=True))
        covariance = sum(h * (value - mean) * (step - mean_q) for h, value, step in zip(weights, group, q, strict=True))
        if variance > 0 and covariance > 0 and covariance**2 / variance > best:
            slope = covariance / variance
            best, found = covariance**2 / variance, (slope, mean - slope * mean_q)
    return min(whole, rounded(*found), key=error)
