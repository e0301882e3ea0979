"""Values that were quantized elsewhere, put into a row of our table as the integers that they are: no float between.

Knows what a format can hold (`Steps`) and decoded rows of it (`Groups`); says which scheme holds several formats at
once with the fewest bits, and packs. Knows no file and no format by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError
from ..models.base import WeightSpec
from .quantize import join_pairs, pack
from .schemes import CODED, ORDERED, SCHEMES, Scheme


@dataclass(frozen=True)
class Steps:
    """What a quantized format can say: q from `least` to `most`, and value q * scale (+ bias), a group at a time.

    `exact`: its scales and biases are float16 numbers; otherwise they are rounded to float16, and nothing else is.
    `codebook`: all that q can be, in rising order, where that is not every whole number in between.
    `zeros`: a bias is `-zero * scale`, the zero point a whole number, which a scheme may keep in the bias's place.
    """

    name: str
    least: int
    most: int
    group_size: int
    bias: bool
    exact: bool
    zeros: bool = False
    codebook: tuple[int, ...] = ()

    @property
    def offset(self) -> int:
        """What makes q unsigned: a power of two, so that `offset * scale` is as exact as the scale."""
        return 1 << (-self.least - 1).bit_length() if self.least < 0 else 0


@dataclass(frozen=True)
class Floats:
    """A format whose elements are floats by themselves; `exact`: float16 numbers."""

    name: str
    exact: bool


@dataclass(frozen=True)
class Held:
    """How a source holds a weight: its formats, and the scheme that takes the values of them all as they are."""

    scheme: Scheme
    exact: bool  # else to the rounding of scales (of floats: of elements) to float16
    formats: tuple[str, ...]
    obstacle: str | None = None  # why none takes them: the scheme is then what they are quantized to again, if at all


@dataclass(frozen=True)
class Groups:
    """Rows of a quantized format: q (R, K) in 8 bits, signed where its `Steps` are; scale and bias (R, groups).

    Where the bias is `-zero * scale` there are the zero points besides.
    """

    q: NDArray[np.int8] | NDArray[np.uint8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    zeros: NDArray[np.float32] | None = None

    @classmethod
    def with_zeros(cls, q: NDArray[np.uint8], scale: NDArray[np.float32], zeros: NDArray) -> Self:
        """Rows whose elements are `(q - zero) * scale`."""
        zeros = zeros.astype(np.float32)
        return cls(q, scale, -zeros * scale, zeros)


def holds(scheme: Scheme, steps: Steps) -> bool:
    """Whether every value of the format is one of the scheme's, but for the rounding that `Steps.exact` speaks of."""
    if not scheme.group_size or steps.group_size % scheme.group_size:
        return False
    if scheme.codebook:
        return scheme.codebook == steps.codebook
    if scheme.zeros and steps.bias and not steps.zeros:
        return False
    if scheme.bias:
        return steps.most + steps.offset <= scheme.largest
    return not steps.bias and -scheme.zero_point <= steps.least and steps.most <= scheme.reach


def held_as(formats: Sequence[Steps | Floats], ordered: bool = False) -> Held | None:
    """The scheme with the fewest bits that holds the values of all these, in act-order or not; None for none.

    Beside floats there is no step that all share: then all elements are floats, of 16 bits.
    """
    names = tuple(dict.fromkeys(part.name for part in formats))
    steps = [part for part in formats if isinstance(part, Steps)]
    if len(steps) < len(formats):
        return Held(SCHEMES["q0f16"], not steps and all(part.exact for part in formats), names)
    table = ORDERED if ordered else SCHEMES | CODED
    fitting = [s for s in table.values() if all(holds(s, part) for part in steps)]

    def exact(scheme: Scheme) -> bool:
        return all(part.exact and (scheme.zeros or not part.zeros) for part in steps)

    best = min(fitting, key=lambda scheme: (bits_per_weight(scheme), not exact(scheme)), default=None)
    return None if best is None else Held(best, exact(best), names)


def bits_per_weight(scheme: Scheme) -> float:
    """What an element takes with its share of a group's scale and bias."""
    return scheme.bits + (16 * (1 + scheme.bias) / scheme.group_size if scheme.group_size else 0)


def pack_groups(spec: WeightSpec, steps: Steps, groups: Groups, scheme: Scheme) -> list[NDArray]:
    """Words, and scales with the biases or zero points where the scheme has them, as `parameter_layout` describes them.

    The scheme holds the format. Raises WispError for a scale or a bias that float16 does not hold.
    """
    rows, columns = groups.q.shape
    scale, bias = groups.scale, groups.bias
    offset = scheme.zero_point
    if scheme.bias:
        offset = steps.offset
        if scheme.zeros:
            bias = np.full_like(scale, offset) if groups.zeros is None else groups.zeros
        elif bias is None:
            bias = scale * np.float32(-offset)
    factors = [_float16(spec, "scale", scale)] + ([_float16(spec, "bias", bias)] if bias is not None else [])
    times, count = steps.group_size // scheme.group_size, scheme.groups(columns)
    if times > 1:  # each of our groups is a part of one of theirs
        factors = [np.repeat(factor, times, axis=1)[:, :count] for factor in factors]
    if scheme.codebook:
        q = np.searchsorted(scheme.codebook, groups.q).astype(np.uint8)
    else:
        q = groups.q.view(np.uint8) + np.uint8(offset)  # modulo 256, which is right for signed ones
    padding = -columns % scheme.group_size
    if padding:
        q = np.pad(q, ((0, 0), (0, padding)), constant_values=scheme.zero_point)
    words = pack(np.ascontiguousarray(q).reshape(rows, -1), scheme)
    return [words, join_pairs(*factors) if scheme.bias else factors[0]]


def _float16(spec: WeightSpec, what: str, values: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        if not np.isfinite(values).all():
            raise WispError(
                f"weight '{spec.name}' holds NaN or infinity",
                got=f"a {what} that is not finite",
                expected="finite numbers",
                remedy=f"repair the checkpoint (its tensors {', '.join(spec.sources)})",
            )
        raise WispError(
            f"a {what} of weight '{spec.name}' does not fit float16",
            got=f"{np.abs(values).max():g}",
            expected="at most 65504",
            remedy="compile with --quant q0f32",
        )
    return rounded
